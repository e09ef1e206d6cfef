"""nbdkit with nbdfuse, and httpdirfs: other ways to see a file behind a URL as a file."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.benchmarks.images import Image
from scripts.benchmarks.peers.peer import Mounted, mounting
from scripts.benchmarks.processes import run
from scripts.benchmarks.sites import Site
from scripts.benchmarks.toolbox import find


class Nbdkit:
    """nbdkit's curl plugin served to nbdfuse; one image a mount.

    `cached` adds its cache and its readahead filter; without them it keeps nothing.
    """

    def __init__(self, name: str, cached: bool) -> None:
        self.name = name
        self._cached = cached

    def missing(self) -> str | None:
        """Return why it cannot be run, or None."""
        absent = [c for c in ("nbdkit", "nbdfuse") if find(c) is None]
        if absent:
            return f"{' and '.join(absent)} not installed; --install-peers does it"
        return None

    def version(self) -> str:
        """Return what the two say of themselves."""
        return f"{run('nbdkit', '--version').split()[1]}, {run('nbdfuse', '--version').split()[1]}"

    @contextmanager
    def mount(
        self, site: Site, home: Path, images: list[Image], tls: bool = False
    ) -> Iterator[Mounted]:
        """Mount one image, as a file in a directory."""
        (image,) = images
        mnt = home / "mnt"
        argv = ["nbdkit", "-f", "-U", "-", "curl", f"url={site.web.url(tls)}/{image.name}"]
        if self._cached:
            argv[4:4] = ["--filter=cache", "--filter=readahead"]
            argv += ["cache-on-read=true"]
        if tls:
            argv += [f"cainfo={site.authority}"]
        argv += ["--run", f'exec nbdfuse -r {shlex.quote(os.fspath(mnt / image.name))} "$uri"']
        # The cache filter keeps its file where TMPDIR says: beside everybody else's.
        environment = {**os.environ, "TMPDIR": os.fspath(home)}
        home.mkdir(parents=True)
        with mounting(site, home, argv, lambda root, _: root / image.name, env=environment) as it:
            yield it


class Httpdirfs:
    """httpdirfs with its permanent cache."""

    name = "httpdirfs"

    def missing(self) -> str | None:
        """Return why it cannot be run, or None."""
        if find("httpdirfs") is None:
            return "the package httpdirfs is not installed; --install-peers does it"
        return None

    def version(self) -> str:
        """Return what dpkg says: it has no answer of its own that could be parsed."""
        return run("dpkg-query", "-W", "-f", "${Version}", "httpdirfs")

    @contextmanager
    def mount(
        self, site: Site, home: Path, images: list[Image], tls: bool = False
    ) -> Iterator[Mounted]:
        """Mount the web server's directory."""
        (home / "cache").mkdir(parents=True)
        argv: list[str | Path] = ["httpdirfs", "-f", "--cache", "--cache-location", home / "cache"]
        argv += ["--no-range-check", f"{site.web.url(tls)}/", home / "mnt"]
        with mounting(site, home, argv, lambda root, image: root / image.name) as mounted:
            for image in images:
                mounted.path(image).stat()
            yield mounted
