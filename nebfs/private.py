"""Directories and files that nobody else may read or write, whatever the umask is.

What is fetched with somebody's rights, and who asked for what, is his alone. And a directory that
another user can write to may hold links which lead whatever we write to anywhere, as root too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path

from nebfs.errors import UserError


class Taken(Exception):
    """Another process has locked the file; `owner` is its pid, as text."""

    def __init__(self, owner: str) -> None:
        super().__init__(owner)
        self.owner = owner


def make_directory(path: Path) -> None:
    """Make `path`, for us alone, and what is missing above it, which others may not write to.

    Raises OSError.
    """
    for above in reversed(path.parents):
        if not above.exists():
            with contextlib.suppress(FileExistsError):
                above.mkdir(mode=0o755)
    path.mkdir(mode=0o700, exist_ok=True)


def open_directory(path: Path, what: str) -> int:
    """Return a descriptor of the directory `path`, which is called `what` in errors.

    A link to it is followed if root or we made it. Raises UserError when somebody else could have
    put into it what is there, and OSError.
    """
    link = path.lstat()
    if stat.S_ISLNK(link.st_mode) and link.st_uid not in {0, os.geteuid()}:
        raise UserError(f"{what} {path} is a link that user {link.st_uid} made: remove it")
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if found.st_uid != os.geteuid():
            raise UserError(
                f"{what} {path} belongs to user {found.st_uid}, not to us: "
                "remove it or name another one"
            )
        if found.st_mode & 0o022 and os.listdir(fd):
            raise UserError(
                f"others may write to {what} {path}, and something is in it: "
                "remove it or name another one"
            )
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_file(path: Path, flags: int) -> int:
    """Open a file of ours, which is made with mode 0600; never through a link. Raises OSError."""
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def lock_file(path: Path) -> int:
    """Lock a file of ours for this process alone, and write our pid into it.

    Return its descriptor: the lock lasts until that is closed. Raises Taken, and OSError.
    """
    fd = open_file(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as exc:
        owner = os.pread(fd, 100, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise Taken(owner) from exc
    except BaseException:
        os.close(fd)
        raise
    return fd


def write_file(path: Path, text: str) -> None:
    """Write a file as `open_file` opens it, in place of what it held. Raises OSError."""
    with open(open_file(path, os.O_WRONLY | os.O_TRUNC), "w", encoding="utf-8") as file:
        file.write(text)
