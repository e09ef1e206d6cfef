"""Decompressing for readers alone, where nothing keeps what was decompressed.

While the cache disk cannot be used, only what memory holds can be kept. A larger object is decoded
for each reader that comes: on and on for those who read one after the other, and from its
beginning for whoever goes back. That is slow, and right.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import trio

from nebfs.content.decoders import Decoder, decoder
from nebfs.content.layers.decoded_pass import decode_threads
from nebfs.content.layers.decoded_passing import STEP
from nebfs.content.stack import Reader, read
from nebfs.errors import Damaged, NebfsError, Unsupported
from nebfs.units import MIB

BEHIND = 8 * MIB
"""Decoded bytes that are kept behind the last one that was wanted: several readers of one file are
seldom further apart, and the kernel asks for its parts in any order."""

AT_ONCE = 16 * MIB
"""Decoded bytes after which it is looked whether somebody still waits for what comes."""


class Stream:
    """The decoded bytes of one object."""

    def __init__(
        self,
        compression: str,
        source: Callable[[], Awaitable[Reader]],
        streams: Streams,
        *,
        on_taint: Callable[[], Awaitable[None]],
        on_failure: Callable[[NebfsError], Awaitable[None]],
    ) -> None:
        """`source` opens the compressed file. `on_taint` is called when that turns out not to be
        what was published, `on_failure` when it cannot be decoded.
        """
        self.lock = trio.Lock()
        """Held by who reads."""
        self._compression = compression
        self._source = source
        self._streams = streams
        self._on_taint = on_taint
        self._on_failure = on_failure
        self._decoder: Decoder | None = None
        self._reader: Reader | None = None
        self._at = 0
        self._fed_all = False
        self._pieces: Iterator[bytes] = iter(())
        self._kept: deque[bytes] = deque()
        self._start = self._end = 0
        """Which bytes are in `_kept`."""

    async def read(self, offset: int, length: int) -> bytes | None:
        """Return exactly these bytes; None when the object ends before. Raises Damaged,
        Unsupported, and what reading the compressed file raises.
        """
        async with self._streams.turn(self):
            try:
                return await self._read(offset, length)
            except trio.Cancelled:
                raise  # the next read goes on
            except BaseException:
                await self.aclose()  # no decoder goes on after an error
                raise

    async def _read(self, offset: int, length: int) -> bytes | None:
        if self._decoder is None or offset < self._start:
            await self._rewind()
        reader, stop = self._reader, offset + length
        assert reader is not None  # noqa: S101 - only aclose takes it away, and we hold the lock
        while self._end < stop:
            try:
                hungry = await trio.to_thread.run_sync(
                    self._advance, offset, stop, limiter=decode_threads
                )
            except (Damaged, Unsupported) as exc:
                await self._on_failure(exc)
                raise
            if not hungry:
                continue
            if self._fed_all:
                return None
            await self._feed(reader)
        return self._taken(offset, stop)

    async def _rewind(self) -> None:
        await self.aclose()
        self._reader = await self._source()
        self._decoder = decoder(self._compression)

    async def _feed(self, reader: Reader) -> None:
        assert self._decoder is not None  # noqa: S101 - see _read
        if self._at < reader.size:
            length = min(STEP, reader.size - self._at)
            try:
                data = bytes(await read(reader, self._at, length))
            except Damaged:
                await self._on_taint()
                raise
            self._at += len(data)
            self._pieces = self._decoder.feed(data)
        else:
            self._fed_all = True
            self._pieces = self._decoder.end()

    def _advance(self, offset: int, stop: int) -> bool:
        """Decode up to `stop`, or for a while; say whether more must be fed. In a thread."""
        until = min(stop, self._end + AT_ONCE)
        while self._end < until:
            piece = next(self._pieces, None)
            if piece is None:
                return True
            self._kept.append(piece)
            self._end += len(piece)
            while self._start + len(self._kept[0]) <= min(offset, self._end - BEHIND):
                self._start += len(self._kept.popleft())
        return False

    def _taken(self, offset: int, stop: int) -> bytes:
        found, at = [], self._start
        for piece in self._kept:
            if at + len(piece) > offset and at < stop:
                found.append(piece[max(0, offset - at) : stop - at])
            at += len(piece)
        return b"".join(found)

    async def aclose(self) -> None:
        """Let go of all it has. It begins anew when it is read from."""
        old, reader = self._decoder, self._reader
        self._decoder = self._reader = None
        self._at = self._start = self._end = 0
        self._fed_all, self._pieces = False, iter(())
        self._kept.clear()
        with trio.CancelScope(shield=True):
            if old is not None:
                await trio.to_thread.run_sync(old.close, limiter=decode_threads)
            if reader is not None:
                await reader.aclose()


class Streams:
    """So many streams at once: each may take a processor, and up to 200 MiB of memory."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._free = trio.Semaphore(number)
        self._open: dict[Stream, None] = {}
        """In the order of their last use."""

    @asynccontextmanager
    async def turn(self, stream: Stream) -> AsyncIterator[None]:
        """Have a stream for oneself for one read. What is over the number is closed: the one that
        was not used for longest.
        """
        async with stream.lock, self._free:
            self._open.pop(stream, None)
            self._open[stream] = None
            for other in [*self._open]:
                if len(self._open) > self._number and not other.lock.locked():
                    # Not by ``close``: who takes its lock meanwhile may wait for our turn to end.
                    del self._open[other]
                    await other.aclose()
            yield

    async def close(self, stream: Stream) -> None:
        """Close a stream once nobody reads from it."""
        async with stream.lock:
            self._open.pop(stream, None)
            await stream.aclose()
