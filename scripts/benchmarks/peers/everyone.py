"""The table of peers, and how those that are missing are installed."""

from __future__ import annotations

import os
from collections.abc import Callable

from scripts.benchmarks.guest import make_guest
from scripts.benchmarks.peers import rclone
from scripts.benchmarks.peers.local import Native, Passthrough, build_passthroughs
from scripts.benchmarks.peers.others import Httpdirfs, Nbdkit
from scripts.benchmarks.peers.peer import Peer
from scripts.benchmarks.peers.qemu import STORAGE_DAEMON
from scripts.benchmarks.processes import Failed, run

DEBIAN_PACKAGES = (
    *("rclone", "nbdkit", "libnbd-bin", "httpdirfs"),
    *("qemu-utils", "qemu-system-common", "gzip", "bzip2", "xz-utils", "zstd"),
    *("qemu-system-x86", "seabios", "debootstrap", "busybox-static"),
    *("g++", "pkg-config", "libfuse3-dev", "dpkg-dev", "openssl"),
)

RCLONES: tuple[Peer, ...] = (
    rclone.Rclone("rclone debian", False, rclone.DEFAULT),
    rclone.Rclone("rclone", True, rclone.DEFAULT),
    rclone.Rclone("rclone read-ahead", True, rclone.READ_AHEAD),
    rclone.Rclone("rclone streams", True, rclone.STREAMS),
)
QUICK_RCLONES = RCLONES[1:3]
"""Those that stand for the others when there is little time: the newest, with and without
read-ahead."""
NBDKITS: tuple[Peer, ...] = (Nbdkit("nbdkit", False), Nbdkit("nbdkit cache", True))
HTTPDIRFS: Peer = Httpdirfs()
LOW_LEVEL, HIGH_LEVEL = Passthrough("passthrough_ll"), Passthrough("passthrough_hp")
NATIVE: Peer = Native()


def everyone() -> list[Peer]:
    """Return all peers but nebfs, installed or not."""
    return [*RCLONES, *NBDKITS, HTTPDIRFS, LOW_LEVEL, HIGH_LEVEL, NATIVE, STORAGE_DAEMON]


def install(say: Callable[[str], None]) -> None:
    """Install every peer that can be had; one that cannot is told and does not stop the others."""

    def packages() -> None:
        if os.geteuid() != 0:
            raise Failed("only root may install Debian packages")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "-qq", "update", limit=300, env=environment)
        words = ("apt-get", "-qq", "-y", "--no-install-recommends", "install")
        run(*words, *DEBIAN_PACKAGES, limit=600, env=environment)

    for what, how in (
        ("Debian packages", packages),
        ("the newest rclone", rclone.install_newest),
        ("libfuse's examples", build_passthroughs),
        ("a guest", make_guest),
    ):
        say(f"installing {what}")
        try:
            how()
        except Failed as exc:
            say(f"  not to be had: {exc}")
