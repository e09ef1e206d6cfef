"""Idle fill: whether anybody waits for it.

Cold 4 KiB reads of an image, each after a pause in which nebfs has begun to complete other images
of the same place.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from nebfs.content.layers.noticed import IDLE
from nebfs.units import MIB
from scripts.benchmarks.images import Image
from scripts.benchmarks.peers.nebfs import Nebfs
from scripts.benchmarks.processes import Failed
from scripts.benchmarks.rounds import Bench, Figures, Result, alternate, clear
from scripts.benchmarks.sites import Site

READS = 5
"""Each takes more than two seconds of pausing."""

READ, SLOWEST, FOLLOWING = "4 KiB ms", "slowest ms", "following p50 ms"


class Named(Nebfs):
    """nebfs with some settings, under a name of its own."""

    def __init__(self, name: str, *options: str) -> None:
        super().__init__(*options)
        self.name = name


PEERS = (Named("nebfs", "fill=off"), Named("nebfs fill=idle", "fill=idle"))


def loopback(bench: Bench) -> Result:
    """On loopback, where filling takes processor time from the reads."""
    title = "Cold 4 KiB reads while other images of the place are filled, loopback"
    return _reads(bench, Result("fill", title, READ, False, "nebfs"), bench.loopback)


def link(bench: Bench) -> Result:
    """Over the link, where filling takes its room."""
    title = "Cold 4 KiB reads while other images of the place are filled, 20 ms link"
    assert bench.link
    return _reads(bench, Result("fill-link", title, READ, False, "nebfs"), bench.link)


def _reads(bench: Bench, result: Result, site: Site) -> Result:
    others, image = [bench.images[0], *bench.images[2:5]], bench.images[1]

    def once(peer: Nebfs) -> Figures:
        chance = random.Random(len(result.samples.get(peer.name, {}).get(READ, ())))  # noqa: S311
        # Far apart, so that neither the kernel nor nebfs has one because of another.
        places = [part * (image.size // 32) // 4096 * 4096 for part in range(1, 32)]
        chance.shuffle(places)
        home = bench.scratch()
        try:
            with peer.mount(site, home, [image, *others]) as mounted, ExitStack() as opened:
                path = mounted.path(image)

                def read(*offsets: int) -> list[float]:
                    found = site.read("points", path, image.path, *map(str, offsets))
                    return [ns / 1e6 for ns in found["reads"]]

                read(places.pop())  # from now on the first byte, which it reads too, is here
                for other in others:
                    fd = os.open(mounted.path(other), os.O_RDONLY)
                    opened.callback(os.close, fd)
                    os.pread(fd, 1, 0)
                before = _cached(mounted.path, others)
                times = []
                for _ in range(READS):
                    time.sleep(IDLE + chance.uniform(0.05, 0.2))
                    times += read(places.pop())
                following = read(*places)
                filled = _cached(mounted.path, others) - before
        finally:
            clear(home)
        if "fill=idle" in peer.name and not 0 < filled < sum(other.size for other in others) * 0.99:
            raise Failed(f"{filled / MIB:.0f} MiB were filled: not all the time, or not at all")
        return {
            READ: statistics.median(times),
            SLOWEST: max(times),
            FOLLOWING: statistics.median(following),
            "filled MiB": filled / MIB,
        }

    alternate(bench, result, PEERS, once)  # type: ignore[arg-type]
    return result


def _cached(path: Callable[[Image], Path], images: list[Image]) -> int:
    return sum(int(os.getxattr(path(image), "user.nebfs.cached")) for image in images)
