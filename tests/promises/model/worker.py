"""The fetcher's worker without a process: the real client's other end, on a real socket pair.

It speaks the protocol of fetcher/worker.py and asks ``Web`` for what a transport would bring. It
can be killed at any moment, as the process can.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import trio

from nebfs.errors import NebfsError
from nebfs.fetcher import records, wire
from nebfs.fetcher.messages import CallAnswer, CallRequest, FetchRequest
from nebfs.fetcher.process import WorkerProcess
from nebfs.model import Filled, Revision


class Told(Protocol):
    """Who hears of a fetch: the client."""

    async def found(self, revision: Revision) -> None: ...
    async def filled(self, slots: Sequence[Filled]) -> None: ...
    async def early(self, offset: int, data: bytes) -> None: ...


class Web(Protocol):
    """Whom it asks."""

    async def fetch(self, request: FetchRequest, fd: int, told: Told) -> Revision: ...
    async def call(self, request: CallRequest) -> CallAnswer: ...


@dataclass
class _Running:
    """A question under way."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    cancelled: bool = False


class ScriptedWorker(WorkerProcess):
    """One life of the worker. Its tasks run in `nursery`."""

    def __init__(self, web: Web, nursery: trio.Nursery) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            wire.enlarge(end)
            end.setblocking(False)
        self._socket = ours
        self._sending = trio.Lock()
        self._buffer = wire.receive_buffer()
        self._view = memoryview(self._buffer)
        self._web = web
        self._theirs = theirs
        self._answering = trio.Lock()
        self._running: dict[int, _Running] = {}
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        nursery.start_soon(self._serve)

    @property
    def pid(self) -> int:
        """A number that no process has."""
        return 1 << 23

    def die(self) -> None:
        """End, as SIGKILL ends a process."""
        self._scope.cancel()

    @property
    def under_way(self) -> int:
        return len(self._running)

    async def end(self) -> int | None:
        """See WorkerProcess.end."""
        with trio.CancelScope(shield=True):
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
            self._scope.cancel()
            await self._ended.wait()
        return 0

    async def _serve(self) -> None:
        buffer = wire.receive_buffer()
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    while True:
                        await trio.lowlevel.wait_readable(self._theirs)
                        count, ancillary, flags, _ = self._theirs.recvmsg_into(
                            [buffer], wire.ANCILLARY_SIZE, wire.RECEIVE_FLAGS
                        )
                        if not count:
                            break
                        frame = wire.unpack(memoryview(buffer)[:count], ancillary, flags)
                        self._take(frame, nursery)
                    nursery.cancel_scope.cancel()
        except* (OSError, trio.ClosedResourceError):
            pass
        finally:
            trio.lowlevel.notify_closing(self._theirs)
            self._theirs.close()
            self._ended.set()

    def _take(self, frame: wire.Frame, nursery: trio.Nursery) -> None:
        number: int = frame.header["id"]
        match frame.header["do"]:
            case "fetch":
                (fd,) = frame.fds
                request = records.fetch_from_json(frame.header)
                self._start(nursery, number, lambda: self._fetch(number, request, fd), fd)
            case "call":
                call = records.call_from_json(frame.header, frame.payload)
                self._start(nursery, number, lambda: self._call(call), -1)
            case "cancel":
                running = self._running.get(number)
                if running is None:
                    nursery.start_soon(self._send, {"is": "cancelled", "id": number})
                else:
                    running.cancelled = True
                    running.scope.cancel()
            case _:
                nursery.start_soon(self._send, {"is": "answered", "id": number})

    def _start(self, nursery: trio.Nursery, number: int, work: Callable[[], Any], fd: int) -> None:
        self._running[number] = _Running()  # at once: the next frame may cancel it
        nursery.start_soon(self._run, number, work, fd)

    async def _run(self, number: int, work: Callable[[], Any], fd: int) -> None:
        running = self._running[number]
        answer: dict[str, Any] | None = None
        body = b""
        try:
            with running.scope:
                try:
                    answer, body = await work()
                except NebfsError as exc:
                    answer = {"is": "failed", **records.error_to_json(exc)}
        finally:
            del self._running[number]
            if fd >= 0:
                os.close(fd)
        if answer is not None:
            await self._send({"id": number, **answer}, body)
        if running.cancelled:
            await self._send({"is": "cancelled", "id": number})

    async def _fetch(
        self, number: int, request: FetchRequest, fd: int
    ) -> tuple[dict[str, Any], bytes]:
        revision = await self._web.fetch(request, fd, _Telling(self, number))
        found = records.revision_to_json(revision)
        return {"is": "fetched", "revision": found, "slots": []}, b""

    async def _call(self, request: CallRequest) -> tuple[dict[str, Any], bytes]:
        answer = await self._web.call(request)
        return {"is": "answered", **records.answer_to_json(answer)}, answer.body

    async def _send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        parcel = wire.Parcel(header, payload)
        try:
            async with self._answering:
                while True:
                    try:
                        self._theirs.sendmsg(*parcel.arguments)
                    except BlockingIOError:
                        await trio.lowlevel.wait_writable(self._theirs)
                    else:
                        return
        finally:
            parcel.close()


@dataclass
class _Telling:
    worker: ScriptedWorker
    number: int
    revision: Revision | None = None

    async def found(self, revision: Revision) -> None:
        self.revision = revision

    async def filled(self, slots: Sequence[Filled]) -> None:
        message: dict[str, Any] = {"is": "filled", "id": self.number}
        if self.revision is not None:
            message["found"] = records.revision_to_json(self.revision)
        message["slots"] = records.filled_to_json(slots)
        await self.worker._send(message)

    async def early(self, offset: int, data: bytes) -> None:
        await self.worker._send({"is": "early", "id": self.number, "at": offset}, data)
