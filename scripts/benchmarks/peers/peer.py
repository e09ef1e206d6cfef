"""What every peer is asked, and how a mount is waited for and taken down."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from scripts.benchmarks.images import Image
from scripts.benchmarks.processes import Failed, Words, run, running, wait_until
from scripts.benchmarks.sites import Site


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mount that answers: where an image is in it, and the process that serves it."""

    root: Path
    path: Callable[[Image], Path]
    pid: int


class Peer(Protocol):
    """Something that shows a web server's files, or a directory's, as files."""

    name: str

    def missing(self) -> str | None:
        """Return why it cannot be run on this machine, or None."""

    def version(self) -> str:
        """Return its version, for the report."""

    def mount(
        self, site: Site, home: Path, images: list[Image], tls: bool = False
    ) -> AbstractContextManager[Mounted]:
        """Mount these images with an empty cache below `home`, and unmount them at the end."""


@contextmanager
def mounting(
    site: Site, home: Path, argv: Words, path: Callable[[Path, Image], Path], **how: object
) -> Iterator[Mounted]:
    """Run a program that mounts `home`/mnt and stays; unmount it and end it afterwards."""
    root = home / "mnt"
    root.mkdir(parents=True)
    log = home / "output"
    with running([*site.enter, *argv], log, **how) as process:
        try:
            wait_until(lambda: os.path.ismount(root), process, log)
            yield Mounted(root, lambda image: path(root, image), process.pid)
        except Failed as exc:
            words = log.read_text(errors="replace").strip().splitlines()
            raise Failed(f"{exc}; its own last word: {words[-1]}" if words else str(exc)) from exc
        finally:
            unmount(root)


def unmount(root: Path) -> None:
    """Take a mount down, lazily when somebody is still in it; one that is gone already is fine."""
    for words in (("umount",), ("umount", "-l"), ("fusermount3", "-u", "-z")):
        if not is_mount(root):
            return
        try:
            run(*words, root, limit=10)
        except Failed:
            continue


def is_mount(root: Path) -> bool:
    """Return whether something is mounted there, though nobody may serve it any more."""
    # stat(2) fails on a mount whose server is gone; the table of mounts still has it.
    table = Path("/proc/self/mounts").read_text()
    return any(line.split()[1] == os.fspath(root) for line in table.splitlines())
