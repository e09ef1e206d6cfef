"""Somebody who reads a compressed disk from one end to the other: what he wants next.

With one request at a time only one processor would unpack, and none while the answer is on its way.
So a few clusters are unpacked ahead of him, those whose bytes are here: bringing bytes ahead is for
the layers below.
"""

from __future__ import annotations

from typing import Final

from nebfs.units import MIB

NEAR: Final = 1 * MIB
"""How far from where a run ends a read may start and still belong to it: the kernel's own
read-ahead comes out of order."""

PATIENCE: Final = 1 * MIB
"""How long a run must be: one read of the kernel's is no run, and a guest that boots makes none."""

AHEAD: Final = 4 * MIB
"""How far ahead of a run is unpacked: one step is at work while the one before it is read."""

STEP: Final = 2 * MIB
"""How much is ordered at a time: for each of two processors two batches."""


class Run:
    """The sequence of reads that goes on now. Offsets and lengths are bytes of the disk."""

    __slots__ = ("_end", "_ordered", "_start")

    def __init__(self) -> None:
        self._start = self._end = self._ordered = 0

    def next(self, offset: int, length: int, size: int) -> tuple[int, int]:
        """Take note of a read. Return where what is to be unpacked now begins and ends: nothing of
        it was returned before, as long as the run goes on.
        """
        end = offset + length
        if not -NEAR <= offset - self._end <= NEAR:
            self._start, self._end, self._ordered = offset, end, end
        elif end > self._end:
            self._end = end
        start = max(self._ordered, self._end)
        goal = min(self._end + AHEAD, size)
        if self._end - self._start <= PATIENCE or start >= goal:
            return start, start
        if goal - start < STEP and goal < size:
            return start, start
        self._ordered = goal
        return start, goal
