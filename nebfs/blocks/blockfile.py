"""One cached object, open: its bytes, which slots of them are here, and the proof of each.

The hot path of nebfs is ``warm``: one look at the slot map and one ``preadv`` into a buffer that is
used again and again. It answers only what can be answered without waiting, and says None otherwise.
"""

from __future__ import annotations

import array
import errno
import mmap
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog
import trio
from xxhash import xxh3_64_intdigest

from nebfs.blocks.holes import punch_hole, runs
from nebfs.blocks.index import Index, Verdict
from nebfs.errors import CacheFault
from nebfs.model import Filled

log = structlog.get_logger()

SLOT_SHIFT: Final = 17
SLOT_SIZE: Final = 1 << SLOT_SHIFT
"""128 KiB: small enough that a cold 4 KiB read and the first proof of a block stay cheap, and the
size in which the kernel asks when nobody raised its read-ahead."""

GROUP_SHIFT: Final = 22
"""Use is remembered, and space is given back, in groups of 4 MiB."""

SCRATCH: Final = memoryview(mmap.mmap(-1, 4 << 20))
"""What ``warm`` answers from. Its content is right until the next call of any ``warm``: whoever
gets it must hand it to the kernel, or copy it, before the next await. 4 MiB is four times the
longest read that a kernel sends (1 MiB)."""

ABSENT: Final = 0
PRESENT: Final = 1  # recorded, and not yet compared with its checksum in this process's life
PROVEN: Final = 2
LEAVING: Final = 3  # forgotten in the index, its hole not yet punched: nobody may claim it

_HERE: Final = bytes(state in {PRESENT, PROVEN} for state in range(256))

_ZEROS: Final = memoryview(bytes(SLOT_SIZE))

_MASK64: Final = (1 << 64) - 1

disk_threads: Final = trio.CapacityLimiter(16)
"""Threads that may wait for the cache disk at once: a slow disk must not eat trio's common pool."""


@dataclass(slots=True, eq=False)
class _Reading:
    """A read in a thread. `torn`: some of its slots have left since it began."""

    first: int
    stop: int
    torn: bool = False


class BlockFile:
    """An object of `size` bytes in slots of 128 KiB.

    `fd` is what the fetcher process is handed. Without an `index` the object lives in memory only.
    `waits` is False where a read can never wait for a disk (a memfd).
    """

    def __init__(
        self,
        key: str,
        size: int,
        seed: int,
        fd: int,
        *,
        present: bytearray,
        sums: array.array[int],
        index: Index | None,
        waits: bool = True,
    ) -> None:
        self.key = key
        self.size = size
        self.seed = seed
        self.fd = fd
        self.slots = len(present)
        self.users = 0
        self.here = present.count(PRESENT)
        """How many slots are here."""
        self.claimed = bytearray(self.slots)
        """1 for each slot that an order has claimed."""
        self.touched: dict[int, float] = {}
        """When each group was last read, in seconds since the epoch."""
        self.spare = False
        """Whether it leaves before all others: it can be made again of what is here."""
        self.corrupt = 0
        """How many slots have failed their checksum."""
        self.harm = ""
        """How the disk failed to give back what it was given, the last time that it did."""
        self.disk_bytes = os.fstat(fd).st_blocks * 512
        """What the data takes on its disk (or in memory), measured or added up since."""
        self._index = index
        self._state = present
        self._sums = sums
        self._flags = os.RWF_NOWAIT if waits else 0
        self._waiting: list[tuple[int, int, trio.Event]] = []
        self._readings: list[_Reading] = []

    # --- asking -----------------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        """Whether every byte of the object is here."""
        return self.here == self.slots

    @property
    def cached_bytes(self) -> int:
        """How many bytes of the object are here."""
        if self.here and self.has(self.slots - 1, self.slots):
            return (self.here - 1) * SLOT_SIZE + self.length(self.slots - 1)
        return self.here * SLOT_SIZE

    def length(self, slot: int) -> int:
        """Return how many bytes `slot` holds: all slots are full but the last."""
        return min(SLOT_SIZE, self.size - (slot << SLOT_SHIFT))

    def span(self, offset: int, length: int) -> tuple[int, int]:
        """Return the slots, first and one past the last, that `length` > 0 bytes touch."""
        return offset >> SLOT_SHIFT, ((offset + length - 1) >> SLOT_SHIFT) + 1

    def has(self, first: int, stop: int) -> bool:
        """Whether all of the slots are here."""
        state = self._state
        count = state.count(PROVEN, first, stop)
        return count == stop - first or count + state.count(PRESENT, first, stop) == stop - first

    def missing(self, first: int, stop: int) -> list[int]:
        """Return the slots that are not here, claimed or not."""
        if self.has(first, stop):
            return []
        return [s for s in range(first, stop) if self._state[s] not in {PRESENT, PROVEN}]

    def claimable(self, slot: int) -> bool:
        """Whether `slot` is absent, and nobody is bringing it or taking it away."""
        return self._state[slot] == ABSENT and not self.claimed[slot]

    def absent(self, first: int, stop: int) -> int:
        """Return the first slot of these that is absent, or -1."""
        return self._state.find(ABSENT, first, stop) if stop > first else -1

    def proven(self, first: int, stop: int) -> bool:
        """Whether any of the slots was compared with its checksum, as whatever is read is."""
        return self._state.find(PROVEN, first, stop) >= 0

    def present(self) -> bytes:
        """Return one byte for each slot: 1 where it is here."""
        return bytes(self._state).translate(_HERE)

    def doubt(self) -> None:
        """Have every slot compared with its checksum again before it is answered with."""
        self._state[:] = self._state.replace(bytes([PROVEN]), bytes([PRESENT]))

    def last_absent(self) -> int:
        """Return the last slot that is absent, or -1."""
        return self._state.rfind(ABSENT)

    # --- reading ----------------------------------------------------------------------------

    def warm(self, offset: int, length: int) -> memoryview | None:
        """Return the bytes if they are here, proven or provable, and in RAM; else None.

        The answer is a view of SCRATCH. `length` must be > 0 and not pass the end of the object.
        """
        first = offset >> SLOT_SHIFT
        stop = ((offset + length - 1) >> SLOT_SHIFT) + 1
        if self._state.count(PROVEN, first, stop) != stop - first:
            return self._warm_first_touch(first, stop, offset, length)
        view = SCRATCH[:length]
        try:
            if os.preadv(self.fd, (view,), offset, self._flags) != length:
                return None
        except OSError:  # EAGAIN: not in RAM. EOPNOTSUPP: this filesystem cannot say so
            return None
        self.touched[offset >> GROUP_SHIFT] = time.time()
        return view

    def _warm_first_touch(
        self, first: int, stop: int, offset: int, length: int
    ) -> memoryview | None:
        start = first << SLOT_SHIFT
        whole = min(stop << SLOT_SHIFT, self.size) - start
        if whole > len(SCRATCH) or not self.has(first, stop):
            return None
        view = SCRATCH[:whole]
        try:
            if os.preadv(self.fd, (view,), start, self._flags) != whole:
                return None
        except OSError:
            return None
        if not self._prove(first, stop, view):
            return None
        self.touched[offset >> GROUP_SHIFT] = time.time()
        return view[offset - start : offset - start + length]

    async def read(self, offset: int, length: int) -> bytes | None:
        """Return the bytes, waiting for the disk; None when a slot turned out not to be here.

        A disk that cannot be read, and bytes that fail their checksum, make the slots absent: they
        are fetched again.
        """
        first, stop = self.span(offset, length)
        start = first << SLOT_SHIFT
        whole = min(stop << SLOT_SHIFT, self.size) - start
        reading = _Reading(first, stop)
        self._readings.append(reading)
        try:
            data = await trio.to_thread.run_sync(
                os.pread, self.fd, whole, start, limiter=disk_threads, abandon_on_cancel=True
            )
        except OSError as exc:
            log.warning("cache.read_failed", key=self.key[:12], error=str(exc))
            self.harm = f"the cache file could not be read: {exc.strerror}"
            data = b""
        finally:
            self._readings.remove(reading)
        # The slots may have left while the thread was reading, and even be here again: then it may
        # have read the hole in between. So may the file, and its descriptor's number be another's.
        if self.fd < 0 or reading.torn or not self.has(first, stop):
            return None
        if len(data) != whole:
            self.lose(first, stop)
            return None
        view = memoryview(data)
        if not self._prove(first, stop, view):
            return None
        self.touched[offset >> GROUP_SHIFT] = time.time()
        return bytes(view[offset - start : offset - start + length])

    def _prove(self, first: int, stop: int, view: memoryview) -> bool:
        """Compare the slots in `view` (which starts with slot `first`) with their checksums."""
        good = True
        for slot in range(first, stop):
            if self._state[slot] == PROVEN:
                continue
            at = (slot - first) << SLOT_SHIFT
            digest = slot_sum(view[at : at + self.length(slot)], self.seed, slot)
            if digest == self._sums[slot]:
                self._state[slot] = PROVEN
            else:
                self.corrupt += 1
                self.harm = "blocks do not have the checksum that they were written with"
                log.error("cache.block_corrupt", key=self.key[:12], slot=slot)
                self.lose(slot, slot + 1)
                good = False
        return good

    # --- changing ---------------------------------------------------------------------------

    def put(self, filled: Sequence[Filled], *, used: bool = True) -> None:
        """Take note of slots that the fetcher has written. Slots of zeros take no space.

        Unless somebody has a use for them, they are among the first to leave until they are read.
        """
        if self.fd < 0:
            return  # closed meanwhile: nobody is left to read them
        state = self._state
        for slot, length, checksum, zero in filled:
            if length != self.length(slot):
                raise ValueError(f"slot {slot} came with {length} bytes")
            self.here += state[slot] in {ABSENT, LEAVING}
            state[slot] = PRESENT
            self._sums[slot] = checksum
            self.disk_bytes += 0 if zero else length
        if self._index is not None:
            try:
                self._index.record(filled)
            except OSError as exc:  # the slots are good for this process's life, and lost after
                log.warning("cache.index_failed", key=self.key[:12], error=str(exc))
        group = filled[0].slot << SLOT_SHIFT >> GROUP_SHIFT
        if used:
            self.touched[group] = time.time()
        for first, stop, event in self._waiting:
            if self.has(first, stop):
                event.set()

    def lose(self, first: int, stop: int) -> None:
        """Make slots absent at once, their bytes being wrong or unreadable."""
        for slot in range(first, stop):
            self.here -= self._state[slot] in {PRESENT, PROVEN}
            self._state[slot] = ABSENT
        self._forget(first, stop)
        self.tell()  # whoever waits for others of a read's slots must bring these, too

    async def drop(self, first: int, stop: int) -> None:
        """Forget slots, then give their space back. The caller keeps the file open."""
        leaving = [s for s in range(first, stop) if self._state[s] in {PRESENT, PROVEN}]
        for slot in leaving:
            self._state[slot] = LEAVING
        self.here -= len(leaving)
        self._forget(first, stop)
        try:
            # Runs of neighbours leave in one hole. A slot that is being filled is not touched.
            with trio.CancelScope(shield=True):
                for start, end in runs(leaving):
                    at = start << SLOT_SHIFT
                    length = min(end << SLOT_SHIFT, self.size) - at
                    await trio.to_thread.run_sync(
                        punch_hole, self.fd, at, length, limiter=disk_threads
                    )
            self.disk_bytes = os.fstat(self.fd).st_blocks * 512
        finally:
            for slot in leaving:
                self._state[slot] = ABSENT
            self.tell()

    def _forget(self, first: int, stop: int) -> None:
        for reading in self._readings:
            reading.torn |= reading.first < stop and first < reading.stop
        if self._index is not None:
            try:
                self._index.forget(first, stop)
            except OSError as exc:  # a stale slot fails its checksum later, at worst
                log.warning("cache.index_failed", key=self.key[:12], error=str(exc))

    def record(self, slot: int, view: memoryview) -> Filled:
        """Write the bytes of a slot that its caller has claimed, in a worker thread; ``put`` makes
        it known. Raises OSError.
        """
        digest = slot_sum(view, self.seed, slot)
        zero = not any_byte(view)
        if not zero and os.pwrite(self.fd, view, slot << SLOT_SHIFT) != len(view):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return Filled(slot, len(view), digest, zero)

    def tell(self) -> None:
        """Wake everybody who waits in ``arrival``: something is not as it was."""
        for _, _, event in self._waiting:
            event.set()

    async def arrival(self, first: int, stop: int) -> None:
        """Wait until all of the slots are here, or may not come: whoever waits looks again."""
        waiting = (first, stop, trio.Event())
        self._waiting.append(waiting)
        try:
            await waiting[2].wait()
        finally:
            self._waiting.remove(waiting)

    async def resize(self, size: int) -> None:
        """Have the object be `size` bytes long: where that is known only when all of it was made.

        Slots stay as they are, but for one at the old or the new end that is not as long any more.
        Raises CacheFault.
        """
        slots = -(-size // SLOT_SIZE)
        last = min(slots, self.slots) - 1
        if last >= 0 and self.length(last) != min(SLOT_SIZE, size - (last << SLOT_SHIFT)):
            self.lose(last, last + 1)
        if slots < self.slots:
            await self.drop(slots, self.slots)
        try:
            await trio.to_thread.run_sync(self._resize, size, limiter=disk_threads)
        except OSError as exc:
            raise CacheFault(f"the cache disk refused an object's growth: {exc.strerror}") from exc
        self.size, before, self.slots = size, self.slots, slots
        if slots < before:
            del self._state[slots:], self._sums[slots:], self.claimed[slots:]
        else:
            self._state.extend(bytes(slots - before))
            self._sums.frombytes(bytes(8 * (slots - before)))
            self.claimed.extend(bytes(slots - before))
        self.tell()

    def _resize(self, size: int) -> None:
        os.ftruncate(self.fd, size)
        if self._index is not None:
            self._index.resize(size)

    # --- the verdict about the whole object --------------------------------------------------

    @property
    def verdict(self) -> tuple[Verdict, float]:
        """What comparing the whole object with its published checksum has shown, and when."""
        if self._index is None:
            return Verdict.UNKNOWN, 0.0
        return self._index.header.verdict, self._index.header.judged

    async def judge(self, verdict: Verdict) -> None:
        """Keep a verdict. VERIFIED first waits until the bytes are on the disk for good."""
        if self._index is None:
            return
        try:
            if verdict is Verdict.VERIFIED:
                await trio.to_thread.run_sync(os.fdatasync, self.fd, limiter=disk_threads)
            self._index.judge(verdict, time.time())
        except OSError as exc:
            log.warning("cache.index_failed", key=self.key[:12], error=str(exc))

    def close(self) -> None:
        """Close the files. What is cached stays."""
        index, self._index = self._index, None
        if index is not None:
            try:
                index.close(spare=self.spare)
            except OSError as exc:
                log.warning("cache.index_failed", key=self.key[:12], error=str(exc))
        os.close(self.fd)
        self.fd = -1
        self.tell()


def slot_sum(data: bytes | memoryview, seed: int, slot: int) -> int:
    """Return the checksum of a slot of the object that has this seed."""
    return xxh3_64_intdigest(data, seed=(seed + slot) & _MASK64)


def any_byte(view: memoryview) -> bool:
    """Whether any of at most SLOT_SIZE bytes is not zero: compared as a whole, at 40 GB/s."""
    return view != _ZEROS[: len(view)]
