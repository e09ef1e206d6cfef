"""What the kernel does with a mount: it walks, remembers what it was told to, and forgets.

Entries and attributes are believed for as long as the answer says, or until nebfs has them
forgotten. Errors are OSError, as a program sees them.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import pyfuse3
import trio

from nebfs.fuse import Operations
from nebfs.tree import Tree
from nebfs.tree.inodes import ROOT
from nebfs.tree.tree import Invalid

CONTEXT = cast("pyfuse3.RequestContext", None)
"""Who asks does not matter here."""


@dataclass(frozen=True)
class Entry:
    """What stat(2) tells of a name."""

    ino: int
    mode: int
    size: int

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def can_be_read(self) -> bool:
        return bool(self.mode & 0o400)


class Kernel:
    """The kernel's side of one mount."""

    def __init__(self, operations: Operations, tree: Tree) -> None:
        self._operations = operations
        self._tree = tree
        self._entries: dict[tuple[int, str], tuple[Entry, float]] = {}
        self._lookups: dict[int, int] = {}
        self.told = 0
        """How many things nebfs had it forget."""
        tree.on_invalid(self._invalid)

    def _invalid(self, items: list[Invalid]) -> None:
        for item in items:
            self.told += 1
            if item.parent:
                self._entries.pop((item.parent, item.name), None)
            else:
                stale = [key for key, (entry, _) in self._entries.items() if entry.ino == item.ino]
                for key in stale:
                    del self._entries[key]

    def _take(self, parent: int, name: str, found: pyfuse3.EntryAttributes) -> Entry:
        entry = Entry(found.st_ino, found.st_mode, found.st_size)
        self._lookups[entry.ino] = self._lookups.get(entry.ino, 0) + 1
        until = trio.current_time() + min(found.entry_timeout, found.attr_timeout)
        self._entries[parent, name] = entry, until
        return entry

    async def _look_up(self, parent: int, name: str) -> Entry:
        known = self._entries.get((parent, name))
        if known is not None and trio.current_time() < known[1]:
            return known[0]
        with _as_os_error():
            found = await self._operations.lookup(parent, os.fsencode(name), CONTEXT)
        return self._take(parent, name, found)

    async def stat(self, path: str) -> Entry:
        """Walk to a path. Raises OSError."""
        entry = Entry(ROOT, stat.S_IFDIR | 0o555, 0)
        for part in filter(None, path.split("/")):
            if not entry.is_directory:
                raise OSError(errno.ENOTDIR, path)
            entry = await self._look_up(entry.ino, part)
        return entry

    async def list(self, path: str) -> dict[str, Entry]:
        """Read a directory with its attributes, as `ls -l` does. Raises OSError."""
        directory = await self.stat(path)
        with _as_os_error():
            fh = await self._operations.opendir(directory.ino, CONTEXT)
        try:
            listed = list(await self._tree.listing(self._operations._directory(directory.ino)))
            names = [name for name, _ in listed]
            assert len(names) == len(set(names)), f"a name is there twice in {path}: {names}"
            found = {}
            for name, node in listed:
                self._tree.inodes.seen(node.ino)
                found[name] = self._take(directory.ino, name, self._operations._attributes.of(node))
            return found
        finally:
            await self._operations.releasedir(fh)

    async def open(self, path: str) -> tuple[int, Entry]:
        """Open a file for reading; ESTALE is tried once more with everything looked up anew, as
        the kernel does it. Raises OSError.
        """
        try:
            return await self._open(path)
        except OSError as exc:
            if exc.errno != errno.ESTALE:
                raise
        self._entries.clear()
        return await self._open(path)

    async def _open(self, path: str) -> tuple[int, Entry]:
        entry = await self.stat(path)
        with _as_os_error():
            opened = await self._operations.open(entry.ino, os.O_RDONLY, CONTEXT)
        return opened.fh, entry

    async def read(self, fh: int, offset: int, length: int) -> bytes:
        """Read. Raises OSError."""
        with _as_os_error():
            data: Any = await self._operations.read(fh, offset, length)
            return bytes(data)

    async def release(self, fh: int) -> None:
        """Close a file."""
        await self._operations.release(fh)

    async def forget(self, opened: Sequence[int] = ()) -> None:
        """Give up everything but the inodes that are `opened`, as under pressure for memory."""
        self._entries.clear()
        gone = [(ino, count) for ino, count in self._lookups.items() if ino not in set(opened)]
        for ino, _ in gone:
            del self._lookups[ino]
        await self._operations.forget(gone)


class _as_os_error:  # noqa: N801 - it is used as a statement
    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        if isinstance(exc, pyfuse3.FUSEError):
            raise OSError(exc.errno, os.strerror(exc.errno)) from exc
