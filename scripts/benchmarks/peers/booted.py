"""nebfs on a machine whose cache is empty, with the boot profile that another machine recorded."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.benchmarks.images import Image
from scripts.benchmarks.peers.peer import Mounted, Peer
from scripts.benchmarks.processes import Failed, run
from scripts.benchmarks.sites import Site

KEPT = 10.0
"""Seconds until the profile must be there: a loaded machine takes its time."""


class Booted:
    """`nebfs`, after one boot elsewhere: `boot` does it, given an image and its path in a mount."""

    name = "nebfs profile"

    def __init__(self, nebfs: Peer, boot: Callable[[Site, Path, Image], None]) -> None:
        self._nebfs = nebfs
        self._boot = boot
        self._profile = ""

    def missing(self) -> str | None:
        """Return why it cannot be run, or None."""
        return self._nebfs.missing()

    def version(self) -> str:
        """Return the version of this checkout."""
        return self._nebfs.version()

    @contextmanager
    def mount(
        self, site: Site, home: Path, images: list[Image], tls: bool = False
    ) -> Iterator[Mounted]:
        """Mount on a machine that knows the profile, and nothing else."""
        if not self._profile:
            self._profile = self._record(site, home / "first", images, tls)
        second = home / "second"
        second.mkdir(parents=True)
        file = second / "profile.json"
        file.write_text(self._profile)
        _nebfs("--cache-dir", second / "cache", "import", file)
        with self._nebfs.mount(site, second, images, tls) as mounted:
            yield mounted

    def _record(self, site: Site, home: Path, images: list[Image], tls: bool) -> str:
        (image,) = images
        with self._nebfs.mount(site, home, images, tls) as mounted:
            path = mounted.path(image)
            self._boot(site, path, image)
            end = time.monotonic() + KEPT
            while True:
                try:
                    return _nebfs("--run-dir", home / "run", "export", path)
                except Failed:
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.1)


def _nebfs(*words: str | Path) -> str:
    return run(sys.executable, "-m", "nebfs.cli", "profile", *map(os.fspath, words))
