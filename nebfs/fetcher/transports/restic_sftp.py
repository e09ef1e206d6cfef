"""A restic repository on another machine, through SFTP: the sessions of the transport ``sftp``."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Sequence
from typing import cast

import asyncssh

from nebfs.errors import BadAnswer
from nebfs.fetcher.transports.restic_stores import MAX_NAMES, shorter, sums, too_large
from nebfs.fetcher.transports.sftp_connecting import Host
from nebfs.fetcher.transports.sftp_hosts import Hosts
from nebfs.fetcher.transports.sftp_sessions import Session, encoded

WINDOW = 4 << 20
"""Bytes asked for at once by each of the reads that are under way: as the transport itself does."""


class SftpStore:
    """The directory `base` of one of `hosts`."""

    def __init__(self, pool: Hosts, hosts: Sequence[Host], base: str) -> None:
        """`pool` has the sessions, and stays the caller's."""
        self._pool = pool
        self._hosts = hosts
        self._base = base
        self._real: tuple[Session, str] | None = None

    async def names(self, directory: str) -> frozenset[str]:
        """See Store."""

        async def work(session: Session) -> frozenset[str]:
            path = f"{await self._resolved(session)}/{directory}"
            return sums(await session.result(session.begin(_names, session, encoded(path))))

        return await self._pool.ask(self._hosts, work)

    async def read(self, path: str, start: int, stop: int) -> bytes:
        """See Store."""

        async def work(session: Session) -> bytes:
            async with session.opened(f"{await self._resolved(session)}/{path}") as file:
                return await _read(session, file, path, start, stop)

        return await self._pool.ask(self._hosts, work)

    async def load(self, path: str, limit: int) -> bytes:
        """See Store."""

        async def work(session: Session) -> bytes:
            async with session.opened(f"{await self._resolved(session)}/{path}") as file:
                size = (await session.ask(file.stat)).size
                if size is None:
                    raise BadAnswer("the host does not say how long a file is", host=session.host)
                if size > limit:
                    raise too_large(limit)
                return await _read(session, file, path, 0, size)

        return await self._pool.ask(self._hosts, work)

    async def _resolved(self, session: Session) -> str:
        """Return the base without links, as a session wants its paths."""
        known = self._real
        if known is None or known[0] is not session:
            real: bytes = await session.ask(session.client.realpath, encoded(self._base))
            known = self._real = session, os.fsdecode(real)
        return known[1]


async def _names(session: Session, directory: bytes) -> list[str]:
    found: list[str] = []
    scanning = cast("AsyncGenerator[asyncssh.SFTPName, None]", session.client.scandir(directory))
    async with contextlib.aclosing(scanning) as entries:
        async for entry in entries:
            found.append(os.fsdecode(entry.filename))
            if len(found) > MAX_NAMES:
                raise BadAnswer("the repository has too many files", limit=MAX_NAMES)
    return found


async def _read(
    session: Session, file: asyncssh.SFTPClientFile, path: str, start: int, stop: int
) -> bytes:
    pieces: list[bytes] = []
    for begin in range(start, stop, WINDOW):
        end = min(begin + WINDOW, stop)
        asked: list[tuple[int, int, asyncio.Task[bytes]]] = []
        for at in range(begin, end, session.piece):
            until = min(at + session.piece, end)
            asked.append((at, until, session.read(file, at, until)))
        try:
            for at, until, task in asked:
                data = await session.result(task)
                while len(data) < until - at:
                    # A host may give less than was asked for; nothing at all is the file's end.
                    more = await session.result(session.read(file, at + len(data), until))
                    if not more:
                        raise shorter(path)
                    data += more
                pieces.append(data)
        finally:
            for _, _, task in asked:
                task.cancel()
    return b"".join(pieces)
