"""Looking at many files through SFTP: what each is and whether it is where it seems to be.

The far counterpart of datastores/look.py. What is asked: JSON ``{"base": directory, "paths":
[...]}``, all paths below the base as text. What is answered: for each path ``[errno, kind, outside,
chained, size, modified_ns, resolved path]``; the numbers and texts of an errno other than 0 mean
nothing. SFTP knows whole seconds only, and little of errors: a link that leads to itself is ENOENT.

A file with a ``.snap`` directory beside it is chained. If it is a link, it is not resolved, and
behind the rest follow its own entry, as sftp_directories.py has them, and the list of those in the
directory, or null if there are too many.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import posixpath
import stat
from typing import Any

from nebfs.errors import Missing, Refused, Unreachable
from nebfs.fetcher.transports.sftp_directories import KINDS, Entry, Reader, together
from nebfs.fetcher.transports.sftp_sessions import Session, encoded

PARALLEL = 64
"""Files looked at at once: a round trip of 20 ms is then paid for sixty of them together."""

Looked = tuple[int, str, bool, bool, int, int, str]
Chained = tuple[int, str, bool, bool, int, int, str, Entry, list[Entry] | None]


async def look(session: Session, base: str, paths: list[str]) -> bytes:
    """Return the answer for `paths`. Raises Unreachable, or Missing when the base is not there."""
    real_base = await _resolved(session, base)
    looking = _Looking(session, real_base)
    gate = asyncio.Semaphore(PARALLEL)

    async def one(path: str) -> Looked | Chained:
        async with gate:
            return await looking.at(path)

    return json.dumps(await together(map(one, paths))).encode()


class _Looking:
    def __init__(self, session: Session, base: str) -> None:
        self._session = session
        self._base = base
        self._parents: dict[str, asyncio.Task[str]] = {}
        self._reader = Reader(session)

    async def at(self, path: str) -> Looked | Chained:
        """Look at one path; what is wrong with it alone is part of the answer."""
        try:
            return await self._at(path)
        except Missing:
            return _failed(errno.ENOENT, path)
        except Refused:
            return _failed(errno.EACCES, path)
        except Unreachable:
            if self._session.lost:
                raise
            return _failed(errno.EIO, path)

    async def _at(self, path: str) -> Looked | Chained:
        session, client = self._session, self._session.client
        parent, name = posixpath.split(path)
        if parent not in self._parents:
            self._parents[parent] = asyncio.create_task(_resolved(session, parent))
        real = posixpath.join(await asyncio.shield(self._parents[parent]), name)
        looking = session.begin(client.lstat, encoded(real))
        beside = session.begin(client.lstat, encoded(f"{real}.snap"))
        try:
            found = await session.result(looking)
            chained = await self._is_directory(beside)
        finally:
            beside.cancel()
        if stat.S_ISLNK(found.permissions or 0) and not chained:
            real = await _resolved(session, real)
            found = await session.ask(client.lstat, encoded(real))
        kind = KINDS.get(stat.S_IFMT(found.permissions or 0), "thing of an unknown kind")
        outside = not real.startswith("/" if self._base == "/" else f"{self._base}/")
        modified = (found.mtime or 0) * 10**9 + (found.mtime_ns or 0)
        if found.size is None or found.mtime is None:
            return _failed(errno.EIO, path)
        looked = 0, kind, outside, chained, found.size, modified, real
        if not chained or outside:
            return looked
        inside = await self._reader.inside(f"{real}.snap")
        # As a persistent qcow2 image without snapshots is left: nothing but links beside it.
        alone = inside is not None and all(entry[1] == "link" for entry in inside)
        source = await self._reader.entry(real, found, unread=alone)
        if source is None:
            return _failed(errno.ENOENT, path)
        return (*looked, source, inside)

    async def _is_directory(self, task: asyncio.Task[Any]) -> bool:
        try:
            found = await self._session.result(task)
        except Missing:
            return False
        return stat.S_ISDIR(found.permissions or 0)


async def _resolved(session: Session, path: str) -> str:
    """Return `path` without links. OpenSSH resolves one whose last part is not there, too."""
    name = encoded(path)
    looking = session.begin(session.client.lstat, name)
    try:
        real: bytes = await session.ask(session.client.realpath, name)
        await session.result(looking)
    finally:
        looking.cancel()
    return posixpath.normpath(os.fsdecode(real))


def _failed(number: int, path: str) -> Looked:
    return number, "", False, False, 0, 0, path
