"""The table of a VHDX image, Hyper-V's format: where the blocks of its disk are.

Source: Microsoft's [MS-VHDX], 2.5. The table ("BAT") has 64 bits for each block: its state, and the
MiB of the file at which it begins. After each chunk of 2^23 sectors there is an entry more, for a
bitmap that only differencing images have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from nebfs.content.layers.blockmap import BROKEN, EMPTY, HOLE, SLICE, Slice, overlap
from nebfs.content.layers.vhdx_header import Facts, read_facts
from nebfs.content.stack import Reader
from nebfs.errors import Damaged
from nebfs.units import MIB

_CHUNK: Final = 1 << 23
"""Sectors of a chunk."""

_NOTHING: Final = (0, 1, 2, 3, 5)
"""States of a block without bytes: never there, undefined, zero, unmapped, and unmapped as it was
in the format's draft. All are zeros, as for QEMU."""
_PRESENT: Final = 6
"""Fully present. Partially (7) is of differencing images, 4 is nothing."""


@dataclass(frozen=True, slots=True)
class VhdxLayout:
    """What the headers say. Sizes and offsets are bytes."""

    kind: ClassVar[str] = "vhdx"
    unpack: ClassVar[None] = None
    per_slice: ClassVar[int] = SLICE // 8

    size: int
    block: int
    table: int
    ratio: int
    """Blocks of a chunk."""
    areas: tuple[tuple[int, int], ...]
    """What headers, log, table and metadata take (start and stop), where no block can be."""

    async def load(self, file: Reader, number: int) -> Slice:
        """Read a part of the table."""
        first = number * self.per_slice
        stop = min(first + self.per_slice, -(-self.size // self.block))
        start = first + first // self.ratio
        last = stop - 1 + (stop - 1) // self.ratio
        raw = await file.pread(self.table + start * 8, (last + 1 - start) * 8)
        entries = np.frombuffer(raw, "<u8").astype(np.uint64)
        blocks = np.arange(first, stop)
        entries = entries[blocks + blocks // self.ratio - start]
        states = entries & np.uint64(7)
        nowhere = np.isin(states, np.array(_NOTHING, np.uint64))
        if nowhere.all():
            return EMPTY
        hosts = entries & ~np.uint64(MIB - 1)
        wrong = (states != _PRESENT) | overlap(hosts, self.block, self.areas)
        hosts[wrong] = np.uint64(BROKEN)
        hosts[nowhere] = np.uint64(HOLE)
        return Slice(hosts)


async def read_vhdx(file: Reader) -> VhdxLayout:
    """Read the headers. Raises Damaged, Unsupported, and what reading the file raises."""
    return layout_of(await read_facts(file))


def layout_of(facts: Facts) -> VhdxLayout:
    """Return where the table is. Raises Damaged when it is too small for the disk."""
    ratio = _CHUNK * facts.sector // facts.block
    blocks = -(-facts.size // facts.block)
    entries = blocks + (blocks - 1) // ratio if blocks else 0
    start, stop = facts.table
    if start + entries * 8 > stop:
        raise Damaged("the table of the vhdx image is too small for its size", size=facts.size)
    areas = ((0, MIB), facts.log, facts.table, facts.metadata)
    return VhdxLayout(facts.size, facts.block, start, ratio, areas)
