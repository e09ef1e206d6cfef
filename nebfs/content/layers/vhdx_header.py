"""What the headers of a VHDX image say: its disk's size, and where the table of its blocks is.

Source: Microsoft's [MS-VHDX], 2.2 to 2.6. All numbers are little-endian. There are two headers, of
which the valid one with the higher number counts; two copies of a table of regions, of which the
first valid one counts; and a region with metadata. All of it is somebody's input.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from nebfs.content.layers.vhdx_crc import crc32c
from nebfs.content.stack import Reader
from nebfs.errors import Damaged, Unsupported
from nebfs.units import KIB, MIB

SIGNATURE: Final = b"vhdxfile"
LARGEST: Final = 64 << 40
"""Bytes of the largest disk (2.6.2.2)."""

_HEADERS: Final = (64 * KIB, 128 * KIB)
_HEADER: Final = struct.Struct("<4sIQ16s16s16sHHIQ")
"""Signature, checksum, number, three names (of writing the file, the data, and of the log), version
of the log, version, length and place of the log."""
_HEADER_SIZE: Final = 4 * KIB

_REGIONS: Final = (192 * KIB, 256 * KIB)
_REGIONS_SIZE: Final = 64 * KIB
_REGION: Final = struct.Struct("<16sQII")
_MOST_REGIONS: Final = 2047

_ITEM: Final = struct.Struct("<16sIII4x")
_ITEMS_SIZE: Final = 64 * KIB
_MOST_ITEMS: Final = 2047
_IS_USER, _IS_REQUIRED = 1, 4
_LONGEST_ITEM: Final = MIB


def _guid(text: str) -> bytes:
    return UUID(text).bytes_le


_TABLE = _guid("2DC27766-F623-4200-9D64-115E9BFD4A08")
_METADATA = _guid("8B7CA206-4790-4B9A-B8FE-575F050F886E")
_PARAMETERS = _guid("CAA16737-FA36-4D43-B3B6-33F0AA44E76B")
_SIZE = _guid("2FA54224-CD1B-4876-B211-5DBED83BF4B8")
_SECTOR = _guid("8141BF1D-A96F-4709-BA47-F233A8FAAB5F")
_OTHERS = frozenset(
    {
        _guid("BECA12AB-B2E6-4523-93EF-C309E000C746"),  # the disk's identity
        _guid("CDA348C7-445D-4471-9CC9-E9885251C556"),  # its physical sectors
        _guid("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C"),  # where a parent is
    }
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What reading needs. Sizes are bytes; areas of the file are their start and stop."""

    size: int
    block: int
    sector: int
    table: tuple[int, int]
    metadata: tuple[int, int]
    log: tuple[int, int]


async def read_facts(file: Reader) -> Facts:
    """Read all of the headers. Raises Damaged, Unsupported, and what reading the file raises."""
    if file.size < MIB or not bytes(await file.pread(0, 8)).startswith(SIGNATURE):
        raise Damaged("it is no vhdx image" if file.size >= MIB else "the vhdx image is cut off")
    log = parse_headers([bytes(await file.pread(at, _HEADER_SIZE)) for at in _HEADERS])
    for at in _REGIONS:
        regions = parse_regions(bytes(await file.pread(at, _REGIONS_SIZE)))
        if regions is not None:
            break
    else:
        raise Damaged("both tables of regions of the vhdx image are damaged")
    table, metadata = regions
    areas = sorted([(0, MIB), log, table, metadata])
    if any(one[1] > other[0] for one, other in itertools.pairwise(areas)):
        raise Damaged("regions of the vhdx image overlap")
    if areas[-1][1] > file.size:
        raise Damaged("the vhdx image is cut off: a region of it is beyond its end")
    start, stop = metadata
    items = parse_items(bytes(await file.pread(start, min(_ITEMS_SIZE, stop - start))))
    found = []
    for name, length in [(_PARAMETERS, 8), (_SIZE, 8), (_SECTOR, 4)]:
        at, has = items.get(name, (0, 0))
        if has < length or at < _ITEMS_SIZE or start + at + length > stop:
            raise Damaged("metadata of the vhdx image is missing")
        found.append(bytes(await file.pread(start + at, length)))
    block, flags = struct.unpack("<II", found[0])
    size, sector = int.from_bytes(found[1], "little"), int.from_bytes(found[2], "little")
    if flags & 2:
        raise Unsupported(
            "it has only the changes to another image (a differencing vhdx), which it names and"
            " which is not followed"
        )
    if block & block - 1 or not MIB <= block <= 256 * MIB:
        raise Damaged("the vhdx image has blocks of an impossible size", block=block)
    if sector not in {512, 4096} or size > LARGEST or size % sector:
        raise Damaged("the vhdx image has a disk of an impossible size", size=size, sector=sector)
    return Facts(size, block, sector, table, metadata, log)


def parse_headers(headers: list[bytes]) -> tuple[int, int]:
    """Return the area of the log, which is not needed. Raises Damaged, Unsupported."""
    valid = []
    for data in headers:
        signature, total, number, *rest = _HEADER.unpack_from(data)
        if signature == b"head" and total == _checksum(data):
            valid.append((number, rest))
    if not valid:
        raise Damaged("both headers of the vhdx image are damaged")
    if len(valid) == 2 and valid[0][0] == valid[1][0] and valid[0] != valid[1]:
        raise Damaged("the headers of the vhdx image contradict each other")
    _, (_, _, journal, log_version, version, length, at) = max(valid, key=lambda one: one[0])
    if version != 1:
        raise Unsupported("a vhdx image of another version than 1", version=version)
    if any(journal):
        # Its tables may be half-way between two states until the log is played back.
        raise Unsupported(
            "it was not closed properly and has a log to be played back first:"
            " run `qemu-img check -r all` on it where it is from, or open it once in Hyper-V"
        )
    if log_version:
        raise Unsupported("a vhdx image whose log is of another version than 0")
    if length % MIB or at % MIB or (length and at < MIB):
        raise Damaged("the log of the vhdx image is not where one can be")
    return (at, at + length) if length else (MIB, MIB)


def parse_regions(data: bytes) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Return the areas of the table of blocks and of the metadata; None if `data` is damaged.

    Raises Damaged and Unsupported for a table of regions that is whole.
    """
    signature, total, count = struct.unpack_from("<4sII", data)
    if signature != b"regi" or total != _checksum(data):
        return None
    if count > _MOST_REGIONS:
        raise Damaged("the vhdx image has too many regions", count=count)
    found: dict[bytes, tuple[int, int]] = {}
    for number in range(count):
        name, at, length, required = _REGION.unpack_from(data, 16 + number * _REGION.size)
        if name in found:
            raise Damaged("the vhdx image has a region twice")
        if name not in {_TABLE, _METADATA}:
            if required & 1:
                raise Unsupported("the vhdx image needs a region that nebfs does not know")
            continue
        if at < MIB or at % MIB or length % MIB or not length:
            raise Damaged("a region of the vhdx image is not where one can be", at=at)
        found[name] = at, at + length
    if len(found) < 2:
        raise Damaged("a region of the vhdx image is missing")
    return found[_TABLE], found[_METADATA]


def parse_items(data: bytes) -> dict[bytes, tuple[int, int]]:
    """Return where each item is within the metadata, and its length.

    Raises Damaged, Unsupported.
    """
    signature, count = struct.unpack_from("<8s2xH", data)
    if signature != b"metadata" or count > _MOST_ITEMS:
        raise Damaged("the metadata of the vhdx image is damaged")
    known = {_PARAMETERS, _SIZE, _SECTOR}
    found: dict[bytes, tuple[int, int]] = {}
    for number in range(count):
        name, at, length, flags = _ITEM.unpack_from(data, 32 + number * _ITEM.size)
        if flags & _IS_USER or name not in known:
            if flags & _IS_REQUIRED and (flags & _IS_USER or name not in _OTHERS):
                raise Unsupported("the vhdx image needs metadata that nebfs does not know")
            continue
        if name in found or length > _LONGEST_ITEM:
            raise Damaged("the metadata of the vhdx image contradicts itself")
        found[name] = at, length
    return found


def _checksum(data: bytes) -> int:
    """Return the CRC-32C of a header in which the place of that, at 4, has zeros."""
    return crc32c(data[:4] + bytes(4) + data[8:])
