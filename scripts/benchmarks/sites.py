"""Where client and server stand: on loopback, or at the two ends of a link with a delay."""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.benchmarks.frontend import frontend
from scripts.benchmarks.images import Image
from scripts.benchmarks.processes import Failed, Mismatch, run, running
from scripts.benchmarks.servers import Nginx, nginx
from scripts.benchmarks.toolbox import find, program

DELAY_US, MBIT = 10_000, 1000
"""One way: a round trip takes 20 ms, as between cities some 2,000 km apart."""
QUEUE = 4_000_000
"""Bytes that may wait to be sent, 1.6 times bandwidth times round trip: a router's buffer."""
CONGESTION = "cubic"
"""How the server at the far end controls congestion: what Linux does unless it is told otherwise.
Left to the machine the figures would depend on a setting that nobody sees. With bbr, which some
large providers use, they are others: packets leave spread over a round trip, few are lost."""
SERVER = "10.11.12.1"
"""The server's address on the link, which link.c gives it."""
TLS_NUMBERS = 1000
"""What is added to an image's number for the app that is served over TLS."""


@dataclass(frozen=True, slots=True)
class Site:
    """A web server, a front-end, and the way to the place where clients run."""

    name: str
    web: Nginx
    authority: Path
    endpoint: str
    """Of the front-end, for XML-RPC. It is beside the client: its delay is not what is measured."""
    frontend_pid: int
    enter: tuple[str, ...] = ()
    """The command before each client command that takes it into its network namespace."""

    def read(self, *words: str | Path, limit: float = 60.0) -> dict[str, Any]:
        """Run reader.c at the client's side. Failed, or Mismatch when bytes are wrong."""
        reader = program("reader")
        try:
            return dict(json.loads(run(*self.enter, reader, *words, limit=limit)))
        except Failed as exc:
            if ": exit 9: " in str(exc):
                raise Mismatch(str(exc)) from exc
            raise

    def round_trip(self) -> float:
        """Return the median seconds that opening a TCP connection to the web server takes."""
        times = self.read("connect", self.web.address, str(self.web.port), "11")["connects"]
        return float(statistics.median(times)) / 1e9

    def received(self) -> int | None:
        """Return the bytes that came over the link until now; None on loopback."""
        if not self.enter:
            return None
        table = Path(f"/proc/{self.frontend_pid}/net/dev").read_text()
        line = next(x for x in table.splitlines() if x.strip().startswith("link0:"))
        return int(line.partition(":")[2].split()[0])


def _apps(web: Nginx, images: list[Image]) -> list[tuple[int, str, str]]:
    plain = [(i.number, f"{web.url()}/{i.name}", i.md5) for i in images]
    tls = f"{web.url(tls=True)}/"
    return plain + [(i.number + TLS_NUMBERS, tls + i.name, i.md5) for i in images]


@contextmanager
def loopback(home: Path, root: Path, tls: Path, images: list[Image]) -> Iterator[Site]:
    """Serve `root` on loopback: what is measured is what the processor can do."""
    with (
        nginx(home / "web", root, tls, "127.0.0.1") as web,
        frontend(home / "frontend", _apps(web, images)) as (endpoint, pid),
    ):
        yield Site("loopback", web, tls / "ca.pem", endpoint, pid)


def why_no_link() -> str | None:
    """Return why this machine cannot have a link with a delay, or None."""
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "there is no /dev/net/tun"
    if find("nsenter") is None:
        return "nsenter is missing"
    return None


@contextmanager
def link(home: Path, root: Path, tls: Path, images: list[Image], congestion: str) -> Iterator[Site]:
    """Serve `root` at the far end of a link of 20 ms and 1 Gbit/s. Failed: it cannot be made, or
    the kernel does not have this way to control `congestion`.
    """
    if reason := why_no_link():
        raise Failed(reason)
    home.mkdir(parents=True, exist_ok=True)
    argv: list[str | Path] = [program("link"), str(DELAY_US), str(MBIT), str(QUEUE)]
    with running(argv, home / "link.log", stdout=subprocess.PIPE) as cable:
        assert cable.stdout
        line = cable.stdout.readline().split()
        if len(line) != 2:
            raise Failed((home / "link.log").read_text().strip() or "the link did not start")
        server, client = (
            ("nsenter", f"--net=/proc/{cable.pid}/fd/{int(number)}") for number in line
        )
        setting = f"echo {shlex.quote(congestion)} > /proc/sys/net/ipv4/tcp_congestion_control"
        for end in (server, client):
            try:
                run(*end, "sh", "-c", setting)
            except Failed as exc:
                reason = f"this kernel does not control congestion by {congestion}"
                raise Failed(reason) from exc
        with (
            nginx(home / "web", root, tls, SERVER, server) as web,
            frontend(home / "frontend", _apps(web, images), enter=client) as (url, pid),
        ):
            yield Site("link", web, tls / "ca.pem", url, pid, client)
