"""What the header of a VMDK file says, and the text about the disk in it.

Source: VMware's Virtual Disk Format 5.0. All numbers are little-endian, and count sectors of 512
bytes. Of the kinds of disk there are two that are one file: monolithicSparse, whose blocks
("grains") are as they are, and streamOptimized, whose grains are compressed, and which can be
written without going back: the place of the directory is then only known in a footer. All others
name the files that their bytes are in; no such name is ever followed.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final

from nebfs.content.layers.blockmap import SECTOR
from nebfs.errors import Damaged, Unsupported
from nebfs.units import KIB, MIB

MAGIC: Final = b"KDMV"
TEXT: Final = b"# Disk DescriptorFile"
AT_END: Final = (1 << 64) - 1
"""The place of the directory in the header of a file that has a footer."""
GRAINS: Final = 512
"""Entries of a table of grains: "this is currently 512", in all versions."""
LONGEST_TEXT: Final = 64 * KIB
"""Bytes of a descriptor that are looked at: it has 10 KiB as VMware makes it."""

_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH")
"""Magic, version, flags, sectors of the disk and of a grain, place and length of the text, entries
of a table, places of the redundant directory and of the directory, sectors of all that, whether it
was not closed, four characters that a transfer as text would have changed, compression."""
_NEWLINES: Final = b"\n \r\n"
_CHECK_NEWLINES, _ZERO_GRAINS, _COMPRESSED, _MARKERS = 1 << 0, 1 << 2, 1 << 16, 1 << 17
_DEFLATE: Final = 1
_NEWEST: Final = 3

_SMALLEST, _LARGEST = 4 * KIB, 2 * MIB
"""Bytes of a grain: "a power of 2 and greater than 8" sectors; 64 KiB in what is made. The limit is
ours: one grain is in memory at once if it is compressed."""

_EXTENT = re.compile(r"\s*(?:RW|RDONLY|NOACCESS)\s+\d+\s+(\w+)", re.IGNORECASE | re.ASCII)
_VALUE = re.compile(r'\s*(\w+)\s*=\s*"?([^"]*?)"?\s*', re.ASCII)


@dataclass(frozen=True, slots=True)
class Header:
    """What a header, or a footer, says. Sizes and offsets are bytes."""

    size: int
    grain: int
    directory: int
    """Or AT_END."""
    text: tuple[int, int]
    """Place and length of the text; a length of 0 when there is none."""
    zero_grains: bool
    """Whether 1 as the place of a grain means zeros."""
    compressed: bool

    @property
    def tables(self) -> int:
        """How many tables of grains the disk has: entries of the directory."""
        return -(-self.size // (self.grain * GRAINS))


def parse(data: bytes) -> Header:
    """Read a header, or a footer, of one sector. Raises Damaged, Unsupported."""
    if data.startswith(TEXT):
        raise Unsupported(
            "it is only the description of a disk, whose bytes are in other files, which it names"
            " and which are not followed"
        )
    if data.startswith(b"COWD"):
        raise Unsupported("a sparse vmdk of ESX (COWD), which nebfs does not know")
    if len(data) < SECTOR or not data.startswith(MAGIC):
        raise Damaged("it is no vmdk image")
    (_, version, flags, sectors, grain, text, text_length, entries, _, directory, *rest) = (
        _HEADER.unpack_from(data)
    )
    _, _, newlines, compression = rest
    if not 1 <= version <= _NEWEST:
        raise Unsupported("a vmdk image of another version than 1 to 3", version=version)
    if flags & _CHECK_NEWLINES and newlines != _NEWLINES:
        raise Damaged("the vmdk image was changed as if it were text, by how it was transferred")
    if grain & grain - 1 or not _SMALLEST <= grain * SECTOR <= _LARGEST:
        raise Damaged("the vmdk image has grains of an impossible size", sectors=grain)
    if entries != GRAINS:
        raise Damaged("the vmdk image has tables of an impossible size", entries=entries)
    if max(sectors, text, text_length) * SECTOR >= 1 << 63:
        raise Damaged("the vmdk image is impossibly large")
    compressed = bool(flags & _COMPRESSED)
    if compressed != bool(flags & _MARKERS) or (compressed and compression != _DEFLATE):
        raise Unsupported("a vmdk image that is compressed in a way that nebfs does not know")
    return Header(
        sectors * SECTOR,
        grain * SECTOR,
        directory if directory == AT_END else directory * SECTOR,
        (text * SECTOR, text_length * SECTOR if text else 0),
        bool(flags & _ZERO_GRAINS),
        compressed,
    )


def check_text(text: bytes) -> None:
    """Raise Unsupported when the disk is more than the file that this text is in."""
    extents: list[str] = []
    values: dict[str, str] = {}
    lines = text.partition(b"\0")[0].decode("utf-8", "replace").splitlines()
    if not lines:
        raise Unsupported(
            "it is one part of a disk, whose other parts and description are other files"
        )
    for line in lines:
        extent = _EXTENT.match(line)
        if extent is not None:
            extents.append(extent[1].upper())
            continue
        value = _VALUE.fullmatch(line)
        if value is not None:
            values.setdefault(value[1].lower(), value[2])
    kind = values.get("createtype", "")
    if kind.lower() not in {"monolithicsparse", "streamoptimized"}:
        raise Unsupported(
            "a vmdk image of a kind that nebfs does not know, or whose bytes are in other files",
            kind=kind[:40],
        )
    if values.get("parentcid", "ffffffff").lower() != "ffffffff":
        raise Unsupported(
            "it has only the changes to another image, which it names and which is not followed"
        )
    if extents != ["SPARSE"]:
        raise Unsupported(
            "a part of its disk is in other files, which it names and which are not followed"
        )
