"""One SFTP conversation with one host: its requests, its silence, its open files.

Many requests are under way at once, and are answered in their order (draft-ietf-secsh-filexfer-02,
section 3: as if each were done before the next). asyncssh loses a request that is sent while its
connection closes, and waits for ever for a host that stands still: so every request is a task that
ends when the session does, and a session in which nothing comes for too long is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import asyncssh

from nebfs.errors import Changed, Missing, NebfsError, Refused, Unreachable
from nebfs.model import shown_line

T = TypeVar("T")
P = ParamSpec("P")

PIECE = 128 << 10
"""Bytes of one read: OpenSSH gives up to 255 KiB at once, and says so."""

OPEN_FILES = 32
"""Files kept open in a session; sftp-server of OpenSSH allows some hundred."""

_PATH_MAX = 4096  # linux/limits.h

FILE_IDLE, SESSION_IDLE = 60.0, 300.0
"""Seconds after which what nobody uses is closed."""


@dataclass(slots=True)
class _Kept:
    """An open file; `users` are the fetches that read from it now."""

    opening: asyncio.Task[asyncssh.SFTPClientFile]
    users: int = 0
    used: float = 0.0


class Session:
    """Owned by the pool of hosts. `host` is its name as it may be shown."""

    def __init__(
        self,
        host: str,
        connection: asyncssh.SSHClientConnection,
        client: asyncssh.SFTPClient,
        stall_timeout: float,
    ) -> None:
        self.host = host
        self.client = client
        self.lost = ""
        """Why it is over; empty while it is not."""
        self.silent = False
        """Whether it is over because the host stood still."""
        self.round_trip = 0.0
        """The least seconds that a small request has taken."""
        self.piece = max(min(PIECE, client.limits.max_read_len), 1)
        self._connection = connection
        self._stall = stall_timeout
        self._loop = asyncio.get_running_loop()
        self._heard = self._used = self._loop.time()
        self._waiting: set[asyncio.Task[object]] = set()
        self._files: OrderedDict[str, _Kept] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()
        self._watching = self._loop.create_task(self._watch())

    @property
    def alive(self) -> bool:
        """Whether it can be asked something."""
        if not self.lost and self._connection.is_closed():
            self.end("the connection was closed")
        return not self.lost

    def end(self, reason: str) -> None:
        """Drop the connection; what is under way fails with `reason`."""
        if self.lost:
            return
        self.lost = reason
        self._watching.cancel()
        for task in (*self._waiting, *(kept.opening for kept in self._files.values())):
            task.cancel()
        self._files.clear()
        self._connection.abort()

    async def aclose(self) -> None:
        """End it, and wait until nothing of it runs."""
        self.end("it was closed")
        running = [self._watching, *self._waiting, *self._closing]
        await asyncio.gather(*running, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._connection.wait_closed()

    # --- requests -----------------------------------------------------------------------------

    def begin(
        self, ask: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Task[T]:
        """Send a request; `result` is to be awaited for its answer."""

        async def answered() -> T:
            try:
                answer = await ask(*args, **kwargs)
            except asyncssh.SFTPError:
                self._heard = self._loop.time()
                raise
            self._heard = self._loop.time()
            return answer

        now = self._loop.time()
        if not self._waiting:
            self._heard = now
        self._used = now
        task = self._loop.create_task(answered())
        self._waiting.add(task)
        task.add_done_callback(self._done)
        if self.lost:
            task.cancel()
        return task

    def _done(self, task: asyncio.Task[T]) -> None:
        self._waiting.discard(task)
        if not task.cancelled():
            task.exception()  # whoever gave up waiting does not want to hear of it

    async def result(self, task: asyncio.Task[T]) -> T:
        """Return the answer to a request. Raises NebfsError."""
        try:
            return await task
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if self.lost and task.cancelled() and not (me is not None and me.cancelling()):
                raise self._over() from None
            raise
        except NebfsError:
            raise
        except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection) as exc:
            self.end(shown_line(exc.reason))
            raise self._over() from exc
        except asyncssh.SFTPError as exc:
            raise failure(exc, self.host) from exc
        except (asyncssh.Error, OSError, EOFError, ValueError) as exc:
            self.end(shown_line(str(exc)) or type(exc).__name__)
            raise self._over() from exc

    async def ask(self, ask: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Send a small request and return its answer. Raises NebfsError."""
        sent = self._loop.time()
        answer = await self.result(self.begin(ask, *args, **kwargs))
        took = self._loop.time() - sent
        self.round_trip = min(took, self.round_trip or took)
        return answer

    def _over(self) -> Unreachable:
        return Unreachable("the connection broke", host=self.host, reason=self.lost)

    def read(self, file: asyncssh.SFTPClientFile, start: int, stop: int) -> asyncio.Task[bytes]:
        """Ask for bytes of an open file; there may come fewer."""

        async def read() -> bytes:
            data: bytes = await file.read(stop - start, start)
            return data

        return self.begin(read)

    # --- open files ---------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def opened(self, path: str) -> AsyncIterator[asyncssh.SFTPClientFile]:
        """Give the file at `path`, which has no link in it. It is kept open for a while."""
        kept = self._files.get(path)
        if kept is None:
            kept = _Kept(self._loop.create_task(self._open(path)))
            self._files[path] = kept
        self._files.move_to_end(path)
        kept.users += 1
        try:
            yield await self.result(asyncio.shield(kept.opening))  # type: ignore[arg-type]
        finally:
            kept.users -= 1
            kept.used = self._loop.time()
            opening = kept.opening
            if opening.done() and (opening.cancelled() or opening.exception()):
                self._drop(path, kept)
            self._close_some()

    def forget(self, path: str) -> None:
        """Open `path` anew next time: another file may have taken its place."""
        kept = self._files.get(path)
        if kept is not None:
            self._drop(path, kept)

    async def _open(self, path: str) -> asyncssh.SFTPClientFile:
        # What is no file is not opened: a pipe would hold the whole conversation.
        name = encoded(path)
        looking = self.begin(self.client.lstat, name)
        real: bytes = await self.ask(self.client.realpath, name)
        attributes = await self.result(looking)
        if not stat.S_ISREG(attributes.permissions or 0) or real != name:
            raise Changed("there is something else in the file's place", host=self.host)
        opening = self.begin(self.client.open, name, "rb", encoding=None, block_size=0)
        return await self.result(opening)

    def _drop(self, path: str, kept: _Kept) -> None:
        if self._files.get(path) is kept:
            del self._files[path]
        task = self._loop.create_task(self._close(kept))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, kept: _Kept) -> None:
        with contextlib.suppress(NebfsError, asyncssh.Error, OSError, asyncio.CancelledError):
            file = await kept.opening
            while kept.users:  # noqa: ASYNC110 - seldom, and never for long
                await asyncio.sleep(0.1)
            await self.result(self.begin(file.close))

    def _close_some(self, older_than: float = -1.0) -> None:
        """Close the files that nobody uses: the oldest ones beyond OPEN_FILES, and old ones."""
        for path, kept in list(self._files.items()):
            if not kept.users and (len(self._files) > OPEN_FILES or kept.used < older_than):
                self._drop(path, kept)

    async def _watch(self) -> None:
        pause = min(self._stall / 4, 1.0)
        while True:
            await asyncio.sleep(pause)
            now = self._loop.time()
            if not self.alive:
                return
            if self._waiting and now - self._heard > self._stall:
                self.silent = True
                self.end(f"silent for {self._stall:g} seconds")
            elif not self._waiting and now - self._used > SESSION_IDLE:
                self.end("nobody used it")
            else:
                self._close_some(now - FILE_IDLE)


def encoded(path: str) -> bytes:
    """Return `path` as it is sent. Raises Missing for what no file can be called.

    OpenSSH's sftp-server ends when it is asked for such a name.
    """
    try:
        name = os.fsencode(path)
    except UnicodeEncodeError:
        name = b""
    if not name or b"\0" in name or len(name) >= _PATH_MAX:
        raise Missing("no file can have such a name")
    return name


def failure(exc: asyncssh.SFTPError, host: str) -> NebfsError:
    """Return what a status other than OK means."""
    match exc:
        case asyncssh.SFTPNoSuchFile() | asyncssh.SFTPNoSuchPath():
            return Missing("the file is not there", host=host)
        case asyncssh.SFTPPermissionDenied():
            return Refused("the user who logs in there may not read the file", host=host)
        case _:
            return Unreachable(
                "the host cannot read the file", host=host, reason=shown_line(exc.reason)
            )
