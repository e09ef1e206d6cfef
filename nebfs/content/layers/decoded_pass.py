"""One pass over a compressed file: its bytes in, in order; slots of the decoded object out.

For a worker thread, one call at a time. What was asked for is written, everything else is only
counted: slots that are here already were proven once, and stay.
"""

from __future__ import annotations

import os
import time
from collections.abc import Container, Iterator
from typing import Final

import trio

from nebfs.blocks import SLOT_SIZE, BlockFile
from nebfs.blocks.blockfile import SLOT_SHIFT
from nebfs.content.decoders import decoder
from nebfs.errors import CacheFault, Damaged
from nebfs.fetcher.messages import SLOW
from nebfs.model import Filled
from nebfs.units import MIB

decode_threads: Final = trio.CapacityLimiter(max(2, os.cpu_count() or 2))
"""Threads that decode: more than processors would only take turns."""


PACE = 4 * MIB >> SLOT_SHIFT
"""Slots that a disk may take SLOW seconds for."""


class Writer:
    """Writes slots of `file` that its caller has claimed, in a row, in a worker thread."""

    def __init__(self, file: BlockFile) -> None:
        self._file = file
        self._seconds = 0.0
        self._slots = 0

    def write(self, slot: int, view: memoryview) -> Filled:
        """Write one. Raises CacheFault, also when the disk is so slow that it had better be left:
        readers wait.
        """
        began = time.monotonic()
        try:
            entry = self._file.record(slot, view)
        except OSError as exc:
            raise CacheFault(f"the cache disk refused a write: {exc.strerror}") from exc
        self._seconds += time.monotonic() - began
        self._slots += 1
        if self._seconds > SLOW * max(1.0, self._slots / PACE):
            raise CacheFault(f"the cache disk is slow: {self._seconds:.1f} s for a few blocks")
        return entry


class Pass:
    """Decodes into `file`. `size` is what the compressed file says of its length; None: nothing."""

    def __init__(self, compression: str, file: BlockFile, size: int | None) -> None:
        self.slot = 0
        """The slot that is being made."""
        self.written = 0
        """Bytes that this pass has written."""
        self.file = file
        self._decoder = decoder(compression)
        self._size = size
        self._pieces: Iterator[bytes | memoryview] = iter(())
        self._piece = memoryview(b"")
        self._made = memoryview(bytearray(SLOT_SIZE))
        self._filled = 0
        self._writer = Writer(file)

    @property
    def position(self) -> int:
        """How many bytes were decoded."""
        return self.slot * SLOT_SIZE + self._filled

    def feed(self, data: bytes) -> None:
        """Take the next compressed bytes; ``advance`` decodes them."""
        self._pieces = self._decoder.feed(data)

    def finish(self) -> None:
        """Take note that these were all; ``advance`` checks that."""
        self._pieces = self._decoder.end()

    def advance(self, stop: int, wanted: Container[int]) -> tuple[list[Filled], bool]:
        """Decode up to slot `stop`, writing the `wanted` slots. Return what was written, and
        whether more must be fed. Raises Damaged, Unsupported, CacheFault.
        """
        filled: list[Filled] = []
        self._writer = Writer(self.file)
        while self.slot < stop:
            if not self._piece:
                piece = next(self._pieces, None)
                if piece is None:
                    return filled, True
                self._piece = memoryview(piece)
                if self._size is not None and self.position + len(piece) > self._size:
                    raise Damaged("more is in the compressed image than it says", said=self._size)
            length = min(len(self._piece), SLOT_SIZE - self._filled)
            self._made[self._filled : self._filled + length] = self._piece[:length]
            self._piece = self._piece[length:]
            self._filled += length
            if self._filled == SLOT_SIZE:
                filled += self.tail(wanted)
        return filled, False

    def tail(self, wanted: Container[int]) -> list[Filled]:
        """Write the slot that is being made, as far as it goes, if it is wanted: the last one is
        as long as it is. Raises CacheFault.
        """
        made, slot = self._made[: self._filled], self.slot
        if self._filled == SLOT_SIZE:
            self.slot, self._filled = slot + 1, 0
        if not made or slot not in wanted:
            return []
        entry = self._writer.write(slot, made)
        self.written += 0 if entry.zero else entry.length
        return [entry]

    def close(self) -> None:
        """End the decoder's threads."""
        self._decoder.close()
