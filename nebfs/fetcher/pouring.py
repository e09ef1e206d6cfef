"""Pouring a transport's stream of chunks into the slots of a file, and reporting in good time.

For every transport that receives bytes as a stream. asyncio; the assembling itself is slots.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Self

from nebfs.errors import CacheFault, Unreachable
from nebfs.fetcher.messages import FetchRequest, Filled
from nebfs.fetcher.slots import Buffers, Report, SlotWriter

PROMPT = 0.002
"""Seconds that a complete slot may wait for its neighbours before it is written and reported. At
1 GB/s the buffer fills in one; at 100 MB/s a reader gets its first slot at once and a message
carries two or three; what a reader waits for is then late by less than a network round trip."""

Read = Callable[[], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Vessel:
    """Where the bytes of one request go."""

    fd: int
    request: FetchRequest
    content_size: int
    report: Report
    buffers: Buffers


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
        async with _Prompt(vessel, start, stop) as prompt:
            while missing := prompt.missing:
                if not rest:
                    rest = memoryview(await _next(read, position))
                prompt.feed(rest)
                position += min(len(rest), missing)
                rest = rest[missing:]
    return len(rest)


async def _next(read: Read, position: int) -> bytes:
    chunk = await read()
    if not chunk:
        raise Unreachable("the answer ended early", at=position)
    return chunk


class _Prompt:
    """A SlotWriter that is flushed when its complete slots have waited for PROMPT seconds."""

    __slots__ = ("_buffer", "_buffers", "_fault", "_last", "_loop", "_report", "_timer", "_writer")

    def __init__(self, vessel: Vessel, start: int, stop: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._fault: CacheFault | None = None
        self._report = vessel.report
        self._buffers = vessel.buffers
        self._buffer = vessel.buffers.borrow(vessel.request.slot_size, stop - start)
        self._writer = SlotWriter(
            vessel.fd,
            self._buffer,
            start=start,
            stop=stop,
            slot_size=vessel.request.slot_size,
            content_size=vessel.content_size,
            seed=vessel.request.seed,
            report=self._reported,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        try:
            # Also when the stream broke: what came in full is good, and need not be asked again.
            if self._fault is None and kind is not asyncio.CancelledError:
                self._writer.flush()
        finally:
            self._buffers.give_back(self._buffer)

    @property
    def missing(self) -> int:
        return self._writer.missing

    def feed(self, chunk: memoryview) -> None:
        if self._fault is not None:
            raise self._fault
        writer = self._writer
        writer.feed(chunk)
        if writer.waiting and writer.missing and self._timer is None:
            due = self._last + PROMPT
            if self._loop.time() >= due:
                writer.flush()
            else:
                self._timer = self._loop.call_at(due, self._ring)

    def _ring(self) -> None:
        self._timer = None
        try:
            self._writer.flush()
        except CacheFault as exc:
            self._fault = exc  # raised where the transfer is awaited, at the next chunk

    def _reported(self, slots: Sequence[Filled]) -> None:
        self._last = self._loop.time()
        self._report(slots)
