"""What is in small directories on another machine, through SFTP.

The far counterpart of datastores/entries.py. Told is for each name ``[name, kind, text, head, size,
modified_ns, errno]``: the text is what a link says, the head the first bytes (base64) of a file
that is qcow2 or whose name ends in ``.current``; the errno is that of opening it. Links are never
followed, and what is no plain file is never opened.

LIST is asked with JSON ``{"base": directory, "paths": [...]}``, directories below the base as text.
Answered is for each ``[errno, entries, resolved path]``; one with too many entries is EOVERFLOW.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import json
import os
import posixpath
import stat
from collections.abc import AsyncGenerator, Coroutine, Iterable
from typing import Any, TypeVar, cast

import asyncssh

from nebfs.errors import Changed, Missing, Refused, Unreachable
from nebfs.fetcher.transports.sftp_sessions import Session, encoded

MOST = 256
"""Entries of one directory: as datastores/entries.py says."""

HEAD = 4096
"""First bytes that are read: as content/layers/qcow2_header.py says."""

READING = 64
"""Files that are opened at once."""

KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFBLK: "block device",
    stat.S_IFCHR: "character device",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
}

T = TypeVar("T")

Entry = tuple[str, str, str, str, int, int, int]

_QCOW2 = b"QFI\xfb"


class Reader:
    """Looks into directories; `session` gives at most READING files at a time."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._gate = asyncio.Semaphore(READING)

    async def inside(self, directory: str) -> list[Entry] | None:
        """Return what is in `directory`, which is no link; None if it is too much.

        Raises Missing, Refused or Unreachable.
        """
        names = await self._session.result(self._session.begin(self._names, encoded(directory)))
        if len(names) > MOST:
            return None
        found = await together(
            self.entry(posixpath.join(directory, name), attributes) for name, attributes in names
        )
        return sorted(one for one in found if one is not None)

    async def _names(self, directory: bytes) -> list[tuple[str, asyncssh.SFTPAttrs]]:
        names: list[tuple[str, asyncssh.SFTPAttrs]] = []
        scanning = cast(
            "AsyncGenerator[asyncssh.SFTPName, None]", self._session.client.scandir(directory)
        )
        async with contextlib.aclosing(scanning) as found:
            async for one in found:
                name = os.fsdecode(one.filename)
                if name in {"", ".", ".."} or "/" in name:
                    continue
                names.append((name, one.attrs))
                if len(names) > MOST:
                    break
        return names

    async def entry(
        self, path: str, attributes: asyncssh.SFTPAttrs, *, unread: bool = False
    ) -> Entry | None:
        """Return what is at `path`, of which lstat() has said `attributes`; None if it is gone.

        An `unread` file is not opened.
        """
        name = posixpath.basename(path)
        mode = attributes.permissions or 0
        text, head, failed = "", b"", 0
        try:
            async with self._gate:
                if stat.S_ISLNK(mode):
                    link: Any = await self._session.ask(
                        self._session.client.readlink, encoded(path)
                    )
                    text = os.fsdecode(link)
                elif stat.S_ISREG(mode) and not unread:
                    attributes, head = await self._read(path)
        except (Missing, Changed):
            return None
        except Refused:
            failed = errno.EACCES
        kept = head.startswith(_QCOW2) or name.endswith(".current")
        return (
            name,
            KINDS.get(stat.S_IFMT(mode), "thing of an unknown kind"),
            text,
            base64.b64encode(head.rstrip(b"\0")).decode() if kept else "",
            attributes.size or 0,
            (attributes.mtime or 0) * 10**9 + (attributes.mtime_ns or 0),
            failed,
        )

    async def _read(self, path: str) -> tuple[asyncssh.SFTPAttrs, bytes]:
        session = self._session
        session.forget(path)  # what is kept open may have lost its name to another file
        async with session.opened(path) as file:
            reading = session.read(file, 0, HEAD)
            version = session.begin(file.stat)
            try:
                head = await session.result(reading)
                attributes = await session.result(version)
            finally:
                version.cancel()
            while len(head) < min(HEAD, attributes.size or 0):
                # A host may give less than was asked for. Half a header would say something else.
                more = await session.result(session.read(file, len(head), HEAD))
                if not more:
                    raise Unreachable("the file ends before its end", host=session.host)
                head += more
        return attributes, head


async def list_directories(session: Session, base: str, paths: list[str]) -> bytes:
    """Return the answer to LIST. Raises Unreachable, or Missing when the base is not there."""
    real_base = os.fsdecode(await session.ask(session.client.realpath, encoded(base)))
    await session.ask(session.client.lstat, encoded(real_base))
    reader = Reader(session)

    async def one(path: str) -> tuple[int, list[Entry], str]:
        # Each part of the path below the base is looked at: a link could lead anywhere.
        at = real_base
        try:
            for part in path[len(base) :].strip("/").split("/"):
                at = posixpath.join(at, part)
                found = await session.ask(session.client.lstat, encoded(at))
                if not stat.S_ISDIR(found.permissions or 0):
                    return errno.ENOTDIR, [], at
            entries = await reader.inside(at)
        except Missing:
            return errno.ENOENT, [], at
        except Refused:
            return errno.EACCES, [], at
        except Unreachable:
            if session.lost:
                raise
            return errno.EIO, [], at
        return (errno.EOVERFLOW, [], at) if entries is None else (0, entries, at)

    return json.dumps(await together(map(one, paths))).encode()


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Do `work` at once and return what came of it. Raises the first failure, alone."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except BaseExceptionGroup as failures:
        first = failures.exceptions[0]
        raise first from first.__cause__
    return [task.result() for task in tasks]
