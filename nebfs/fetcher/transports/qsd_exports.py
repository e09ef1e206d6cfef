"""What qemu-storage-daemons export: one process for each node that is read. asyncio.

A process is started when its node is first read, serves everybody who reads it, and ends some time
after the last of them. One that fails is not used again: the next read starts another, which says
what is wrong now.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import structlog

from nebfs.errors import NebfsError, Unreachable
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports.nbd import Connection
from nebfs.fetcher.transports.qsd import NAME, Node, Process
from nebfs.model import Revision

IDLE = 60.0
"""Seconds for which a process is kept that nobody reads from: a session of the target's, and 10 MB
of memory. Starting one takes some 50 ms and a few round trips."""

FRESH = 5.0
"""Seconds for which the length of what is exported is believed. QEMU asks for it once, at the
beginning."""

MOST = 64
"""Processes at a time; who needs one more waits for another to end."""

EXIT = 2.0
"""Seconds that one which has hung up is given to say why."""

Explain = Callable[[Node, str], NebfsError]
"""Takes what a process said before it ended; returns what that means."""

log = structlog.get_logger()


class OpenExport:
    """A node that is exported, and the process behind it."""

    def __init__(self, process: Process, connection: Connection) -> None:
        self.users = 0
        self.outdated = False
        """Whether it is not to be used again."""
        self.closing = False
        self.idle: asyncio.TimerHandle | None = None
        self.revision = Revision(connection.export.size)
        self._loop = asyncio.get_running_loop()
        self._opened = self._loop.time()
        self._process = process
        self._connection = connection

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can be read."""
        return not self.outdated and self._connection.failure is None

    @property
    def fresh(self) -> bool:
        """Whether its length was asked for just now."""
        return self._loop.time() - self._opened <= FRESH

    async def read(self, start: int, stop: int) -> bytearray:
        """Return the bytes of [start, stop). Raises NebfsError."""
        return await self._connection.read(start, stop)

    async def aclose(self) -> None:
        """End the process, at once if something is wrong with it."""
        broken = self._connection.failure is not None
        await self._connection.aclose()
        await (self._process.end(grace=0) if broken else self._process.end())


class Exports:
    """The exports of one transport, shared by those who read them."""

    def __init__(self, settings: FetcherSettings, explain: Explain) -> None:
        self._settings = settings
        self._explain = explain
        self._open: dict[Node, OpenExport] = {}
        self._opening: dict[Node, asyncio.Task[OpenExport]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(MOST)
        self._waiting = 0
        self._loop = asyncio.get_running_loop()

    @contextlib.asynccontextmanager
    async def use(self, node: Node, expected: Revision | None) -> AsyncIterator[OpenExport]:
        """Give the export of `node`, as it is now if it is not as `expected`. Raises NebfsError."""
        export = await self._get(node, expected)
        export.users += 1
        if export.idle is not None:
            export.idle.cancel()
            export.idle = None
        try:
            yield export
        except Unreachable:
            export.outdated = True  # whatever is wrong may be wrong with this process
            raise
        finally:
            export.users -= 1
            if self._waiting and not export.users:
                export.outdated = True  # somebody needs its turn
            self._tidy(node, export)

    async def _get(self, node: Node, expected: Revision | None) -> OpenExport:
        while True:
            export = self._open.get(node)
            if export is not None:
                if not export.fresh and (
                    expected is None or expected.differs_from(export.revision)
                ):
                    export.outdated = True
                self._tidy(node, export)
                if export.alive:
                    return export
            export = await self._opened(node)
            if export.alive:
                return export

    async def _opened(self, node: Node) -> OpenExport:
        """Open one; all who want it share the outcome, so that none waits for two."""
        task = self._opening.get(node)
        if task is None:
            task = self._opening[node] = asyncio.create_task(self._open_anew(node))

            def over(task: asyncio.Task[OpenExport]) -> None:
                del self._opening[node]
                if not task.cancelled():
                    task.exception()  # everybody who waits for it may be gone

            task.add_done_callback(over)
        return await asyncio.shield(task)

    async def _open_anew(self, node: Node) -> OpenExport:
        await self._turn()
        try:
            process, connection = await self._started(node)
        except BaseException:
            self._turns.release()
            raise
        export = self._open[node] = OpenExport(process, connection)
        self._tidy(node, export)
        return export

    async def _started(self, node: Node) -> tuple[Process, Connection]:
        limit = self._settings.connect_timeout
        try:
            process = Process(node)
        except OSError as exc:
            raise Unreachable("no process can be started", reason=exc.strerror) from exc
        log.debug("qsd.started", pid=process.pid, reads=node.shown)
        try:
            async with asyncio.timeout(limit):
                return process, await Connection.open(
                    process.socket, NAME, self._settings.stall_timeout
                )
        except TimeoutError as exc:
            await process.end(grace=0)
            raise Unreachable("no answer in time", after=limit, where=node.shown) from exc
        except ConnectionError as exc:
            await process.ended(EXIT)
            await process.end(grace=0)
            raise self._explain(node, process.said) from exc
        except BaseException:
            await process.end(grace=0)
            raise

    async def _turn(self) -> None:
        """Wait until one more process may be started. Raises Unreachable."""
        self._waiting += 1
        try:
            if self._turns.locked():
                self._retire_idle()
            async with asyncio.timeout(self._settings.connect_timeout):
                await self._turns.acquire()
        except TimeoutError as exc:
            raise Unreachable("too many units are read at a time", limit=MOST) from exc
        finally:
            self._waiting -= 1

    def _retire_idle(self) -> None:
        """End the one that nobody has read for the longest time."""
        for node, export in self._open.items():
            if not export.users:
                export.outdated = True
                self._tidy(node, export)
                return

    def _tidy(self, node: Node, export: OpenExport) -> None:
        """Close it if it is not to be used again, else when nobody has used it for a while."""
        if not export.alive:
            export.outdated = True
            if self._open.get(node) is export:
                del self._open[node]
            if not export.users:
                self._close(export)
        elif not export.users and export.idle is None:
            # They are in the order of their last use.
            self._open[node] = self._open.pop(node)
            export.idle = self._loop.call_later(IDLE, self._expire, node, export)

    def _expire(self, node: Node, export: OpenExport) -> None:
        export.outdated = True
        self._tidy(node, export)

    def _close(self, export: OpenExport) -> None:
        if export.closing:
            return
        export.closing = True
        if export.idle is not None:
            export.idle.cancel()

        async def close() -> None:
            try:
                await export.aclose()
            finally:
                self._turns.release()

        task = asyncio.create_task(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        """End every process."""
        opening = list(self._opening.values())
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        for node, export in list(self._open.items()):
            export.outdated = True
            del self._open[node]
            self._close(export)
        while self._closing:
            await asyncio.wait(self._closing)
