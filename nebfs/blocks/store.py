"""All cached objects: opening them, and keeping what they take together within a limit.

Space is reserved before an order is given to the fetcher and settled after it, so the limit is
never exceeded. When it is reached, the groups of 4 MiB that were not read for longest leave first,
of open objects and of closed ones alike, until 5 % of the limit is free again.
"""

from __future__ import annotations

import abc
import array
import os
from collections.abc import Container, Iterator
from dataclasses import dataclass

import structlog
import trio

from nebfs.blocks.blockfile import (
    GROUP_SHIFT,
    SLOT_SHIFT,
    SLOT_SIZE,
    BlockFile,
)
from nebfs.errors import Busy, CacheFault
from nebfs.units import MIB, format_size

log = structlog.get_logger()

GROUP_SLOTS = 1 << (GROUP_SHIFT - SLOT_SHIFT)

PATIENCE = 10.0
"""Seconds without any reservation having ended after which an order no longer waits for one. Orders
of a place that stands still keep their room for as long as they are tried: readers of other places
are not to wait for that, and where room is never given back, nobody waits for ever.
"""


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """What a store holds now. `faults` counts what the disk refused or could not give back, and
    `trouble` says what it was, until something was written there again.
    """

    kind: str
    limit: int
    used: int
    reserved: int
    open_objects: int
    evicted: int
    faults: int
    corrupt: int
    trouble: str = ""


class Store(abc.ABC):
    """Objects by key, within a limit of bytes. Use as an async context manager."""

    kind = ""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.reserved = 0
        self.evicted = 0
        self.faults = 0
        self.trouble = ""
        """What is wrong with the disk; empty when nothing is known to be."""
        self.pinned: frozenset[str] = frozenset()
        """Keys of objects that never leave to make room."""
        self._corrupt = 0
        self._files: dict[str, BlockFile] = {}
        self._settled = trio.Event()
        self._evicting = trio.Lock()
        self._opening = trio.Lock()

    @property
    def used(self) -> int:
        """Bytes that the objects take, measured or added up since they were."""
        return sum(file.disk_bytes for file in self._files.values())

    def statistics(self) -> StoreStatistics:
        """Return what the store holds now."""
        return StoreStatistics(
            kind=self.kind,
            limit=self.limit,
            used=self.used,
            reserved=self.reserved,
            open_objects=len(self._files),
            evicted=self.evicted,
            faults=self.faults,
            corrupt=self._corrupt + sum(file.corrupt for file in self._files.values()),
            trouble=self.trouble,
        )

    async def open(
        self, key: str, size: int, source: str = "", *, any_size: bool = False
    ) -> BlockFile:
        """Return the object called `key` (64 hex digits), shared with whoever has it open.

        `source` describes it to people who look into the cache. With `any_size`, what is here of it
        says how long it is, and `size` is for a new one. Raises CacheFault.
        """
        async with self._opening:
            file = self._files.get(key)
            if file is None:
                if any_size:
                    size = await self._size(key) or size
                file = await self._open(key, size, source)
                self._files[key] = file
            file.users += 1
            return file

    async def release(self, file: BlockFile) -> None:
        """Give back what ``open`` returned; the last one closes it."""
        file.users -= 1
        if file.users == 0 and self._files.get(file.key) is file:
            del self._files[file.key]
            self._corrupt += file.corrupt
            self._closed(file)
            file.close()

    def open_files(self) -> list[BlockFile]:
        """Return the objects that are open: to look at, not to hold."""
        return list(self._files.values())

    def file_of(self, key: str) -> BlockFile | None:
        """Return an object if it is open: to look at, not to hold."""
        return self._files.get(key)

    def holds(self, key: str) -> bool:
        """Whether something is here of an object, as far as that is known without a look."""
        return key in self._files

    async def discard(self, key: str, *, force: bool = False) -> int:
        """Remove what is here of an object and return how many bytes it took.

        Raises Busy when it is pinned, or somebody has it open: with `force` it then stays, but
        nothing of it.
        """
        if key in self.pinned and not force:
            raise Busy("it is pinned")
        file = self._files.get(key)
        if file is None:
            return await self._discard_closed(key)
        if not force:
            raise Busy("it is open")
        before = file.disk_bytes
        file.users += 1  # it must not be closed while its holes are punched
        try:
            await file.drop(0, file.slots)
            return before - file.disk_bytes
        finally:
            await self.release(file)

    async def _discard_closed(self, key: str) -> int:  # noqa: ARG002 - memory has what is open
        return 0

    async def reserve(self, amount: int, *, urgent: bool = True) -> None:
        """Set `amount` bytes aside for an order, making room if needed. Raises CacheFault.

        Where only other orders' reservations are in the way, an urgent one waits for them to end,
        and for the next: until none has ended for PATIENCE.
        Whoever reserved calls ``settle`` with the same amount once the order has ended.
        """
        while self.used + self.reserved + amount > self.limit or not self._disk_has(amount):
            try:
                async with self._evicting:
                    await self._make_room(amount)
            except CacheFault:
                if not urgent or not self.reserved or amount > self.limit:
                    raise
                with trio.move_on_after(PATIENCE) as patience:
                    await self._settled.wait()
                if patience.cancelled_caught:
                    raise
        self.reserved += amount

    def settle(self, amount: int) -> None:
        """End a reservation; what has arrived meanwhile counts as used already."""
        self.reserved -= amount
        settled, self._settled = self._settled, trio.Event()
        settled.set()

    def accepted(self) -> None:
        """Take note that it did what it is for."""
        self.trouble = ""

    async def _make_room(self, amount: int) -> None:
        excess = self.used + self.reserved + amount - self.limit
        if excess <= 0 and self._disk_has(amount):
            return  # somebody else has made room while we waited
        if amount > self.limit:
            raise CacheFault("the cache is smaller than one request", limit=self.limit)
        before = self.used
        goal = before - max(excess, 0) - self.limit // 20
        for _, file, group, key in sorted(self._candidates(), key=lambda c: c[0]):
            if self.used <= goal and self._disk_has(amount):
                break
            if file is not None and file.users:
                file.users += 1  # it must not be closed while its holes are punched
                try:
                    await file.drop(group * GROUP_SLOTS, min((group + 1) * GROUP_SLOTS, file.slots))
                finally:
                    await self.release(file)
            elif file is None:
                await self._remove(key)
        self.evicted += max(0, before - self.used)
        if self.used + self.reserved + amount > self.limit or not self._disk_has(amount):
            raise CacheFault(
                "no room in the cache", used=format_size(self.used), limit=format_size(self.limit)
            )

    def _candidates(self) -> Iterator[tuple[float, BlockFile | None, int, str]]:
        """Yield what could leave: (last use, open object and its group | None, its key)."""
        for file in self._files.values():
            if file.key in self.pinned:
                continue
            for group in range(-(-file.slots // GROUP_SLOTS)):
                first = group * GROUP_SLOTS
                stop = min(first + GROUP_SLOTS, file.slots)
                if len(file.missing(first, stop)) < stop - first:
                    used = 0.0 if file.spare else file.touched.get(group, 0.0)
                    yield used, file, group, file.key

    @abc.abstractmethod
    async def _open(self, key: str, size: int, source: str) -> BlockFile: ...

    async def _size(self, key: str) -> int:  # noqa: ARG002 - memory has what is open alone
        """Return how long an object is that is closed; 0 if there is none."""
        return 0

    def has_spare(self, amount: int) -> bool:  # noqa: ARG002 - memory is for reads alone
        """Whether `amount` bytes that nobody has asked for may be brought: nothing leaves for them,
        and there is room left for what is read next.
        """
        return False

    def room(self, keys: Container[str]) -> int:  # noqa: ARG002 - nothing is kept for long here
        """Return how many bytes the objects with these keys can take together."""
        return 0

    def _disk_has(self, amount: int) -> bool:  # noqa: ARG002 - memory has no floor
        return True

    async def _remove(self, key: str) -> None:
        raise NotImplementedError

    @abc.abstractmethod
    def _closed(self, file: BlockFile) -> None: ...


class MemoryStore(Store):
    """Objects in anonymous memory: for reads that go on while the cache disk cannot be used."""

    kind = "memory"

    def __init__(self, limit: int = 64 * MIB) -> None:
        """64 MiB: the read-ahead windows of two streams, within what all processes may take."""
        super().__init__(limit)

    async def _open(self, key: str, size: int, source: str) -> BlockFile:  # noqa: ARG002
        fd = os.memfd_create("nebfs", os.MFD_CLOEXEC)
        os.ftruncate(fd, size)
        slots = -(-size // SLOT_SIZE)
        return BlockFile(
            key,
            size,
            seed_of(key),
            fd,
            present=bytearray(slots),
            sums=array.array("Q", bytes(8 * slots)),
            index=None,
            waits=False,
        )

    def _closed(self, file: BlockFile) -> None:
        """Closing gives the memory back; nothing is left to remember."""


def seed_of(key: str) -> int:
    """Return the seed of an object's checksums: its slots are never taken for another's."""
    return int(key[:16], 16)
