"""The disk inside a VDI image, VirtualBox's format: fixed ("static") or growing ("dynamic").

Facts are from VirtualBox's and QEMU's descriptions of version 1.1, which all images since 2006 are
of: a header of 400 bytes behind a text of 64; a map of 32-bit numbers, little-endian as all of it,
that tell at which place among the blocks in the file a block of the disk is.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from nebfs.content.layers.blockmap import EMPTY, HOLE, SECTOR, SLICE, Slice
from nebfs.content.stack import Reader
from nebfs.errors import Damaged, Unsupported
from nebfs.units import KIB, MIB

SIGNATURE: Final = b"\x7f\x10\xda\xbe"
HEAD: Final = 512

_DYNAMIC, _STATIC = 1, 2
_START = struct.Struct("<4sIIII")  # from 64 on: signature, version, header's size, type, flags
_PLACES = struct.Struct("<II12xI4xQIIII")
"""From 340 on: places of the map and of the blocks; the sector's size; bytes of the disk, of a
block, of what is before each block; how many blocks there are, and how many in the file."""
_UUIDS = 424
"""Where the names of the images that this one is a change of are: link and parent, 16 bytes each.
"""
_DISCARDED = 0xFFFFFFFE
"""This and the next one are no places: a block that was given back, and one never written to."""

_SMALLEST, _LARGEST = 4 * KIB, 256 * MIB
"""Bytes of a block: VirtualBox makes them of 1 MiB, and reads other powers of two."""


@dataclass(frozen=True, slots=True)
class VdiLayout:
    """What the header says. Sizes and offsets are bytes."""

    kind: ClassVar[str] = "vdi"
    unpack: ClassVar[None] = None
    per_slice: ClassVar[int] = SLICE // 4

    size: int
    block: int
    map: int
    data: int

    @property
    def blocks(self) -> int:
        """How many blocks the disk has."""
        return -(-self.size // self.block)

    async def load(self, file: Reader, number: int) -> Slice:
        """Read a part of the map."""
        first = number * self.per_slice
        count = min(self.per_slice, self.blocks - first)
        entries = np.frombuffer(await file.pread(self.map + first * 4, count * 4), "<u4")
        nowhere = entries >= _DISCARDED
        if nowhere.all():
            return EMPTY
        hosts = entries.astype(np.uint64) * np.uint64(self.block) + np.uint64(self.data)
        hosts[nowhere] = np.uint64(HOLE)
        return Slice(hosts)


async def read_vdi(file: Reader) -> VdiLayout:
    """Read the header. Raises Damaged, Unsupported, and what reading the file raises."""
    head = bytes(await file.pread(0, min(HEAD, file.size))) if file.size else b""
    layout = parse(head)
    if layout.map + layout.blocks * 4 > min(layout.data, file.size):
        raise Damaged("the map of the vdi image is not where one can be")
    return layout


def parse(head: bytes) -> VdiLayout:
    """Read a header out of a file's first HEAD bytes. Raises Damaged, Unsupported."""
    if len(head) < HEAD or not head.startswith(SIGNATURE, 64):
        raise Damaged("it is no vdi image")
    _, version, length, kind, _ = _START.unpack_from(head, 64)
    if version >> 16 != 1 or version & 0xFFFF < 1:
        raise Unsupported(
            "a vdi image of another version than 1.1", version=f"{version >> 16}.{version & 0xFFFF}"
        )
    if length < _UUIDS + 32 - 72:
        raise Damaged("the header of the vdi image has an impossible length", length=length)
    if kind not in {_DYNAMIC, _STATIC} or any(head[_UUIDS : _UUIDS + 32]):
        raise Unsupported(
            "it has only the changes to another image (a differencing vdi), which is not followed"
        )
    at, data, sector, size, block, extra, blocks, _ = _PLACES.unpack_from(head, 340)
    if sector != SECTOR or extra:
        raise Unsupported("a vdi image of sectors or blocks that nebfs does not know")
    if block & block - 1 or not _SMALLEST <= block <= _LARGEST:
        raise Damaged("the vdi image has blocks of an impossible size", block=block)
    # As QEMU does: some tool wrote lengths that are no sectors.
    size = -(-size // SECTOR) * SECTOR
    if size > blocks * block:
        raise Damaged("the map of the vdi image is too small for its size", size=size)
    if at < HEAD or at % SECTOR or data % SECTOR:
        raise Damaged("the tables of the vdi image are not where they can be")
    return VdiLayout(size, block, at, data)
