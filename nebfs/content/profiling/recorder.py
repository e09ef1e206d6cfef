"""Taking note of what one open file is read for, and telling a boot from a copy."""

from __future__ import annotations

from nebfs.blocks.blockfile import SLOT_SHIFT, SLOT_SIZE
from nebfs.units import MIB

MOST_SLOTS = 256 * MIB // SLOT_SIZE
"""What is recorded of one boot. A small Linux reads 33 MiB (recorded boots), a desktop ten times as
much, of which the first part is worth most."""

FEWEST_SLOTS = 8
"""Fewer are a look at the image (``file``, ``qemu-img info``, a partition table), and no boot."""

NEAR = 1 * MIB // SLOT_SIZE
"""How far from the end of a run a read may be and still go on with it: the kernel sends its own
read-ahead out of order, see ../layers/readahead.py."""

COPIED = 32 * MIB // SLOT_SIZE
"""A run of so many slots, if it is also half of everything, is somebody who copies: what a boot
reads at one go (a kernel, an initrd) is less, or has much around it."""


class Recorder:
    """Notes the slots of one open file in the order of their first read.

    `began` and `last` are trio's times: of the opening, and of the last read of something new.
    """

    __slots__ = ("_end", "_longest", "_run", "_seen", "_start", "began", "full", "last", "order")

    def __init__(self, began: float) -> None:
        self.began = began
        self.last = began
        self.full = False
        """Whether nothing more is noted."""
        self.order: list[int] = []
        self._seen: set[int] = set()
        self._start = self._end = 0
        self._run = 0
        self._longest = 0

    def note(self, offset: int, length: int, now: float) -> None:
        """Take note of a read."""
        if self.full:
            return
        for slot in range(offset >> SLOT_SHIFT, ((offset + length - 1) >> SLOT_SHIFT) + 1):
            if slot in self._seen:
                continue
            self._seen.add(slot)
            self.order.append(slot)
            self.last = now
            self._follow(slot)
        if len(self.order) >= MOST_SLOTS:
            self.full = True

    def _follow(self, slot: int) -> None:
        """Take note of a slot that is read for the first time: it goes on with a run, or not."""
        if not self._run or not -NEAR <= slot - self._end <= NEAR:
            self._start = self._end = slot
            self._run = 0
        self._run += 1
        self._start = min(self._start, slot)
        self._end = max(self._end, slot + 1)
        if self._run * 8 >= (self._end - self._start) * 7:  # without gaps
            self._longest = max(self._longest, self._run)

    def is_boot(self, slots: int) -> bool:
        """Whether what was read looks like a boot from an image of so many slots."""
        read = len(self.order)
        if read < FEWEST_SLOTS or 2 * read > slots:
            return False
        one_stream = self._longest * 10 >= read * 9
        copied = self._longest >= COPIED and self._longest * 2 >= read
        return not one_stream and not copied
