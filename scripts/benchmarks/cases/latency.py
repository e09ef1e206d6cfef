"""How long somebody waits: the first byte of an image, 4 KiB anywhere in it, and a whole boot."""

from __future__ import annotations

import csv
import os
import random
import signal
import statistics
import time
from pathlib import Path

from nebfs.units import MIB
from scripts.benchmarks.images import Image
from scripts.benchmarks.peers.booted import Booted
from scripts.benchmarks.peers.everyone import NBDKITS, QUICK_RCLONES, RCLONES
from scripts.benchmarks.peers.peer import Mounted, Peer
from scripts.benchmarks.processes import Failed, family
from scripts.benchmarks.rounds import Bench, Figures, Result, alternate, clear
from scripts.benchmarks.sites import Site

FIRST, READ = "first byte", "4 KiB"
SETTLE = 1.0
"""Seconds between looking an image up and opening it, for everybody: connections that are opened
meanwhile may count, as they do when a person or a hypervisor opens an image.
"""
TRACES = ("boot-raw", "boot-qcow2")


def first_byte(bench: Bench) -> Result:
    """The first byte after open, then 20 cold reads of 4 KiB far apart, on loopback."""
    title = "First byte, and cold 4 KiB reads, loopback"
    result = Result("first-byte", title, f"{READ} ms", more_is_better=False, baseline="nbdkit")
    peers = (bench.nebfs, *RCLONES, *NBDKITS)
    return _points(bench, result, bench.loopback, peers, 1e-3, "ms")


def first_byte_link(bench: Bench) -> Result:
    """The same over the link, in round trips as measured just before."""
    title = "First byte, and cold 4 KiB reads, 20 ms link, in round trips"
    result = Result("first-byte-link", title, f"{READ} RTT", more_is_better=False, baseline="")
    assert bench.link
    rclones = QUICK_RCLONES if bench.quick else RCLONES
    peers = (bench.nebfs, *rclones, NBDKITS[0])
    return _points(bench, result, bench.link, peers, None, "RTT")


def _points(
    bench: Bench,
    result: Result,
    site: Site,
    peers: tuple[Peer, ...],
    unit: float | None,
    name: str,
) -> Result:
    image = bench.images[0]

    def once(peer: Peer) -> Figures:
        # Everybody gets the same places in a round; each lies in a part of the image of its own.
        parts = 20
        chance = random.Random(len(result.samples.get(peer.name, {}).get(result.main, ())))  # noqa: S311
        places = [
            (part * (image.size // parts) + chance.randrange(image.size // parts)) // 4096 * 4096
            for part in range(1, parts)
        ]
        chance.shuffle(places)
        seconds = unit or site.round_trip()
        home = bench.scratch()
        try:
            with peer.mount(site, home, [image]) as mounted:
                time.sleep(SETTLE)
                words: list[str | Path] = [
                    "points",
                    mounted.path(image),
                    image.path,
                    *map(str, places),
                ]
                found = site.read(*words)
        finally:
            clear(home)
        reads = [ns / 1e9 / seconds for ns in found["reads"]]
        return {
            f"{READ} {name}": statistics.median(reads),
            f"{READ} p90 {name}": statistics.quantiles(reads, n=10)[-1],
            f"{FIRST} {name}": found["first"] / 1e9 / seconds,
            f"open {name}": found["open"] / 1e9 / seconds,
        }

    alternate(bench, result, peers, once)
    return result


def trace_path(name: str) -> Path:
    """Return one of the recorded traces: what a guest read while it booted."""
    return Path(__file__).parent.parent / "traces" / f"{name}.csv"


def touched(trace: Path) -> int:
    """Return how many different bytes the reads of a trace touch."""
    with trace.open() as file:
        reads = sorted((int(r["offset"]), int(r["length"])) for r in csv.DictReader(file))
    total = end = 0
    for offset, length in reads:
        total += max(0, offset + length - max(offset, end))
        end = max(end, offset + length)
    return total


def boots(bench: Bench, where: str) -> list[Result]:
    """Replay both traces without their pauses, cold; `where` is loopback or link. nebfs does it a
    second time with the profile that a boot elsewhere has left.
    """
    site = bench.link if where == "link" else bench.loopback
    assert site
    found = []
    for name, image in zip(TRACES, bench.images[5:7], strict=True):
        suffix = "-link" if where == "link" else ""
        title = f"Recorded boot ({name.removeprefix('boot-')}), cold, {site.name}"
        result = Result(f"{name}{suffix}", title, "s", more_is_better=False, baseline="")
        trace = trace_path(name)

        def replay(site: Site, path: Path, image: Image, trace: Path = trace) -> None:
            site.read("replay", path, image.path, trace)

        own = (bench.nebfs, Booted(bench.nebfs, replay))
        peers: tuple[Peer, ...] = (*own, *RCLONES, *NBDKITS)
        if bench.quick and site is bench.link:  # the others are slow there, one after the other
            peers = (*own, *QUICK_RCLONES)
        found.append(_boot(bench, result, site, peers, image, trace))
    return found


def _boot(
    bench: Bench, result: Result, site: Site, peers: tuple[Peer, ...], image: Image, trace: Path
) -> Result:
    needed = touched(trace)

    def once(peer: Peer) -> Figures:
        home = bench.scratch()
        try:
            with peer.mount(site, home, [image]) as mounted:
                path = mounted.path(image)
                before = _bytes(site, None)
                took = site.read("replay", path, image.path, trace)["ns"] / 1e9
                came = _bytes(site, mounted) - before
        finally:
            clear(home)
        return {
            "s": took,
            "touched MiB": needed / MIB,
            "fetched MiB": came / MIB,
            "fetched / touched": came / needed,
        }

    alternate(bench, result, peers, once)
    return result


def _bytes(site: Site, mounted: Mounted | None) -> int:
    """Return what the web server has sent until now; `mounted` is who asked for it, and is ended.

    The link's own counter has what has arrived at this moment. nginx counts a request when it is
    over, so on loopback whoever has one open is killed first.
    """
    received = site.received()
    if received is not None:
        return received
    if mounted is not None:
        for pid in family(mounted.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            except PermissionError as exc:
                raise Failed("the peer's processes belong to somebody else") from exc
        time.sleep(0.2)
    return site.web.sent()
