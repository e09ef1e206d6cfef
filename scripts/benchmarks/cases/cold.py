"""Cold sequential reading: a whole image that nobody has read yet, beside curl into nothing."""

from __future__ import annotations

from pathlib import Path

from nebfs.units import GIB, MIB
from scripts.benchmarks.images import Image
from scripts.benchmarks.peers.everyone import HTTPDIRFS, NBDKITS, RCLONES
from scripts.benchmarks.peers.peer import Peer
from scripts.benchmarks.processes import cpu_seconds, run
from scripts.benchmarks.rounds import Bench, Figures, Result, alternate, clear
from scripts.benchmarks.sites import Site

RATE, CPU = "MiB/s", "CPU s/GiB"


class Curl:
    """The wire: one connection, into /dev/null."""

    name = "curl"

    def missing(self) -> None:
        """Return None: install-needs sees to it."""

    def read(self, site: Site, image: Image, tls: bool) -> Figures:
        """Download the image once."""
        form = "%{time_total} %{size_download}"
        words: list[str | Path] = [
            "curl",
            "-sSf",
            "--cacert",
            site.authority,
            "-o",
            "/dev/null",
            "-w",
            form,
        ]
        seconds, size = run(*site.enter, *words, f"{site.web.url(tls)}/{image.name}").split()
        assert int(size) == image.size, size
        return {RATE: image.size / MIB / float(seconds)}


CURL = Curl()


def _cold(
    bench: Bench, result: Result, site: Site, peers: tuple[Peer, ...], image: Image, tls: bool
) -> Result:
    def once(peer: Peer) -> Figures:
        if isinstance(peer, Curl):
            return peer.read(site, image, tls)
        home = bench.scratch()
        try:
            with peer.mount(site, home, [image], tls) as mounted:
                path = mounted.path(image)
                before = cpu_seconds(mounted.pid)
                took = site.read("seq", path)["ns"] / 1e9
                spent = cpu_seconds(mounted.pid) - before
                site.read("same", path, image.path)
        finally:
            clear(home)
        return {RATE: image.size / MIB / took, CPU: spent / (image.size / GIB)}

    alternate(bench, result, peers, once)
    return result


def cold(bench: Bench) -> Result:
    """On loopback, where processors are the limit."""
    title = "Cold sequential read, loopback"
    result = Result("cold", title, RATE, more_is_better=True, baseline="curl")
    peers = (CURL, bench.nebfs, *RCLONES, *NBDKITS)
    if not bench.quick:
        peers = (*peers, HTTPDIRFS)
    return _cold(bench, result, bench.loopback, peers, bench.images[0], tls=False)  # type: ignore[arg-type]


def cold_tls(bench: Bench) -> Result:
    """The same over TLS."""
    title = "Cold sequential read, loopback, TLS"
    result = Result("cold-tls", title, RATE, more_is_better=True, baseline="curl")
    peers = (CURL, bench.nebfs, *RCLONES)
    return _cold(bench, result, bench.loopback, peers, bench.images[0], tls=True)  # type: ignore[arg-type]


def cold_link(bench: Bench) -> Result:
    """The same over 20 ms and 1 Gbit/s, where the link is the limit."""
    title = "Cold sequential read, 20 ms 1 Gbit/s link"
    result = Result("cold-link", title, RATE, more_is_better=True, baseline="curl")
    assert bench.link
    peers = (CURL, bench.nebfs, *RCLONES)
    if not bench.quick:  # they take minutes, or their time limit
        peers = (*peers, *NBDKITS)
    return _cold(bench, result, bench.link, peers, bench.images[1], tls=False)  # type: ignore[arg-type]
