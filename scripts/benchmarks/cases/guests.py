"""A real guest that boots from an image at the far end of the link, until it says that it is up."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nebfs.units import MIB
from scripts.benchmarks.frontend import frontend
from scripts.benchmarks.guest import MARKER, Guest, guest
from scripts.benchmarks.images import Image
from scripts.benchmarks.peers.booted import Booted
from scripts.benchmarks.peers.everyone import NATIVE, QUICK_RCLONES, RCLONES
from scripts.benchmarks.peers.peer import Mounted, Peer
from scripts.benchmarks.processes import run, running, wait_until
from scripts.benchmarks.rounds import Bench, Figures, Result, alternate, clear
from scripts.benchmarks.sites import Site

SECONDS, FETCHED = "s", "fetched MiB"
NUMBER = 6000
"""Of the app that the guest's image is: no other case has it."""

SLOWEST = 180.0
"""Seconds that a boot may take: without KVM it takes 12 to 18 from a disk of an idle machine."""

MOST_RUNS = 3
"""Each takes seven boots."""

PLACES = 20
"""Where the image is compared with its original after a boot."""


class Download:
    """curl into a file, then the boot from that: what one does without a mount."""

    name = "download"

    def missing(self) -> str | None:
        """Return None: curl is what other cases need, too."""

    def version(self) -> str:
        """Return nothing: curl's version is told anyway."""
        return ""

    @contextmanager
    def mount(
        self, site: Site, home: Path, images: list[Image], tls: bool = False
    ) -> Iterator[Mounted]:
        """Offer a path whose asking for it is the download."""
        del images
        home.mkdir(parents=True)

        def download(image: Image) -> Path:
            url = f"{site.web.url(tls)}/{image.name}"
            run(*site.enter, "curl", "-sSf", "-o", home / image.name, url, limit=SLOWEST)
            return home / image.name

        yield Mounted(home, download, 0)


def _boot(made: Guest, disk: Path, log: Path) -> float:
    """Boot from `disk`; return the seconds until the guest is up. Failed: it does not come up."""
    log.parent.mkdir(exist_ok=True)
    began = time.perf_counter()
    with running(made.command(disk), log) as process:
        up = MARKER.encode()
        wait_until(lambda: log.exists() and up in log.read_bytes(), process, log, SLOWEST)
        return time.perf_counter() - began


def boot_guest(bench: Bench) -> Result:
    """Everybody in turn, each with an empty cache; nebfs also behind a profile."""
    title = "A guest (Debian, systemd, QEMU without KVM) boots from a qcow2, 20 ms link"
    result = Result("boot-guest", title, SECONDS, more_is_better=False, baseline=NATIVE.name)
    assert bench.link
    made = guest()
    path = bench.images[0].path.parent / "guest.qcow2"
    if not path.exists():
        shutil.copyfile(made.disk, path)
    image = Image(NUMBER, path, path.stat().st_size, "")

    def boots(site: Site, shown: Path, image: Image) -> None:
        del site, image
        _boot(made, shown, bench.scratch() / "console")

    rclones = QUICK_RCLONES if bench.quick else RCLONES
    profiled = Booted(bench.nebfs, boots)
    peers: tuple[Peer, ...] = (NATIVE, bench.nebfs, profiled, Download(), *rclones)
    apps = [(NUMBER, f"{bench.link.web.url()}/{image.name}", "")]
    with frontend(bench.scratch(), apps, enter=bench.link.enter) as (endpoint, _):
        site = dataclasses.replace(bench.link, endpoint=endpoint)

        def once(peer: Peer) -> Figures:
            home = bench.scratch()
            try:
                with peer.mount(site, home, [image]) as mounted:
                    before = site.received() or 0
                    began = time.perf_counter()
                    shown = mounted.path(image)
                    prepared = time.perf_counter() - began
                    took = _boot(made, shown, bench.scratch() / "console")
                    came = (site.received() or 0) - before
                    _compare(site, shown, image)
            finally:
                clear(home)
            return {SECONDS: prepared + took, FETCHED: came / MIB}

        alternate(bench, result, peers, once, min(bench.runs, MOST_RUNS), SLOWEST)
    return result


def _compare(site: Site, shown: Path, image: Image) -> None:
    """Compare what is at some places with the original; Mismatch: it differs."""
    places = [image.size // PLACES * n // 4096 * 4096 for n in range(PLACES)]
    site.read("points", shown, image.path, *map(str, places))
