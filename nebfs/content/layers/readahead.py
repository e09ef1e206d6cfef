"""Ordering what a sequential reader will want next. One per open file.

A read is sequential when it starts near where the run so far ends: the kernel sends its own
read-ahead out of order and up to 1 MiB apart. After the first 2 MiB of a run the window is as long
as the run, up to the limit, so it doubles with each window consumed, and a look at the middle of an
image costs nothing. A seek starts a new run. What was ordered stays ordered: it is in the cache.
"""

from __future__ import annotations

from nebfs.blocks import SLOT_SIZE
from nebfs.content.layers.cached import Cached
from nebfs.content.stack import Reader, ReaderFacts
from nebfs.model import Revision
from nebfs.units import MIB

NEAR = 2 * MIB
"""How far from the end of the run a read may start and still belong to it."""

PATIENCE = 2 * MIB
"""How long a run must be before anything is ordered ahead: one kernel read of 1 MiB brings up to
1 MiB of the kernel's own read-ahead with it, and may be all that is ever wanted."""

REFILL = 4 * MIB
"""The window is refilled in steps of one order."""


class ReadAhead:
    """Watches the reads of one open file and orders ahead of them, at most `limit` bytes."""

    def __init__(self, below: Reader, cached: Cached, limit: int) -> None:
        self._below = below
        self._cached = cached
        self._limit = limit
        self._end = 0
        self._run = 0
        self._ordered = 0
        self.size = below.size

    @property
    def revision(self) -> Revision:
        """The revision of the object below."""
        return self._below.revision

    def warm(self, offset: int, length: int) -> memoryview | None:
        """Answer from below, taking note of the read while the object is incomplete."""
        file = self._cached.file
        if file.here != file.slots:
            self._note(offset, length)
        return self._below.warm(offset, length)

    async def pread(self, offset: int, length: int) -> bytes:
        """Answer from below. ``warm`` has taken note of this read already."""
        return await self._below.pread(offset, length)

    def _note(self, offset: int, length: int) -> None:
        end = offset + length
        if self._run and -NEAR <= offset - self._end <= NEAR:
            self._run += max(0, end - self._end)
            self._end = max(self._end, end)
        else:
            self._run, self._end, self._ordered = length, end, end
        if self._run <= PATIENCE or not self._limit:
            return
        window = min(self._run, self._limit)
        goal = min(self._end + window, self.size)
        start = max(self._ordered, self._end)
        if goal - start >= min(REFILL, window) or goal == self.size > start:
            self._ordered = goal
            self._cached.ahead(start // SLOT_SIZE, -(-goal // SLOT_SIZE))

    def facts(self) -> ReaderFacts:
        """What is known below."""
        return self._below.facts()

    async def aclose(self) -> None:
        """The object below is shared: whoever opened it for us closes it."""
