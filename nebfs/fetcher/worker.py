"""The fetcher process: takes requests from its socket, runs each as a task, answers. asyncio.

It keeps nothing that matters, caps nothing (the daemon decides how much is asked at once) and ends
with the daemon: by SIGTERM, by the end of the socket, and by PR_SET_PDEATHSIG when the daemon is
killed while a child of its own still holds the socket.

Frames in: ``{"do": "fetch" | "call" | "ping" | "reload" | "cancel", "id": number, ...}``. Frames
out: ``{"is": "filled" | "early" | "fetched" | "answered" | "failed" | "cancelled", "id": number,
...}``. Every cancel is answered with cancelled, which says that nothing of that request is written
any more.
"""

from __future__ import annotations

import asyncio
import collections
import ctypes
import errno
import os
import resource
import signal
import socket
import sys
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import structlog

from nebfs import logs
from nebfs.errors import FetcherDied, NebfsError, Unreachable
from nebfs.fetcher import access, records, wire
from nebfs.fetcher.messages import CallRequest, FetchRequest, Filled
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports import Transport, make_transport
from nebfs.model import Revision

FRAMES_PER_TURN = 64
"""Requests taken before the loop may look at the network again."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h

_Answer = tuple[Mapping[str, Any], bytes]

log = structlog.get_logger()


def main() -> None:
    """Run until the daemon closes the socket or says SIGTERM."""
    descriptor, parent, text = sys.argv[1:]
    settings = FetcherSettings.from_json(text)
    logs.configure(settings.log_level, sys.stderr, settings.log_format)
    # Before all else: a terminal's Ctrl-C is the daemon's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with(int(parent))
    os.chdir("/")
    _allow_many_files()
    _keep_memory()
    with socket.socket(fileno=int(descriptor)) as sock:
        sock.setblocking(False)
        asyncio.run(_serve(sock, settings))


async def _serve(sock: socket.socket, settings: FetcherSettings) -> None:
    worker = Worker(sock, settings)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, worker.stop)
    try:
        await worker.run()
    finally:
        # The end of the socket and SIGTERM usually come together: one that comes while the loop
        # closes must not find a handler that writes to a closed descriptor.
        loop.remove_signal_handler(signal.SIGTERM)


def _die_with(parent: int) -> None:
    """Be killed when the daemon dies however it dies (prctl(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        log.warning("not bound to the daemon's life", errno=ctypes.get_errno())
    if os.getppid() != parent:
        sys.exit(0)  # it died before prctl was called


def _allow_many_files() -> None:
    """Every open fetch is a descriptor here; the usual soft limit of 1024 is for select(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _keep_memory() -> None:
    """Let glibc keep what a transfer frees (mallopt(3)).

    Each chunk that asyncio receives is a fresh object of 256 KiB. By default glibc gives such
    memory back to the system and faults it in again for the next chunk. Measured on 1 GiB: 10,000
    page faults instead of 31,000.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 4 << 20)
        mallopt(_M_TRIM_THRESHOLD, 32 << 20)


class Worker:
    """One socket to the daemon, its open requests and the transports."""

    def __init__(self, sock: socket.socket, settings: FetcherSettings) -> None:
        """`sock` is a non-blocking SOCK_SEQPACKET socket and stays the caller's."""
        self._socket = sock
        self._settings = settings
        self._buffer = wire.receive_buffer()
        self._view = memoryview(self._buffer)
        self._outbox: collections.deque[wire.Parcel] = collections.deque()
        self._tasks: dict[int, asyncio.Task[_Answer]] = {}
        self._transports: dict[str, Transport] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Let `run` return."""
        self._stopped.set()

    async def run(self) -> None:
        """Serve until the socket ends or `stop` is called."""
        self._loop.add_reader(self._socket, self._receive)
        try:
            await self._stopped.wait()
        finally:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), *self._retiring, return_exceptions=True)
            for transport in self._transports.values():
                await transport.aclose()
            while self._outbox:
                self._outbox.popleft().close()

    def _receive(self) -> None:
        for _ in range(FRAMES_PER_TURN):
            try:
                count, ancillary, flags, _ = self._socket.recvmsg_into(
                    [self._buffer], wire.ANCILLARY_SIZE, wire.RECEIVE_FLAGS
                )
            except BlockingIOError:
                return
            except OSError:
                count, ancillary, flags = 0, [], 0
            if count == 0:
                self.stop()
                return
            try:
                self._take(wire.unpack(self._view[:count], ancillary, flags))
            except Exception as exc:
                # A request is lost and nobody would ever be told: start afresh.
                log.error("daemon not understood", exc_info=exc)
                self.stop()
                return

    def _take(self, frame: wire.Frame) -> None:
        header = frame.header
        number: int = header["id"]
        match header["do"]:
            case "fetch":
                request = records.fetch_from_json(header)
                (fd,) = frame.fds
                self._start(number, self._fetch(number, request, fd), fd)
            case "call":
                call = records.call_from_json(header, frame.payload)
                self._start(number, self._call(call))
            case "ping":
                self.send({"is": "answered", "id": number})
            case "reload":
                self._start(number, self._reload())
            case "cancel":
                running = self._tasks.get(number)
                if running is None:
                    self.send({"is": "cancelled", "id": number})
                else:
                    running.add_done_callback(
                        lambda _: self.send({"is": "cancelled", "id": number})
                    )
                    running.cancel()

    def _start(self, number: int, work: Coroutine[Any, Any, _Answer], fd: int = -1) -> None:
        """Run `work` as a task; when it ends close `fd`, and only then send its answer.

        So whoever has the answer knows that no descriptor of the file is left here. And not in the
        task itself: one that is cancelled before its first step never runs at all.
        """
        task = self._loop.create_task(work)
        self._tasks[number] = task

        def finish(_: object) -> None:
            if fd >= 0:
                os.close(fd)
            del self._tasks[number]
            if not task.cancelled():
                message, body = task.result()
                self.send({"id": number, **message}, body)

        task.add_done_callback(finish)

    async def _fetch(self, number: int, request: FetchRequest, fd: int) -> _Answer:
        reporter = _Reporter(self, number)
        try:
            transport = self._transport(request.locator.transport)
            revision = await transport.fetch(request, fd, reporter)
        except Exception as exc:  # noqa: BLE001 - every failure is an answer
            reporter.send()  # what was filled before it is good
            return _failed(exc), b""
        found = records.revision_to_json(revision)
        return {"is": "fetched", "revision": found, "slots": reporter.take()}, b""

    async def _call(self, request: CallRequest) -> _Answer:
        try:
            answer = await self._transport(request.transport).call(request)
        except Exception as exc:  # noqa: BLE001 - every failure is an answer
            return _failed(exc), b""
        return {"is": "answered", **records.answer_to_json(answer)}, answer.body

    async def _reload(self) -> _Answer:
        """Have what is asked from now on done by new transports, which read their settings' files
        anew.
        """
        try:
            if self._settings.credentials_file:
                access.load(self._settings.credentials_file)
        except NebfsError as exc:
            return _failed(exc), b""
        old, self._transports = list(self._transports.values()), {}
        users = {task for task in self._tasks.values() if task is not asyncio.current_task()}
        retiring = self._loop.create_task(_retire(old, users))
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)
        return {"is": "answered"}, b""

    def _transport(self, name: str) -> Transport:
        transport = self._transports.get(name)
        if transport is None:
            transport = self._transports[name] = make_transport(name, self._settings)
        return transport

    def send(self, header: Mapping[str, Any], payload: bytes = b"") -> None:
        """Send one frame to the daemon, in order, now or as soon as the socket takes it."""
        try:
            parcel = wire.Parcel(header, payload)
        except OSError as exc:
            # No memory or no descriptor for a big answer.
            reason = Unreachable("the answer could not be handed over", reason=exc.strerror)
            failure = {"is": "failed", "id": header["id"], **records.error_to_json(reason)}
            parcel = wire.Parcel(failure)
        self._outbox.append(parcel)
        if len(self._outbox) == 1:
            self._post()

    def _post(self) -> None:
        """Send what is in the outbox; what the socket does not take now waits for it."""
        while self._outbox:
            try:
                self._socket.sendmsg(*self._outbox[0].arguments)
            except BlockingIOError:
                self._loop.add_writer(self._socket, self._post)
                return
            except OSError as exc:
                if exc.errno in (errno.ETOOMANYREFS, errno.ENOBUFS):
                    self._loop.call_later(0.01, self._post)
                    return
                self.stop()  # the daemon is gone
                return
            self._outbox.popleft().close()
        self._loop.remove_writer(self._socket)


class _Reporter:
    """The Listener of one fetch: reports in batches.

    What is filled in one turn of the loop goes out in one message, and the last slots go out with
    the answer itself: a fetch of one slot costs one message.
    """

    __slots__ = ("_found", "_loop", "_number", "_slots", "_worker")

    def __init__(self, worker: Worker, number: int) -> None:
        self._worker = worker
        self._number = number
        self._found: Revision | None = None
        self._slots: list[Filled] = []
        self._loop = asyncio.get_running_loop()

    def found(self, revision: Revision) -> None:
        self._found = revision

    def filled(self, slots: Sequence[Filled]) -> None:
        if not self._slots:
            self._loop.call_soon(self.send)
        self._slots.extend(slots)

    def early(self, offset: int, data: bytes) -> None:
        self._worker.send({"is": "early", "id": self._number, "at": offset}, data)

    def send(self) -> None:
        if not self._slots:
            return
        message: dict[str, Any] = {"is": "filled", "id": self._number}
        if self._found is not None:
            message["found"] = records.revision_to_json(self._found)
            self._found = None
        message["slots"] = self.take()
        self._worker.send(message)

    def take(self) -> list[tuple[int, int, int, bool]]:
        slots, self._slots = self._slots, []
        return records.filled_to_json(slots)


async def _retire(transports: Sequence[Transport], users: set[asyncio.Task[_Answer]]) -> None:
    """Close `transports` once nobody of `users` is at work any more."""
    if users:
        await asyncio.wait(users)
    for transport in transports:
        await transport.aclose()


def _failed(exc: Exception) -> dict[str, Any]:
    if isinstance(exc, NebfsError):
        failure = exc
    else:
        # Our own mistake. It must not hang the daemon's reader nor take other requests along.
        log.error("request failed unexpectedly", exc_info=exc)
        failure = FetcherDied("the fetcher failed with this request", reason=type(exc).__name__)
    return {"is": "failed", **records.error_to_json(failure)}
