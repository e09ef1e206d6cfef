"""The soak of an hour (see soak/), for some seconds; and that it notices what it is there for."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from tests.promises.soak import verdict
from tests.promises.soak.oracle import Handle, Oracle
from tests.promises.soak.pictures import draw
from tests.promises.soak.run import soak
from tests.promises.soak.troubles import SHORT, Happened
from tests.promises.soak.uses import FEW

MIB = 1 << 20


@pytest.mark.mounted
@pytest.mark.nginx
def test_everything_around_the_mount_fails_and_heals_while_it_is_used(tmp_path):
    with tempfile.TemporaryDirectory(prefix="nebfs-") as home:
        report = soak(
            0.25,
            20_26,
            Path(home),
            mix=FEW,
            pace=SHORT,
            size=6 * MIB,
            cache=16 * MIB,
            report=tmp_path / "report",
        )
    assert report.kept, f"{report}\n{report.findings}"
    assert report.samples[-1]["operations"] > 200
    assert len({(one.place, one.what) for one in report.troubles}) > 5
    assert json.loads((tmp_path / "report/soak.json").read_text())["seed"] == 20_26
    assert "<svg" in (tmp_path / "report/soak-memory.svg").read_text()


def samples(**figures):
    """Make an hour of samples; each figure is a function of the part of it that is over."""
    steady = {"daemon_memory": 90 * MIB, "fetcher_memory": 60 * MIB}
    steady |= {f"{p}_{w}": 20 for p in ("daemon", "fetcher") for w in ("descriptors", "threads")}
    steady |= {"limit": 64 * MIB, "used": 60 * MIB, "reserved": MIB, "disk": 61 * MIB, "evicted": 9}
    made = []
    for number in range(200):
        part = number / 199
        noise = 1 + 0.02 * ((number * 7919) % 11 - 5) / 5
        sample = {name: value * noise for name, value in steady.items()} | {"limit": 64 * MIB}
        made.append(sample | {n: f(part) for n, f in figures.items()} | {"time": 3600 * part})
    return made


def broken(checks):
    return [check.name for check in checks if not check.kept]


def test_memory_that_is_flat_or_grows_only_at_first_is_kept():
    assert broken(verdict.flat(samples())) == []
    grown = samples(daemon_memory=lambda part: min(part * 4, 1) * 90 * MIB)
    assert broken(verdict.flat(grown)) == []


@pytest.mark.parametrize(
    ("figure", "name"),
    [
        ("daemon_memory", "memory of the daemon stays"),
        ("fetcher_memory", "memory of the fetcher stays"),
    ],
)
def test_a_leak_of_memory_is_noticed(figure, name):
    leaking = samples(**{figure: lambda part: (90 + 15 * part) * MIB})
    assert broken(verdict.flat(leaking)) == [name]


@pytest.mark.parametrize("what", ["descriptors", "threads"])
def test_a_leak_of_descriptors_and_threads_is_noticed(what):
    leaking = samples(**{f"daemon_{what}": lambda part: 20 + int(20 * part)})
    assert broken(verdict.flat(leaking)) == [f"{what} of the daemon stay"]


def test_connections_that_come_and_go_are_no_leak_but_hide_none():
    def floor(part):  # of each twelfth, as in an hour of the fetcher
        return [30, 30, 30, 23, 33, 26, 23, 34, 25, 35, 28, 35][min(11, int(12 * part))]

    noisy = samples(fetcher_descriptors=floor)
    assert verdict.growth(noisy, "fetcher_descriptors")[0] > 5
    assert broken(verdict.flat(noisy)) == []
    leaking = samples(fetcher_descriptors=lambda part: floor(part) + int(24 * part))
    assert broken(verdict.flat(leaking)) == ["descriptors of the fetcher stay"]


def test_a_process_that_takes_too_much_is_noticed():
    assert verdict.moderate(samples()).kept
    assert not verdict.moderate(samples(fetcher_memory=lambda _: 400 * MIB)).kept
    assert not verdict.moderate(samples(daemon_descriptors=lambda _: 500)).kept


def test_a_cache_over_its_limit_is_noticed():
    assert verdict.bounded(samples()).kept
    assert not verdict.bounded(samples(disk=lambda part: (60 + 6 * (part > 0.5)) * MIB)).kept
    assert not verdict.bounded(samples(used=lambda part: (60 + 6 * (part > 0.9)) * MIB)).kept
    assert not verdict.bounded(samples(evicted=lambda _: 0)).kept  # it was never full


def test_what_is_left_open_is_noticed():
    before = {f"{p}_{w}": 20.0 for p in ("daemon", "fetcher") for w in ("descriptors", "threads")}
    before |= dict.fromkeys(("open_files", "open_objects", "requests", "reserved"), 0.0)
    assert verdict.at_rest(before, before).kept
    for left in ("open_files", "open_objects", "requests", "reserved"):
        assert not verdict.at_rest(before, before | {left: 1.0}).kept
    assert not verdict.at_rest(before, before | {"fetcher_descriptors": 40.0}).kept


def test_a_wrong_byte_and_a_mixture_of_versions_are_noticed(tmp_path):
    old, new, seen = b"a" * 8192 + b"o" * 4096, b"a" * 8192 + b"n" * 4096, tmp_path / "seen"
    for number, content in enumerate((old, new)):
        (tmp_path / f"{number}.raw").write_bytes(content)
    seen.write_bytes(new)
    oracle = Oracle(tmp_path, "raw")
    with seen.open("rb") as file:

        def handle():
            return Handle(oracle, file.fileno())

        assert handle().right(0, new)
        assert not handle().right(100, b"b")
        assert not handle().right(8000, bytes(100))
        mixed = handle()
        assert mixed.right(8192, old[8192:])
        assert not mixed.newest
        assert not mixed.right(8192, new[8192:])
    seen.write_bytes(new[:-1])
    with seen.open("rb") as file:
        assert not Handle(oracle, file.fileno()).known
    oracle.close()


def test_the_pictures_are_small_and_hold_every_line():
    made = samples()
    times = [sample["time"] for sample in made]
    values = [sample["disk"] / MIB for sample in made]
    text = draw("The cache", times, [("on the disk", values)], [Happened("web", "cut", 60, 90)])
    assert "on the disk" in text
    assert text.count("<path") == 6
    assert len(text) < 20_000
