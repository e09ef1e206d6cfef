"""Filling a run of slots from a stream, and reporting in good time.

For every transport that receives bytes as a stream. asyncio; the assembling itself is slots.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from nebfs.errors import CacheFault, Unreachable
from nebfs.fetcher.messages import FetchRequest, Filled
from nebfs.fetcher.slots import Buffers, Report, SlotWriter

PROMPT = 0.002
"""Seconds that a complete slot may wait for its neighbours before it is written and reported. At
1 GB/s the buffer fills in one; at 100 MB/s a reader gets its first slot at once and a message
carries two or three; what a reader waits for is then late by less than a network round trip."""

Read = Callable[[], Awaitable[bytes]]


def clipped(ranges: Sequence[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """Return what of `ranges` (start, stop) is within a content of `size` bytes."""
    return [(start, min(stop, size)) for start, stop in ranges if start < min(stop, size)]


@contextlib.asynccontextmanager
async def meanwhile(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Have `work` done beside what is done inside; it has begun by then, and ends with it."""
    task = asyncio.create_task(work)
    await asyncio.sleep(0)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Sink(Protocol):
    """Where the bytes of a stream go."""

    @property
    def missing(self) -> int:
        """Bytes that it still takes."""
        ...

    def space(self) -> memoryview:
        """Return where the next bytes are to be put: at least one while any is missing."""
        ...

    def advance(self, count: int) -> None:
        """Take note of `count` bytes that were put there. May raise a NebfsError."""
        ...


def feed(sink: Sink, chunk: memoryview) -> memoryview:
    """Give `sink` bytes out of somebody else's buffer; return those that it does not take."""
    while chunk and sink.missing:
        space = sink.space()
        count = min(len(space), len(chunk))
        space[:count] = chunk[:count]
        sink.advance(count)
        chunk = chunk[count:]
    return chunk


@dataclass(frozen=True, slots=True)
class Vessel:
    """Where the bytes of one request go. `early` is given the bytes that somebody waits for."""

    fd: int
    request: FetchRequest
    content_size: int
    report: Report
    early: Callable[[int, bytes], None]
    buffers: Buffers


class Pour:
    """One run of slots being filled: a Sink whose slots wait for at most PROMPT seconds.

    Whoever made it calls `end` exactly once.
    """

    __slots__ = ("_buffer", "_early", "_fault", "_last", "_loop", "_timer", "_vessel", "_writer")

    def __init__(self, vessel: Vessel, start: int, stop: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._fault: CacheFault | None = None
        self._vessel = vessel
        wanted = vessel.request.wanted
        self._early = wanted if wanted is not None and start <= wanted[0] < stop else None
        self._buffer = vessel.buffers.borrow(vessel.request.slot_size, stop - start)
        self._writer = SlotWriter(
            vessel.fd,
            self._buffer,
            start=start,
            stop=stop,
            slot_size=vessel.request.slot_size,
            content_size=vessel.content_size,
            seed=vessel.request.seed,
            since=vessel.request.since,
            report=self._reported,
        )

    @property
    def missing(self) -> int:
        """Bytes of the run that have not come yet."""
        return self._writer.missing

    def space(self) -> memoryview:
        """Return where the next bytes are to be put."""
        return self._writer.space()

    def advance(self, count: int) -> None:
        """Take `count` bytes that were put into `space`. Raises CacheFault."""
        if self._fault is not None:
            raise self._fault
        writer = self._writer
        writer.advance(count)
        if self._early is not None:
            self._give_early(*self._early)
        writer.settle()
        if writer.waiting and writer.missing and self._timer is None:
            due = self._last + PROMPT
            if self._loop.time() >= due:
                writer.flush()
            else:
                self._timer = self._loop.call_at(due, self._ring)

    def _give_early(self, start: int, stop: int) -> None:
        """Hand over what somebody waits for before its slot is complete, let alone written."""
        found = self._writer.peek(start, stop)
        if found is not None:
            self._early = None
            self._vessel.early(start, found)

    def end(self, *, keep: bool = True) -> None:
        """Write and report what is complete (if `keep`) and give the buffer back.

        Also when the stream broke: what came in full is good, and need not be asked again.
        """
        if self._timer is not None:
            self._timer.cancel()
        try:
            if keep and self._fault is None:
                self._writer.flush()
        finally:
            self._vessel.buffers.give_back(self._buffer)

    def _ring(self) -> None:
        self._timer = None
        try:
            self._writer.flush()
        except CacheFault as exc:
            self._fault = exc  # raised where the transfer is awaited, at the next chunk

    def _reported(self, slots: Sequence[Filled]) -> None:
        self._last = self._loop.time()
        self._vessel.report(slots)


async def pour(read: Read, position: int, runs: Sequence[tuple[int, int]], vessel: Vessel) -> int:
    """Fill the ascending `runs` (start, stop) from a stream whose next byte is at `position`.

    Bytes between the runs are skipped; the stream is not read beyond the last chunk needed, of
    which so many bytes as are returned were left over. `read` returns the next chunk, empty at the
    end. Raises CacheFault, Unreachable when the stream ends
    early, and what `read` raises; slots that were complete by then are reported.
    """
    rest = memoryview(b"")
    for start, stop in runs:
        while position + len(rest) <= start:
            position += len(rest)
            rest = memoryview(await _next(read, position))
        rest = rest[start - position :]
        position = start
        filling = Pour(vessel, start, stop)
        keep = True
        try:
            while filling.missing:
                if not rest:
                    rest = memoryview(await _next(read, position))
                position += len(rest)
                rest = feed(filling, rest)
                position -= len(rest)
        except asyncio.CancelledError:
            keep = False  # nothing may be written any more
            raise
        finally:
            filling.end(keep=keep)
    return len(rest)


async def _next(read: Read, position: int) -> bytes:
    chunk = await read()
    if not chunk:
        raise Unreachable("the answer ended early", at=position)
    return chunk
