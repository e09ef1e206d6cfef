"""Ordering what sequential readers will want next. One per open file.

A read belongs to a run when it starts near where the run so far ends: the kernel sends its own
read-ahead out of order and up to 1 MiB apart. Several runs are followed at once, as several
processes, or the partitions of one guest, read one file each in its own sequence. The window ahead
of a run is half as long as the run, so that it grows as the run does, and a look at the middle of
an image costs little; ahead of a stream it is four times as long. A seek starts a new run. What was
ordered stays ordered: it is in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass

from nebfs.blocks import SLOT_SIZE
from nebfs.content.layers.cached import Cached
from nebfs.content.stack import Reader, ReaderFacts
from nebfs.model import Revision
from nebfs.units import KIB, MIB

NEAR = 1 * MIB
"""How far from the end of a run a read may start and still belong to it."""

RUNS = 4
"""How many runs of one file are followed; the one that was read least lately is forgotten."""

PATIENCE = 512 * KIB
"""How long a run must be before anything is ordered ahead."""

FAR_PATIENCE = 4 * MIB
"""The same for a place far away, of which much is brought around each miss in any case, unless the
run is a stream. A guest that boots reads up to 3 MiB in a row."""

STREAM = 2 * MIB
"""How long a run without gaps must be to be taken for somebody who reads to the end: one read of
1 MiB, with what the kernel reads ahead of it, is not. One that began at the beginning of the file,
as all copying does, need only be that one read."""

WINDOW = 8 * MIB
"""The shortest window of a stream: three times what a link of 20 ms and 1 Gbit/s holds."""

STEP = 4 * MIB
"""A long window is moved on in steps of one order."""


@dataclass(slots=True)
class _Run:
    """A sequence of reads: where it ends, how long it is, how much of that was read (twice, if it
    was read twice), and up to where was ordered ahead of it.
    """

    end: int
    length: int
    read: int
    ordered: int

    @property
    def stream(self) -> bool:
        """Whether it is somebody who reads to the end."""
        gapless = self.read * 8 >= self.length * 7
        return gapless and (self.length > STREAM or self.end == self.length >= STREAM // 2)


class ReadAhead:
    """Watches the reads of one open file and orders ahead of them, at most `limit` bytes."""

    def __init__(self, below: Reader, cached: Cached, limit: int) -> None:
        self.below = below
        self._cached = cached
        self._limit = limit
        self._runs: list[_Run] = []
        self.size = below.size

    @property
    def revision(self) -> Revision:
        """The revision of the object below."""
        return self.below.revision

    def warm(self, offset: int, length: int) -> memoryview | None:
        """Answer from below, taking note of the read while the object is incomplete."""
        file = self._cached.file
        if file.here != file.slots:
            self._note(offset, length)
        return self.below.warm(offset, length)

    async def pread(self, offset: int, length: int) -> bytes | memoryview:
        """Answer from below. ``warm`` has taken note of this read already."""
        return await self.below.pread(offset, length)

    def _note(self, offset: int, length: int) -> None:
        end = offset + length
        run = next((r for r in self._runs if -NEAR <= offset - r.end <= NEAR), None)
        if run is None:
            run = _Run(end, length, length, end)
            self._runs.insert(0, run)
            del self._runs[RUNS:]
        else:
            if run is not self._runs[0]:
                self._runs.remove(run)
                self._runs.insert(0, run)
            run.read += length
            if end > run.end:
                run.length += end - run.end
                run.end = end
        patience = FAR_PATIENCE if self._cached.pace.far and not run.stream else PATIENCE
        if run.length > patience and self._limit:
            self._order(run)

    def _order(self, run: _Run) -> None:
        window = max(run.length * 4, WINDOW) if run.stream else run.length // 2
        window = min(window, self._limit)
        goal = min(run.end + window, self.size)
        if window >= 2 * STEP and goal < self.size:
            goal -= goal % STEP
        start = max(run.ordered, run.end)
        if goal - start >= min(STEP, window // 2) or goal == self.size > start:
            run.ordered = goal
            self._cached.ahead(start // SLOT_SIZE, -(-goal // SLOT_SIZE), stream=run.stream)

    def facts(self) -> ReaderFacts:
        """What is known below."""
        return self.below.facts()

    async def aclose(self) -> None:
        """The object below is shared: whoever opened it for us closes it."""
