"""Boot profiles as documents: what they hold, whose they are, and what is refused."""

from __future__ import annotations

import json

import pytest
import trio

from nebfs.blocks import SLOT_SIZE, Documents
from nebfs.content.profiling import Part, Profile, Shelf, lineage
from nebfs.content.profiling.merging import LAST, merged
from nebfs.content.profiling.profile import LARGEST, LARGEST_DOCUMENT, MOST_PARTS
from nebfs.content.profiling.recorder import MOST_SLOTS, Recorder
from nebfs.errors import BadAnswer
from nebfs.model import Checksum, Content, Locator, Revision

GIB = 1 << 30
KEY = "0123456789abcdef" * 4


def profile(**changes) -> dict:
    made = Profile(
        key=KEY,
        image="http://host/image",
        revision=Revision(GIB, '"1"', "yesterday"),
        boots=3,
        recorded=1.5e9,
        parts=(Part(5 * SLOT_SIZE, 2 * SLOT_SIZE, 7), Part(0, SLOT_SIZE, 1)),
        sums=((5 * SLOT_SIZE, 0xABC), (0, 1)),
    )
    return {**made.record(), **changes}


def decoded(record) -> Profile:
    return Profile.decode(json.dumps(record).encode())


def test_what_is_written_is_read_again():
    found = decoded(profile())
    assert found.record() == profile()
    assert found.length == 3 * SLOT_SIZE
    assert list(found.slots()) == [5, 6, 0]


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "something"},
        {"version": 2},
        {"id": "../../../etc/passwd"},
        {"id": KEY + "0"},
        {"id": KEY.upper()},
        {"size": 0},
        {"size": -1},
        {"size": True},
        {"size": 1.5},
        {"size": 1 << 80},
        {"image": "x" * 5000},
        {"image": None},
        {"etag": 1},
        {"boots": 0},
        {"recorded": float("nan")},
        {"recorded": float("inf")},
        {"recorded": 1 << 4000},
        {"recorded": "now"},
        {"ranges": []},
        {"ranges": "all"},
        {"ranges": [[0, 1]]},
        {"ranges": [[-1, 1, 1]]},
        {"ranges": [[0, 0, 1]]},
        {"ranges": [[GIB, 1, 1]]},
        {"ranges": [[GIB - 1, 2, 1]]},
        {"ranges": [[0, 1, 0]]},
        {"ranges": [[0, 1, 256]]},
        {"ranges": [[0.0, 1, 1]]},
        {"ranges": [[0, SLOT_SIZE, 1]] * (MOST_PARTS + 1)},
        {"ranges": [[0, LARGEST, 1], [0, 1, 1]]},
        {"checksums": [[1, "0" * 16]]},
        {"checksums": [[0, "xyz"]]},
        {"checksums": [[0, 5]]},
        {"checksums": [[GIB, "0" * 16]]},
        {"checksums": [[0, "0" * 16]] * 65},
        {"checksums": None},
    ],
)
def test_what_cannot_be_is_refused(changes):
    with pytest.raises(BadAnswer):
        decoded(profile(**changes))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"format": ' + b"9" * 10_000 + b"}",
        b" " * (LARGEST_DOCUMENT + 1),
    ],
)
def test_what_is_no_profile_is_refused(raw):
    with pytest.raises(BadAnswer):
        Profile.decode(raw)


def at(address, **more):
    return Content(Locator("http", address), **more)


def test_versions_of_an_image_share_a_lineage_and_other_images_do_not():
    image = at("http://host/alpine/3.20/amd64/20260101_13:00/disk.qcow2")
    assert lineage(image) == lineage(at("http://host/alpine/3.20/amd64/20261231_07:30/disk.qcow2"))
    assert lineage(image) == lineage(at(image.locator.address, version="2", view="raw"))
    checked = at(image.locator.address, checksums=(Checksum("md5", "0" * 32),))
    assert lineage(image) == lineage(checked)
    assert lineage(image) != lineage(at("http://host/alpine/3.21/amd64/20260101_13:00/disk.qcow2"))
    assert lineage(at("http://host/12345678901/a")) != lineage(at("http://host/12345678902/a"))


def test_who_asks_is_no_part_of_a_lineage_and_what_is_asked_for_is():
    image = lineage(at("https://host/get?file=1"))
    assert image == lineage(at("https://bob:canary@host/get?file=1&X-Amz-Signature=1&token=a"))
    assert image != lineage(at("https://host/get?file=2"))
    assert lineage(at("https://[broken/get?file=1")) == lineage(at("https://[broken/get?file=1"))


def slots_of(parts):
    return [s for p in parts for s in range(p.offset // SLOT_SIZE, -(-p.end // SLOT_SIZE))]


def after(old, *boots):
    for boot in boots:
        parts = merged(old, boot, GIB)
        old = Profile(KEY, "", Revision(GIB), 1, 0.0, parts)
    return old


def test_the_first_boot_is_the_profile_in_its_order():
    parts = merged(None, [9, 3, 4, 5, 1], GIB)
    assert parts == (
        Part(9 * SLOT_SIZE, SLOT_SIZE),
        Part(3 * SLOT_SIZE, 3 * SLOT_SIZE),
        Part(SLOT_SIZE, SLOT_SIZE),
    )


def test_what_boots_share_comes_first_and_what_none_needs_any_more_leaves():
    found = after(None, [9, 3, 4, 1], [3, 9, 7, 1])
    assert slots_of(found.parts) == [9, 3, 1, 4, 7]
    for _ in range(LAST - 1):
        assert 4 in slots_of(found.parts)
        found = after(found, [9, 3, 1, 7])
    assert slots_of(found.parts) == [9, 3, 1, 7]


def test_a_boot_that_the_kernel_answered_mostly_counts_for_nothing():
    found = after(None, list(range(0, 200, 2)))
    assert merged(found, [0, 2, 4, 7], GIB) is None


def test_a_profile_is_never_more_than_a_quarter_of_the_image():
    size = 64 * SLOT_SIZE + 5
    parts = merged(None, list(range(0, 65, 2)), size)
    assert slots_of(parts) == list(range(0, 32, 2))
    tail = merged(None, [64, 1], size)
    assert tail[0] == Part(64 * SLOT_SIZE, 5)


def recorded(reads):
    recorder = Recorder(0.0)
    for offset, length in reads:
        recorder.note(offset, length, 1.0)
    return recorder


def test_a_copy_is_no_boot_and_a_look_is_none_either():
    slots = GIB // SLOT_SIZE
    copy = recorded((at, 1 << 20) for at in range(0, GIB // 8, 1 << 20))
    assert not copy.is_boot(slots)
    # The kernel sends what it reads ahead out of order.
    shuffled = recorded((at ^ (1 << 18), 1 << 18) for at in range(0, GIB // 8, 1 << 18))
    assert not shuffled.is_boot(slots)
    assert not recorded([(0, 512), (GIB - 512, 512)]).is_boot(slots)
    boot = recorded((n * 7919 * SLOT_SIZE % GIB, 4096) for n in range(300))
    assert boot.is_boot(slots)
    assert not boot.is_boot(599)  # more than half of an image is no boot
    # A boot that reads a large initrd in one go still is one.
    assert recorded(
        [(n * 7919 * SLOT_SIZE % GIB, 4096) for n in range(900)]
        + [(GIB // 2 + at, 1 << 20) for at in range(0, 60 << 20, 1 << 20)]
    ).is_boot(slots)


def test_a_recording_is_bounded():
    recorder = recorded((n * 3 * SLOT_SIZE, 1) for n in range(MOST_SLOTS + 100))
    assert recorder.full
    assert len(recorder.order) == MOST_SLOTS


async def test_profiles_are_found_listed_and_forgotten(tmp_path):
    shelf = Shelf(Documents(tmp_path))
    assert await shelf.keys() == []
    other = "f" * 64
    await shelf.save(decoded(profile()))
    await trio.sleep(0.02)  # the time of a file is what they are ordered by
    await shelf.save(decoded(profile(id=other)))
    (tmp_path / "catalogue-1.json").write_bytes(b"")
    (tmp_path / "boot-x.json").write_bytes(b"")
    assert await shelf.keys() == [other, KEY]
    assert (await shelf.load(KEY)).record() == profile()
    assert await shelf.forget(KEY)
    assert not await shelf.forget(KEY)
    assert await shelf.load(KEY) is None


async def test_a_document_that_is_another_one_s_is_none(tmp_path):
    documents = Documents(tmp_path)
    await documents.save(f"boot-{'f' * 64}.json", json.dumps(profile()).encode())
    await documents.save(f"boot-{'e' * 64}.json", b"{}")
    shelf = Shelf(documents)
    assert await shelf.load("f" * 64) is None
    assert await shelf.load("e" * 64) is None


async def test_the_oldest_profiles_leave_when_there_are_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr("nebfs.content.profiling.shelf.MOST", 3)
    shelf = Shelf(Documents(tmp_path))
    keys = [f"{n:064x}" for n in range(5)]
    for key in keys:
        await shelf.save(decoded(profile(id=key)))
        await trio.sleep(0.02)
    assert await shelf.keys() == keys[:1:-1]
