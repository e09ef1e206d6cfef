"""The two interfaces on either side of the cache, and the order that goes between them."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from nebfs.blocks.blockfile import SLOT_SHIFT, BlockFile
from nebfs.blocks.holes import runs
from nebfs.model import Filled, Revision


@dataclass(frozen=True, slots=True)
class ReaderFacts:
    """What a stack can say about itself. `verified`: ``no``, ``yes``, ``mismatch``, or empty."""

    size: int
    cached: int
    verified: str
    last_error: str
    corrupt_blocks: int = 0
    where: str = "disk"


class Reader(Protocol):
    """Answers with bytes. `offset` and `length` lie within the size; `length` is > 0."""

    @property
    def size(self) -> int:
        """The exact length of the bytes."""
        ...

    @property
    def revision(self) -> Revision:
        """The version that this reader is bound to for its whole life."""
        ...

    def warm(self, offset: int, length: int) -> memoryview | None:
        """Answer at once, from RAM, or say None. The view is good until the next await."""
        ...

    async def pread(self, offset: int, length: int) -> bytes | memoryview:
        """Return exactly `length` bytes at `offset`, or raise: never zeros for missing data.

        A view is good until the next await, as that of ``warm``.
        """
        ...

    def facts(self) -> ReaderFacts:
        """Say how much is here, and how good it is."""
        ...

    async def aclose(self) -> None:
        """Let go. The reader cannot be used afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class Disk:
    """What a file says of the disk in it: see disks.py."""

    size: int
    """Bytes of the disk."""
    kind: str
    """The name of the format."""
    flaw: str = ""
    """Why it has no raw view; or empty."""


async def read(reader: Reader, offset: int, length: int) -> bytes | memoryview:
    """Read as the window to the kernel does: layers take note of a read in ``warm``."""
    view = reader.warm(offset, length)
    return view if view is not None else await reader.pread(offset, length)


class Priority(enum.IntEnum):
    """Who goes first at a place: what somebody waits for, what a boot is known to read next, what
    is guessed to be wanted next, the rest.
    """

    DEMAND = 0
    PROFILE = 1
    READ_AHEAD = 2
    FILL = 3


class Order:
    """A wish for the slots `first` to `stop` of a cache file, on its way through the sources.

    What it brings is decided as late as possible: ``claim`` is called when the request is about to
    leave, and returns what is still missing and nobody else is bringing. So a read-ahead that waits
    for its turn never blocks a demand for the same slots, and a retry asks only for the rest.

    `urgent`: somebody waits for it, and it overtakes all others. `wanted` is what exactly they wait
    for (offset, length): it may come before its slot is complete, and is then in `early`.
    """

    __slots__ = (
        "_claimed",
        "_on_tail",
        "_tail",
        "early",
        "error",
        "file",
        "first",
        "priority",
        "stop",
        "stream",
        "urgent",
        "wanted",
    )

    def __init__(
        self,
        file: BlockFile,
        first: int,
        stop: int,
        *,
        priority: Priority,
        wanted: tuple[int, int] | None = None,
    ) -> None:
        self.file = file
        self.first = first
        self.stop = stop
        self.priority = priority
        self.urgent = priority is Priority.DEMAND
        self.wanted = wanted
        self.stream = False
        """Whether it is one of a row, each to follow when the one before it is nearly done."""
        self.early: bytes | None = None
        self.error: BaseException | None = None
        self._claimed: set[int] = set()
        self._tail = -1
        self._on_tail: Callable[[], None] = _nothing

    def claim(self) -> list[tuple[int, int]]:
        """Return the byte ranges to bring now; empty when nothing is left to do."""
        file = self.file
        for slot in range(self.first, self.stop):
            if file.claimable(slot):
                file.claimed[slot] = 1
                self._claimed.add(slot)
        return [
            (start << SLOT_SHIFT, min(stop << SLOT_SHIFT, file.size))
            for start, stop in runs(sorted(self._claimed))
        ]

    def arrived(self, filled: Sequence[Filled]) -> None:
        """Take note of slots that are in the file now."""
        claimed = self._claimed
        for entry in filled:
            if entry.slot not in claimed:
                raise ValueError(f"slot {entry.slot} was not asked for")
            claimed.discard(entry.slot)
            self.file.claimed[entry.slot] = 0
        if len(claimed) <= self._tail:
            self._on_tail()
        self.file.put(filled, used=self.priority is not Priority.FILL)

    def nearly_done(self, size: int, callback: Callable[[], None]) -> None:
        """Have `callback` called, perhaps repeatedly, once no more than `size` bytes are missing
        of what was claimed.
        """
        self._tail, self._on_tail = size >> SLOT_SHIFT, callback

    def came_early(self, offset: int, data: bytes) -> None:
        """Take what is wanted, before its slot is in the file."""
        if self.wanted == (offset, len(data)):
            self.early = data
            self.file.tell()

    def finish(self, error: BaseException | None = None) -> None:
        """End the order: what it claimed and did not bring may be claimed by others again."""
        self.error = error
        for slot in self._claimed:
            self.file.claimed[slot] = 0
        self._claimed.clear()
        # Also when all of it came: some may have left again before the rest was here, and whoever
        # waits has been waiting for this order.
        self.file.tell()


def _nothing() -> None:
    """What is called of an order whose end nobody waits for."""


class Source(Protocol):
    """Brings bytes of one revision to a cache file."""

    @property
    def revision(self) -> Revision:
        """The version that this source brings, or else it raises Changed."""
        ...

    async def fill(self, order: Order) -> None:
        """Bring what `order` claims; return when nothing of it is left. Raises NebfsError."""
        ...
