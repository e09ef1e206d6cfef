"""The disk inside a VHD image, of Virtual PC, Hyper-V, XenServer and Azure: fixed or growing.

Source: Microsoft's Virtual Hard Disk Image Format Specification, 1.0. All numbers are big-endian. A
fixed image is the disk and a footer of 512 bytes. A growing ("dynamic") one has a copy of the
footer first, which leads to a header, and that to a table: of each block the sector at which it
begins, first with a bitmap of which sectors were ever written to (QEMU does not look into it, and
sectors that were not are written as zeros), or 0xFFFFFFFF for none.

How long the disk is has two answers: a count of bytes, and a geometry of cylinders, heads and
sectors, as which a guest of Virtual PC saw it. Which one is meant is known only by who made it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from nebfs.content.layers.blockmap import (
    BROKEN,
    EMPTY,
    HOLE,
    SECTOR,
    SLICE,
    Slice,
    overlap,
)
from nebfs.content.layers.window import Span
from nebfs.content.stack import Reader
from nebfs.errors import Damaged, Unsupported
from nebfs.units import MIB

FOOTER: Final = 512
COOKIE: Final = b"conectix"

_FIXED, _DYNAMIC, _DIFFERENCING = 2, 3, 4
_FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBII")
"""Cookie, features, version, place of the header, time, creator, its version, its system, first and
present size, cylinders, heads, sectors, type, checksum."""
_HEADER = struct.Struct(">8sQQIIII")
"""Cookie, next one, place of the table, version, entries, bytes of a block, checksum."""
_HEADER_SIZE: Final = 1024
_NONE: Final = 0xFFFFFFFF

_MEAN_BYTES: Final = frozenset({b"win ", b"qem2", b"d2v ", b"tap\0", b"CTXS", b"wa\0\0"})
"""Who means the count of bytes: Hyper-V, QEMU with force_size, Disk2vhd, XenServer, XenConvert, and
Azure (QEMU's block/vpc.c)."""
_MOST_CHS: Final = 65535 * 16 * 255
"""Sectors of the largest geometry there is: what has it is probably larger, and bytes are meant."""

_LARGEST: Final = 256 * MIB
"""Bytes of a block: 2 MiB or 512 KiB is usual, 256 MiB is what the format's successor allows."""


@dataclass(frozen=True, slots=True)
class Footer:
    """What a footer says. Sizes and offsets are bytes."""

    size: int
    fixed: bool
    header: int


@dataclass(frozen=True, slots=True)
class VhdLayout:
    """What footer and header of a growing image say. Sizes and offsets are bytes."""

    kind: ClassVar[str] = "vhd"
    unpack: ClassVar[None] = None
    per_slice: ClassVar[int] = SLICE // 4

    size: int
    block: int
    header: int
    table: int
    entries: int

    async def load(self, file: Reader, number: int) -> Slice:
        """Read a part of the table."""
        first = number * self.per_slice
        count = min(self.per_slice, -(-self.size // self.block) - first)
        entries = np.frombuffer(await file.pread(self.table + first * 4, count * 4), ">u4")
        nowhere = entries == _NONE
        if nowhere.all():
            return EMPTY
        bitmap = -(-self.block // (SECTOR * 8) // SECTOR) * SECTOR
        hosts = entries.astype(np.uint64) * np.uint64(SECTOR)
        areas = (
            (0, FOOTER),
            (self.header, self.header + _HEADER_SIZE),
            (self.table, self.table + self.entries * 4),
        )
        wrong = overlap(hosts, bitmap + self.block, areas)
        hosts += np.uint64(bitmap)
        hosts[wrong] = np.uint64(BROKEN)
        hosts[nowhere] = np.uint64(HOLE)
        return Slice(hosts)


async def read_vhd(file: Reader) -> VhdLayout | Span:
    """Read footer and header. Raises Damaged, Unsupported, and what reading the file raises."""
    if file.size < FOOTER:
        raise Damaged("it is no vhd image")
    head = bytes(await file.pread(0, FOOTER))
    if not head.startswith(COOKIE):
        fixed = parse_footer(bytes(await file.pread(file.size - FOOTER, FOOTER)))
        if not fixed.fixed:
            raise Damaged("the beginning of the vhd image is missing")
        if fixed.size > file.size - FOOTER:
            raise Damaged("the vhd image is shorter than its disk", size=fixed.size)
        return Span(0, fixed.size)
    footer = parse_footer(head)
    if footer.fixed:
        raise Damaged("the vhd image contradicts itself about its kind")
    if footer.header > file.size - _HEADER_SIZE:
        raise Damaged("the header of the vhd image is beyond its end", at=footer.header)
    layout = parse_header(bytes(await file.pread(footer.header, _HEADER_SIZE)), footer)
    if layout.table + layout.entries * 4 > file.size:
        raise Damaged("the vhd image is cut off: its table is beyond its end", at=layout.table)
    return layout


def parse_footer(data: bytes) -> Footer:
    """Read a footer, or the copy at the beginning. Raises Damaged, Unsupported."""
    if len(data) < FOOTER or not data.startswith(COOKIE):
        raise Damaged("it is no vhd image")
    _, _, version, header, _, creator, *rest = _FOOTER.unpack_from(data)
    _, _, _, size, cylinders, heads, sectors, kind, total = rest
    if total != _checksum(data, 64):
        raise Damaged("the footer of the vhd image is damaged: its checksum is another one")
    if version >> 16 != 1:
        raise Unsupported("a vhd image of another version than 1", version=version >> 16)
    if kind == _DIFFERENCING:
        raise Unsupported(
            "it has only the changes to another image (a differencing vhd), which it names and"
            " which is not followed"
        )
    if kind not in {_FIXED, _DYNAMIC}:
        raise Unsupported("a vhd image of a kind that nebfs does not know", type=kind)
    geometry = cylinders * heads * sectors
    if creator not in _MEAN_BYTES and geometry != _MOST_CHS:
        size = geometry * SECTOR
    return Footer(size // SECTOR * SECTOR, kind == _FIXED, header)


def parse_header(data: bytes, footer: Footer) -> VhdLayout:
    """Read the header of a growing image. Raises Damaged."""
    cookie, _, table, _, entries, block, total = _HEADER.unpack_from(data)
    if cookie != b"cxsparse" or total != _checksum(data, 36):
        raise Damaged("the header of the vhd image is damaged")
    if block & block - 1 or not SECTOR <= block <= _LARGEST:
        raise Damaged("the vhd image has blocks of an impossible size", block=block)
    if entries * block < footer.size:
        raise Damaged("the table of the vhd image is too small for its size", size=footer.size)
    return VhdLayout(footer.size, block, footer.header, table, entries)


def _checksum(data: bytes, at: int) -> int:
    """Return the sum of all bytes but the four at `at`, where it is kept; all bits inverted."""
    return ~(sum(data) - sum(data[at : at + 4])) & 0xFFFFFFFF
