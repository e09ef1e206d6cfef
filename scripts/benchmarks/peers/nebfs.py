"""nebfs itself, mounted by its own command line from the front-end beside the client."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from scripts.benchmarks.frontend import ADMINISTRATOR
from scripts.benchmarks.images import Image
from scripts.benchmarks.peers.peer import Mounted, mounting
from scripts.benchmarks.processes import Failed
from scripts.benchmarks.sites import TLS_NUMBERS, Site


class Nebfs:
    """The checkout's nebfs; `options` are added to its settings."""

    name = "nebfs"

    def __init__(self, *options: str) -> None:
        self._options = options

    def missing(self) -> str | None:
        """Return why it cannot be run, or None."""
        return None if os.access("/dev/fuse", os.R_OK | os.W_OK) else "there is no /dev/fuse"

    def version(self) -> str:
        """Return the version of this checkout."""
        return version("nebfs")

    @contextmanager
    def mount(
        self, site: Site, home: Path, images: list[Image], tls: bool = False
    ) -> Iterator[Mounted]:
        """Mount the cloud; an image's path goes over its number, whatever its name became."""
        home.mkdir(parents=True, exist_ok=True)
        auth = home / "auth"
        auth.touch(0o600)
        auth.write_text(f"{ADMINISTRATOR}\n")
        argv: list[str | Path] = [
            sys.executable,
            "-m",
            "nebfs.cli",
            "mount",
            "-f",
            site.endpoint,
            home / "mnt",
        ]
        argv += ["--auth-file", auth, "--cache-dir", home / "cache", "--run-dir", home / "run"]
        argv += ["-o", f"ca-file={site.authority}"]
        for option in self._options:
            argv += ["-o", option]

        def path(root: Path, image: Image) -> Path:
            number = image.number + (TLS_NUMBERS if tls else 0)
            found = next((root / f".nebfs/by-id/apps/{number}").glob(f"*{image.path.suffix}"), None)
            if found is None:
                raise Failed(f"it does not show the image {number}")
            return found

        with mounting(site, home, argv, path) as mounted:
            for image in images:
                mounted.path(image).stat()
            yield mounted
