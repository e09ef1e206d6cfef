from __future__ import annotations

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from nebfs.catalog.saved import LAYOUT, pack, unpack
from nebfs.model import AppState, Lock, Permissions, Snapshot, Template, Trouble


async def test_a_snapshot_comes_back_equal(world, make):
    world.cloud._apps = [
        make.app(1, state=AppState.UNKNOWN, lock=Lock(1, 2, 3), permissions=Permissions(7, 4, 0)),
        make.app(2, template=Template((("A", "1"), ("A", Template((("B", ""),)))))),
    ]
    world.cloud._images = [make.image(100, snapshots=(Snapshot(0, "s", 1, 2, -1, True),))]
    snapshot = await world.survey()
    listing = snapshot.marketplaces[0]
    troubled = replace(listing.offers[0], contents=(), trouble=Trouble(5, "why"))
    listing = replace(listing, offers=(troubled, *listing.offers[1:]), trouble="down")
    snapshot = replace(snapshot, marketplaces=(listing, *snapshot.marketplaces[1:]))
    again = unpack(pack(snapshot))
    assert again == snapshot
    assert type(again.marketplaces[0].offers[0].app.state) is AppState


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: b"", "not a saved catalogue"),
        (lambda data: b"{}", "not a saved catalogue"),
        (lambda data: data.replace(b"catalogue %d " % LAYOUT, b"catalogue 0 ", 1), "version"),
        (lambda data: data.replace(b"catalogue %d " % LAYOUT, b"catalogue 9 ", 1), "version"),
        (lambda data: data[:-1], "damaged"),
        (lambda data: data.replace(b"alice", b"mally"), "damaged"),
        (lambda data: data + b"x", "damaged"),
    ],
)
async def test_a_file_that_is_not_ours_or_damaged_is_ignored_with_a_reason(world, spoil, reason):
    data = spoil(pack(await world.survey()))
    with capture_logs() as lines:
        assert unpack(data) is None
    assert reason in lines[0]["reason"]


async def test_fields_that_do_not_fit_are_ignored_without_quoting_them(world, monkeypatch):
    monkeypatch.setattr(
        "nebfs.catalog.saved._adapter",
        type("A", (), {"dump_json": lambda *_: b'{"taken":"canary"}'}),
    )
    data = pack(None)
    monkeypatch.undo()
    with capture_logs() as lines:
        assert unpack(data) is None
    assert "unexpected fields" in lines[0]["reason"]
    assert "canary" not in str(lines)
