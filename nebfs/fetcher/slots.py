"""Assembling a stream of network chunks into slots of a file: hashed, zero-checked, written.

Pure but for pwrite: no event loop, no network. Bytes are received straight into a reused buffer
(`space`, `advance`, `settle`), which is written a megabyte at a time.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Sequence

import xxhash

from nebfs.errors import CacheFault
from nebfs.fetcher.messages import SLOW
from nebfs.model import Filled

BUFFER_SIZE = 1 << 20
"""Bytes gathered before they are written: large enough to make a write's and a report's fixed cost
vanish, small enough to stay in the processor's cache between the copy, the hash and the write."""

_SPARE_BUFFERS = 8
"""Buffers of each size kept for the next transfer: as many as there are usually transfers at once.
A fresh one costs a page fault for every 4 KiB: 75 us for a slot of 128 KiB, as much as writing it.
"""

_SEEDS = 1 << 64

_slow: dict[int, float] = {}
"""When a disk was last found slow (``time.monotonic``), by its device. The whole process waits
while it writes: what else was under way by then is not to take as long, one after the other.
"""

Report = Callable[[Sequence[Filled]], None]


class Buffers:
    """Reusable buffers of one slot, two, four and so on up to BUFFER_SIZE."""

    __slots__ = ("_spare",)

    def __init__(self) -> None:
        self._spare: dict[int, list[bytearray]] = {}

    def borrow(self, slot_size: int, wanted: int) -> bytearray:
        """Return a buffer of whole slots: for `wanted` bytes or BUFFER_SIZE, at least one slot."""
        size = slot_size
        while size < wanted and 2 * size <= BUFFER_SIZE:
            size *= 2
        spare = self._spare.get(size)
        return spare.pop() if spare else bytearray(size)

    def give_back(self, buffer: bytearray) -> None:
        """Keep `buffer` for the next transfer, unless enough of its size are kept."""
        spare = self._spare.setdefault(len(buffer), [])
        if len(spare) < _SPARE_BUFFERS:
            spare.append(buffer)


@functools.lru_cache(maxsize=4)  # in practice one: all of a cache has slots of one size
def _zeros(slot_size: int) -> bytes:
    return bytes(slot_size)


class SlotWriter:
    """Takes one run of a content's bytes in pieces of any size; fills its slots in the file.

    A slot counts when its last byte has come; a slot of which the run has only a part is neither
    written nor reported. Slots of zeros are reported and not written: the file has a hole there.
    """

    __slots__ = (
        "_base",
        "_buffer",
        "_complete",
        "_content_size",
        "_fd",
        "_fill",
        "_hashed",
        "_report",
        "_seconds",
        "_seed",
        "_since",
        "_slot_size",
        "_stop",
        "_view",
        "_zeros",
    )

    def __init__(
        self,
        fd: int,
        buffer: bytearray,
        *,
        start: int,
        stop: int,
        slot_size: int,
        content_size: int,
        seed: int,
        since: float,
        report: Report,
    ) -> None:
        """Fill [`start`, `stop`) of a content of `content_size` bytes; `start` begins a slot.

        `buffer` holds a whole number of slots and is the caller's again after the last call. What
        was asked for `since` then (``time.monotonic``) is not written to a disk found slow later.
        """
        if start % slot_size or len(buffer) % slot_size:
            raise ValueError(f"{start} or {len(buffer)} is not a multiple of {slot_size}")
        self._fd = fd
        self._buffer = buffer
        self._view = memoryview(buffer)
        self._zeros = _zeros(slot_size)
        self._slot_size = slot_size
        self._content_size = content_size
        self._seed = seed
        self._since = since
        self._seconds = 0.0  # spent on writing
        self._report = report
        self._stop = stop
        self._base = start  # where in the content the buffer begins
        self._fill = 0  # bytes in the buffer
        self._hashed = 0  # bytes of it that belong to complete slots
        self._complete: list[Filled] = []

    @property
    def missing(self) -> int:
        """Bytes of the run that have not been fed yet."""
        return self._stop - self._base - self._fill

    @property
    def waiting(self) -> int:
        """Bytes of complete slots that are not written and reported yet."""
        return self._hashed

    def space(self) -> memoryview:
        """Return where the next bytes of the run are to be put; empty when none is missing."""
        return self._view[self._fill : self._fill + self.missing]

    def advance(self, count: int) -> None:
        """Take the `count` bytes that were put there; `settle` is to follow."""
        self._fill += count

    def settle(self) -> None:
        """Hash the slots that are complete; write and report them if the buffer is full.

        Raises CacheFault.
        """
        self._complete_slots()
        if self._fill == len(self._buffer):
            self.flush()

    def peek(self, start: int, stop: int) -> bytes | None:
        """Return the bytes [start, stop) of the content if they are in the buffer now."""
        if start < self._base or stop > self._base + self._fill:
            return None
        return bytes(self._view[start - self._base : stop - self._base])

    def flush(self) -> None:
        """Write and report the complete slots. Raises CacheFault; what it wrote before is reported.

        Neighbouring slots that are not zero go out in one write.
        """
        if not self._complete:
            return
        written = 0
        at = run = 0
        try:
            for filled in self._complete:
                if filled.zero:
                    self._write(run, at)
                    written = at = run = at + filled.length
                else:
                    at += filled.length
            self._write(run, at)
            written = at
        finally:
            # After a fault: only what certainly is in the file.
            good = -(-written // self._slot_size) if written else 0
            done, self._complete = self._complete[:good], []
            if done:
                self._report(done)
        rest = self._fill - self._hashed
        if rest:
            self._view[:rest] = self._view[self._hashed : self._fill]
        self._base += self._hashed
        self._fill, self._hashed = rest, 0

    def _complete_slots(self) -> None:
        size = self._slot_size
        while self._fill > self._hashed:
            offset = self._base + self._hashed
            length = min(size, self._content_size - offset)
            if self._fill - self._hashed < length:
                return
            number = offset // size
            data = self._view[self._hashed : self._hashed + length]
            # startswith is a memcmp that ends at the first byte that is not zero.
            zero = self._zeros.startswith(data)
            checksum = xxhash.xxh3_64_intdigest(data, seed=(self._seed + number) % _SEEDS)
            self._complete.append(Filled(number, length, checksum, zero))
            self._hashed += length

    def _write(self, start: int, stop: int) -> None:
        began = time.monotonic()
        if _slow and _slow.get(os.fstat(self._fd).st_dev, 0.0) > self._since:
            raise CacheFault("the cache disk is slow")
        while start < stop:
            try:
                start += os.pwrite(self._fd, self._view[start:stop], self._base + start)
            except OSError as exc:
                # ENOSPC, EDQUOT, EIO, EROFS: whatever it is, it is the cache that failed.
                raise CacheFault(
                    "the cache file could not be written", reason=exc.strerror, errno=exc.errno
                ) from exc
        now = time.monotonic()
        self._seconds += now - began
        if self._seconds > SLOW:
            _slow[os.fstat(self._fd).st_dev] = now
            raise CacheFault("the cache disk is slow", seconds=round(self._seconds, 1))
