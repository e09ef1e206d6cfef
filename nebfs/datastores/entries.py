"""What is in a small directory: names, what links say, the first bytes of qcow2 files. Blocking.

Links are never followed, and what is no plain file is never opened. Read are the bytes that say
which file a qcow2 image builds on, and the texts of OpenNebula's ``N.current`` files.
"""

from __future__ import annotations

import errno
import itertools
import os
import posixpath
import stat
from dataclasses import dataclass

from nebfs.content.layers.qcow2_header import HEAD, MAGIC

# What lstat() counts st_blocks in, whatever the filesystem's own block size (stat(2)).
ST_BLOCK = 512

MOST = 256
"""Entries of one directory: OpenNebula flattens chains at some tens of snapshots."""

CURRENT = ".current"

KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFBLK: "block device",
    stat.S_IFCHR: "character device",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """What is under one name, as lstat() sees it. `failed` is the errno of opening a file."""

    name: str
    path: str
    kind: str
    text: str = ""
    """What a link says, or a ``.current`` file."""
    head: bytes = b""
    """The first HEAD bytes of a qcow2 file; empty for all else."""
    size: int = 0
    allocated: int | None = 0
    """None where the machine does not say."""
    modified_ns: int = 0
    device: int = 0
    inode: int = 0
    failed: int = 0

    @property
    def is_qcow2(self) -> bool:
        """Whether it is a qcow2 file whose first bytes were read."""
        return self.head.startswith(MAGIC)


class Crowded(Exception):
    """A directory with more than MOST entries."""


def inside(directory: str) -> tuple[Entry, ...]:
    """Return what is in `directory`, which is no link. Raises OSError, or Crowded."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with os.scandir(fd) as found:
            names = [one.name for one in itertools.islice(found, MOST + 1)]
        if len(names) > MOST:
            raise Crowded
        entries = [entry(directory, name, fd) for name in sorted(names)]
    finally:
        os.close(fd)
    return tuple(one for one in entries if one is not None)


def entry(directory: str, name: str, fd: int | None = None) -> Entry | None:
    """Return what is under `name` in `directory`; None if it is gone. Raises OSError."""
    path = posixpath.join(directory, name)
    at = path if fd is None else name
    try:
        found = os.stat(at, dir_fd=fd, follow_symlinks=False)
        text, head, failed = "", b"", 0
        if stat.S_ISLNK(found.st_mode):
            text = os.readlink(at, dir_fd=fd)
        elif stat.S_ISREG(found.st_mode):
            try:
                found, head = _read(at, fd)
            except PermissionError as exc:
                failed = exc.errno or errno.EACCES
    except FileNotFoundError:
        return None
    if name.endswith(CURRENT):
        text = text or head.decode("utf-8", "surrogateescape")
    return of(directory, name, found, text=text, head=head, failed=failed)


def of(
    directory: str,
    name: str,
    found: os.stat_result,
    *,
    text: str = "",
    head: bytes = b"",
    failed: int = 0,
) -> Entry:
    """Return an entry for what is known already."""
    return Entry(
        name,
        posixpath.join(directory, name),
        KINDS.get(stat.S_IFMT(found.st_mode), "thing of an unknown kind"),
        text=text,
        head=head if head.startswith(MAGIC) else b"",
        size=found.st_size,
        allocated=found.st_blocks * ST_BLOCK,
        modified_ns=found.st_mtime_ns,
        device=found.st_dev,
        inode=found.st_ino,
        failed=failed,
    )


def _read(at: str, dir_fd: int | None) -> tuple[os.stat_result, bytes]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    fd = os.open(at, flags, dir_fd=dir_fd)
    try:
        found = os.fstat(fd)
        head = os.pread(fd, HEAD, 0) if stat.S_ISREG(found.st_mode) else b""
    finally:
        os.close(fd)
    return found, head
