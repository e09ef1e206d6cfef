"""The tables of a VMDK image, and its compressed grains: see vmdk_header.py for the source.

A directory leads to tables of 512 grains each, and these to grains. Both are read a part at a time.
A compressed grain begins with a marker: the sector of the disk that it is for, and its length; then
comes a zlib stream. How long a grain is, is not in the tables: where the next one begins it ends.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import numpy as np
import trio
from cachetools import LRUCache

from nebfs.content.layers.blockmap import (
    BROKEN,
    EMPTY,
    HOLE,
    SECTOR,
    SLICE,
    Places,
    Slice,
    overlap,
)
from nebfs.content.layers.unpacking import UnpackBlock
from nebfs.content.layers.vmdk_header import (
    AT_END,
    GRAINS,
    LONGEST_TEXT,
    Header,
    check_text,
    parse,
)
from nebfs.content.stack import Reader
from nebfs.errors import Damaged

try:
    from isal import isal_zlib as deflate
except ImportError:  # a kind of processor that it is not made for: half as fast
    import zlib as deflate  # type: ignore[no-redef]

_MARKER: Final = struct.Struct("<QI")
_END_MARKER: Final = struct.Struct("<QII")
"""Of what is not a grain: its length in sectors, 0, and what it is."""
_FOOTER: Final = 3
_TABLE: Final = GRAINS * 4

_DIRECTORY_SLICES: Final = 8
"""Parts of a directory that are in memory for one image, 64 KiB each: of 256 GiB of disk each with
the usual grains."""


class Grains(NamedTuple):
    """What unpacks the compressed grains of one image."""

    grain: int
    size: int

    def unpack(self, number: int, data: memoryview) -> bytes:
        """Return a grain, of which the last one of the disk may be short. Raises Damaged."""
        wanted = min(self.grain, self.size - number * self.grain)
        sector, length = _MARKER.unpack_from(data) if len(data) >= _MARKER.size else (0, 0)
        if not 0 < length <= len(data) - _MARKER.size:
            raise Damaged("a grain of the vmdk image is longer than its place", number=number)
        if sector * SECTOR != number * self.grain:
            raise Damaged("a grain of the vmdk image is one of another place", number=number)
        stream = deflate.decompressobj(15)
        try:
            # A byte more than can be right, so that the end of the stream, where its checksum is,
            # is reached and not just short of.
            found = stream.decompress(data[_MARKER.size : _MARKER.size + length], self.grain + 1)
        except deflate.error as exc:  # type: ignore[misc]  # its stubs make it an instance
            raise Damaged("a grain of the vmdk image cannot be unpacked", number=number) from exc
        if not stream.eof or not wanted <= len(found) <= self.grain:
            raise Damaged("a grain of the vmdk image has a wrong length", number=number)
        return found


class VmdkLayout:
    """Reads the tables of one image."""

    kind: Final = "vmdk"
    per_slice: Final = GRAINS

    def __init__(self, header: Header, file_size: int) -> None:
        """`header`: with the place of the directory. Raises Damaged when that is cut off."""
        self.size = header.size
        self.block = header.grain
        self._compressed = header.compressed
        self._zero_grains = header.zero_grains
        self._directory = header.directory
        self._tables = header.tables
        self._file_size = file_size
        stop = self._directory + self._tables * 4
        if self._directory < SECTOR or stop > file_size:
            raise Damaged("the vmdk image is cut off: its directory is not within the file")
        text, length = header.text
        self._areas = ((0, SECTOR), (text, text + length), (self._directory, stop))
        self._room = self.block + (self.block >> 3) + 2 * SECTOR
        """Bytes that a compressed grain has at most: what cannot be compressed takes little more
        than it had (zlib adds 5 bytes to 16 KiB)."""
        self._kept: LRUCache[int, Places] = LRUCache(_DIRECTORY_SLICES)
        self._turn = trio.Lock()

    @property
    def unpack(self) -> UnpackBlock | None:
        """What unpacks the grains, if they are compressed."""
        return Grains(self.block, self.size).unpack if self._compressed else None

    async def load(self, file: Reader, number: int) -> Slice:
        """Read a table of grains."""
        at = await self._place_of_table(file, number)
        if not at:
            return EMPTY
        if at + _TABLE > self._file_size:
            raise Damaged("a table of the vmdk image is not within its file", at=at)
        entries = np.frombuffer(await file.pread(at, _TABLE), "<u4")
        nowhere = entries == 0
        if self._zero_grains:
            nowhere |= entries == 1
        if nowhere.all():
            return EMPTY
        hosts = entries.astype(np.uint64) * np.uint64(SECTOR)
        wrong = overlap(hosts, SECTOR if self._compressed else self.block, self._areas)
        wrong |= overlap(hosts, SECTOR, [(at, at + _TABLE)])
        wrong |= hosts >= self._file_size
        hosts[wrong] = np.uint64(BROKEN)
        hosts[nowhere] = np.uint64(HOLE)
        return Slice(hosts, self._rooms(hosts) if self._compressed else None)

    def _rooms(self, hosts: Places) -> Places:
        """Return how many bytes there are up to where the next grain begins, at most."""
        begins = np.unique(hosts[hosts < np.uint64(BROKEN)])
        stops = np.append(begins, np.uint64(self._file_size))
        next_one = stops[np.minimum(np.searchsorted(begins, hosts, "right"), len(begins))]
        rooms: Places = np.minimum(next_one - hosts, np.uint64(self._room))
        return rooms

    async def _place_of_table(self, file: Reader, number: int) -> int:
        part, index = divmod(number, SLICE // 4)
        entries = self._kept.get(part)
        if entries is None:
            async with self._turn:
                entries = self._kept.get(part)
                if entries is None:
                    start = part * SLICE
                    length = min(SLICE, self._tables * 4 - start)
                    raw = await file.pread(self._directory + start, length)
                    entries = np.frombuffer(raw, "<u4").astype(np.uint64)
                    self._kept[part] = entries
        return int(entries[index]) * SECTOR


async def read_vmdk(file: Reader) -> VmdkLayout:
    """Read header, text and footer. Raises Damaged, Unsupported, and what reading raises."""
    head = bytes(await file.pread(0, min(SECTOR, file.size))) if file.size else b""
    header = parse(head)
    at, length = header.text
    if at + length > file.size:
        raise Damaged("the vmdk image is cut off: its description is beyond its end")
    check_text(bytes(await file.pread(at, min(length, LONGEST_TEXT))) if length else b"")
    if header.directory == AT_END:
        header = await _footer(file, header)
    return VmdkLayout(header, file.size)


async def _footer(file: Reader, header: Header) -> Header:
    """Return the header that is at the end: behind a marker, and before the marker of the end."""
    if file.size < 4 * SECTOR:
        raise Damaged("the vmdk image is cut off: its footer is missing")
    tail = bytes(await file.pread(file.size - 3 * SECTOR, 3 * SECTOR))
    length, zero, kind = _END_MARKER.unpack_from(tail)
    if (length, zero, kind) != (1, 0, _FOOTER) or any(tail[2 * SECTOR :][: _END_MARKER.size]):
        raise Damaged("the vmdk image is cut off: its footer is missing")
    footer = parse(tail[SECTOR : 2 * SECTOR])
    same = footer.size == header.size and footer.grain == header.grain
    if footer.directory == AT_END or not same or footer.compressed != header.compressed:
        raise Damaged("header and footer of the vmdk image contradict each other")
    return footer
