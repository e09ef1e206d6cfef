"""A client of the NBD protocol, as far as reading needs it. asyncio.

Many reads are under way at once over one connected socket. A server that says where there is
nothing (structured replies) need not send zeros. What is read is complete or is an error, and a
server in which nothing moves for too long is given up.
Source: the NBD project's doc/proto.md: fixed newstyle negotiation, simple and structured replies.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from dataclasses import dataclass, field

from nebfs.errors import BadAnswer, NebfsError, Unreachable
from nebfs.fetcher.transports import nbd_greeting
from nebfs.fetcher.transports.nbd_greeting import Export

LONGEST = 32 << 20
"""Bytes of one read: what every server takes (doc/proto.md, "Block size constraints")."""

_REQUEST = struct.Struct(">IHHQQI")
_REQUEST_MAGIC = 0x25609513
_READ = 0

# Both kinds of reply have a handle from their eighth byte on, and the shorter head is 16 bytes.
_SIMPLE, _SIMPLE_MAGIC = struct.Struct(">IIQ"), 0x67446698
_CHUNK, _CHUNK_MAGIC = struct.Struct(">IHHQI"), 0x668E33EF
_DONE = 1  # flag of the last chunk
_NONE, _DATA, _HOLE = 0, 1, 2  # types of chunks
_ERROR_BIT = 1 << 15  # of the types that report an error
_OFFSET = struct.Struct(">Q")
_HOLE_FACTS = struct.Struct(">QI")
_ERROR_FACTS = struct.Struct(">IH")
_MAX_ERROR = 4096 + 64  # a string of the protocol has at most 4096 bytes


@dataclass(slots=True)
class _Reading:
    """A read that is not answered yet. `came` counts the bytes of it that are known."""

    start: int
    buffer: bytearray
    answer: asyncio.Future[bytearray]
    came: int = 0
    reached: int = 0
    """Where in the buffer the last chunk has ended: chunks have to come in order, as QEMU's do, so
    that none can be there twice."""
    error: int = 0

    view: memoryview = field(init=False)

    def __post_init__(self) -> None:
        self.view = memoryview(self.buffer)

    def part(self, offset: int, length: int) -> memoryview:
        """Return where the bytes of a chunk belong. Raises BadAnswer."""
        at = offset - self.start
        if at < self.reached or length < 1 or at + length > len(self.buffer):
            raise BadAnswer("the NBD server sent bytes that were not asked for")
        self.came += length
        self.reached = at + length
        return self.view[at : self.reached]


class Connection:
    """One socket to one export. Its own until ``aclose``; it is over after the first failure."""

    def __init__(self, sock: socket.socket, export: Export, stall_timeout: float) -> None:
        """`sock` is connected, does not block, and stays the caller's to close."""
        self.export = export
        self.failure: NebfsError | None = None
        """Why it is over; None while it is not."""
        self._socket = sock
        self._stall = stall_timeout
        self._structured = export.structured
        self._loop = asyncio.get_running_loop()
        self._readings: dict[int, _Reading] = {}
        self._number = 0
        self._outbox = bytearray()
        self._sending = False
        self._heard = self._loop.time()
        self._alarm: asyncio.TimerHandle | None = None
        self._receiving = self._loop.create_task(self._receive())

    @classmethod
    async def open(cls, sock: socket.socket, name: str, stall_timeout: float) -> Connection:
        """Greet the server and choose the export `name`.

        Raises ConnectionError when it hangs up, BadAnswer, or Missing; and sets no limit of time.
        """
        return cls(sock, await nbd_greeting.negotiate(sock, name), stall_timeout)

    async def read(self, start: int, stop: int) -> bytearray:
        """Return the bytes of [start, stop), at most LONGEST of them. Raises NebfsError."""
        if not 0 <= start < stop <= self.export.size or stop - start > LONGEST:
            raise ValueError(f"[{start}, {stop}) cannot be read at once")
        if self.failure is not None:
            raise _again(self.failure)
        self._number += 1
        answer: asyncio.Future[bytearray] = self._loop.create_future()
        if not self._readings:
            self._heard = self._loop.time()
        self._readings[self._number] = _Reading(start, bytearray(stop - start), answer)
        if self._alarm is None:
            self._alarm = self._loop.call_later(self._stall, self._watch)
        self._outbox += _REQUEST.pack(_REQUEST_MAGIC, 0, _READ, self._number, start, stop - start)
        self._send()
        # A read that nobody waits for any more is answered all the same.
        return await answer

    async def aclose(self) -> None:
        """End it: whoever waits for a read gets an error."""
        self._fail(Unreachable("the NBD connection was closed"))
        self._receiving.cancel()
        await asyncio.gather(self._receiving, return_exceptions=True)

    def _send(self) -> None:
        """Send what is to be sent, now or as soon as the socket takes it."""
        try:
            while self._outbox:
                count = self._socket.send(self._outbox)
                del self._outbox[:count]
        except BlockingIOError:
            if not self._sending:
                self._sending = True
                self._loop.add_writer(self._socket, self._send)
            return
        except OSError as exc:
            self._fail(_lost(exc))
        if self._sending:
            self._sending = False
            self._loop.remove_writer(self._socket)

    def _watch(self) -> None:
        """Give the server up if nothing has come for too long, though something is asked."""
        self._alarm = None
        if not self._readings:
            return
        silent = self._loop.time() - self._heard
        if silent >= self._stall:
            self._fail(Unreachable("what is read fell silent", after=self._stall))
        else:
            self._alarm = self._loop.call_later(self._stall - silent, self._watch)

    def _fail(self, failure: NebfsError) -> None:
        if self.failure is not None:
            return
        self.failure = failure
        if self._sending:
            self._sending = False
            self._loop.remove_writer(self._socket)
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        for reading in self._readings.values():
            if not reading.answer.done():
                reading.answer.set_exception(_again(failure))
        self._readings.clear()

    async def _receive(self) -> None:
        head = bytearray(_CHUNK.size)
        view = memoryview(head)
        try:
            while self.failure is None:
                await self._fill(view[: _SIMPLE.size])
                (magic,) = struct.unpack_from(">I", head)
                if magic == _SIMPLE_MAGIC:
                    await self._simple(*_SIMPLE.unpack_from(head)[1:])
                elif magic == _CHUNK_MAGIC and self._structured:
                    await self._fill(view[_SIMPLE.size :])
                    await self._chunk(*_CHUNK.unpack(head)[1:])
                else:
                    raise BadAnswer("that is no reply of an NBD server")
        except NebfsError as exc:
            self._fail(exc)
        except OSError as exc:
            self._fail(_lost(exc))

    async def _fill(self, view: memoryview) -> None:
        while view:
            count = await self._loop.sock_recv_into(self._socket, view)
            if not count:
                raise ConnectionResetError("the server has hung up")
            self._heard = self._loop.time()
            view = view[count:]

    async def _simple(self, error: int, number: int) -> None:
        reading = self._of(number)
        if not error:
            if self._structured:
                raise BadAnswer("an NBD server answered a read with a simple reply")
            await self._fill(reading.part(reading.start, len(reading.buffer)))
        self._settle(number, reading, error)

    async def _chunk(self, flags: int, kind: int, number: int, length: int) -> None:
        reading = self._of(number)
        if kind & _ERROR_BIT:
            if not _ERROR_FACTS.size <= length <= _MAX_ERROR:
                raise BadAnswer("an NBD server's error has a strange length")
            facts = bytearray(length)
            await self._fill(memoryview(facts))
            # What it says beside is not shown: it is QEMU's word for the number.
            reading.error = _ERROR_FACTS.unpack_from(facts)[0] or 5
        elif kind == _DATA and length > _OFFSET.size:
            (offset,) = _OFFSET.unpack(await self._exactly(_OFFSET.size))
            await self._fill(reading.part(offset, length - _OFFSET.size))
        elif kind == _HOLE and length == _HOLE_FACTS.size:
            # The buffer is zeros already.
            reading.part(*_HOLE_FACTS.unpack(await self._exactly(_HOLE_FACTS.size)))
        elif kind != _NONE or length or not flags & _DONE:
            raise BadAnswer("an NBD server's reply to a read is not understood", kind=kind)
        if flags & _DONE:
            self._settle(number, reading, reading.error)

    async def _exactly(self, length: int) -> bytearray:
        data = bytearray(length)
        await self._fill(memoryview(data))
        return data

    def _of(self, number: int) -> _Reading:
        reading = self._readings.get(number)
        if reading is None:
            raise BadAnswer("an NBD server answered what was not asked")
        return reading

    def _settle(self, number: int, reading: _Reading, error: int) -> None:
        if not error and reading.came != len(reading.buffer):
            raise BadAnswer("an NBD server left out bytes that were asked for")
        del self._readings[number]
        if reading.answer.done():
            return
        if error:
            # The protocol's numbers are those of Linux.
            failure = Unreachable("reading gives an error", reason=os.strerror(error))
            reading.answer.set_exception(failure)
        else:
            reading.answer.set_result(reading.buffer)


def _again(failure: NebfsError) -> NebfsError:
    """Return a copy for one more who is to be told: a raised exception carries its own trace."""
    return type(failure)(failure.message, retry_after=None, **failure.facts)


def _lost(exc: OSError) -> Unreachable:
    return Unreachable("the NBD server is gone", reason=exc.strerror or str(exc))
