"""Where the files of a restic repository are kept: what is asked of all such places, and one here.

A repository is ``config``, and files whose names are SHA-256 sums, in ``keys``, ``index``,
``snapshots`` and ``data/XX``. Nothing is ever written, not even a lock: restic's own --no-lock.
Source: restic's doc/design.rst, "Repository Layout" (the default layout).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Protocol

from nebfs.errors import BadAnswer, Damaged, Missing, NebfsError, Refused, Unreachable
from nebfs.fetcher.transports.rbd_threads import Threads

DIRECTORIES = ("keys", "index", "snapshots")

MAX_NAMES = 1 << 20
"""Files of one directory of a repository. OpenNebula has at most some hundred backups in one."""

_NAME = re.compile(r"[0-9a-f]{64}")


class Store(Protocol):
    """One repository's files. Paths are relative, and made by nebfs alone."""

    async def names(self, directory: str) -> frozenset[str]:
        """Return the names in one of DIRECTORIES. Raises Missing, Refused, Unreachable, ..."""
        ...

    async def read(self, path: str, start: int, stop: int) -> bytes:
        """Return so many bytes of a file. Raises Missing, or Damaged when it is shorter."""
        ...

    async def load(self, path: str, limit: int) -> bytes:
        """Return a whole file. Raises BadAnswer if it has more than `limit` bytes."""
        ...


def path_of(pack: bytes) -> str:
    """Return where a pack is."""
    name = pack.hex()
    return f"data/{name[:2]}/{name}"


def sums(names: Iterable[str]) -> frozenset[str]:
    """Return those of `names` that are names of a repository's files. Raises BadAnswer."""
    found = frozenset(name for name in names if _NAME.fullmatch(name))
    if len(found) > MAX_NAMES:
        raise BadAnswer("the repository has too many files", limit=MAX_NAMES)
    return found


class Directory:
    """A repository on this machine."""

    def __init__(self, base: str, threads: Threads, patience: float) -> None:
        """`patience`: seconds that one step may take: a dead NFS server never answers."""
        self._base = base
        self._threads = threads
        self._patience = patience

    async def names(self, directory: str) -> frozenset[str]:
        """See Store."""
        look = partial(_names, f"{self._base}/{directory}")
        return sums(await self._threads.run(look, within=self._patience))

    async def read(self, path: str, start: int, stop: int) -> bytes:
        """See Store."""
        read = partial(_read, f"{self._base}/{path}", start, stop)
        return await self._threads.run(read, within=self._patience)

    async def load(self, path: str, limit: int) -> bytes:
        """See Store."""
        load = partial(_load, f"{self._base}/{path}", limit)
        return await self._threads.run(load, within=self._patience)


def _names(directory: str) -> list[str]:
    found: list[str] = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                found.append(entry.name)
                if len(found) > MAX_NAMES:
                    raise BadAnswer("the repository has too many files", limit=MAX_NAMES)
    except OSError as exc:
        raise _failure(exc) from exc
    return found


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[int, int]]:
    """Give a file's descriptor and length."""
    # A pipe or a device in a file's place must not hold us.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise _failure(exc) from exc
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise BadAnswer("something else is in the place of a file of the repository")
        yield fd, found.st_size
    except OSError as exc:
        raise _failure(exc) from exc
    finally:
        os.close(fd)


def _read(path: str, start: int, stop: int) -> bytes:
    with _opened(path) as (fd, size):
        if stop > size:
            raise shorter(path)
        pieces = []
        while start < stop:
            piece = os.pread(fd, stop - start, start)
            if not piece:
                raise shorter(path)
            pieces.append(piece)
            start += len(piece)
        return b"".join(pieces)


def _load(path: str, limit: int) -> bytes:
    with _opened(path) as (_, size):
        if size > limit:
            raise too_large(limit)
    return _read(path, 0, size)


def shorter(path: str) -> Damaged:
    """Return the failure of a file that ends too early."""
    return Damaged("a file of the repository is cut off", file=os.path.basename(path)[:8])


def too_large(limit: int) -> BadAnswer:
    """Return the failure of a file that is larger than any should be."""
    return BadAnswer("a file of the repository is too large", limit=limit)


def _failure(exc: OSError) -> NebfsError:
    match exc.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return Missing("a file of the repository is not there")
        case errno.EACCES | errno.EPERM:
            return Refused("the repository may not be read")
        case errno.ELOOP:
            return BadAnswer("a link is in the place of a file of the repository")
        case _:
            return Unreachable("the repository cannot be read", reason=exc.strerror)
