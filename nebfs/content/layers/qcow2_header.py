"""What the header of a qcow2 image says. Pure; everything in it is somebody's input.

Source: QEMU's docs/interop/qcow2.txt. All numbers are big-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from nebfs.errors import Damaged, Unsupported

MAGIC = b"QFI\xfb"
HEAD = 4096
"""Bytes that ``parse`` wants to see: the longest name of a backing file (1023), behind all header
extensions that QEMU writes, is among them."""

SMALLEST, LARGEST = 9, 21
"""Bits of a cluster, 512 B to 2 MiB: what QEMU reads."""

MOST_L1 = 32 << 20
"""Bytes of the longest L1 table that QEMU reads (QCOW_MAX_L1_SIZE)."""

LONGEST_NAME = 1023

_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_KNOWN = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION | _EXTENDED_L2
_FIRST = struct.Struct(">4sIQIIQIIQ")
_THIRD = struct.Struct(">QQQII")
_FORMAT = 0xE2792ACA
_COMPRESSIONS = ("zlib", "zstd")


@dataclass(frozen=True, slots=True)
class Header:
    """The part of a header that reading needs. Sizes and offsets are bytes."""

    version: int
    cluster_bits: int
    size: int
    """Of the disk inside."""
    l1_offset: int
    l1_entries: int
    backing_name: str
    """What the file itself says lies beneath it: empty for nothing. Never to be followed."""
    backing_format: str = ""
    encrypted: bool = False
    data_file: bool = False
    corrupt: bool = False
    extended_l2: bool = False
    compression: str = "zlib"

    @property
    def flaw(self) -> str:
        """Why the disk inside cannot be read, whatever lies beneath; or empty."""
        if self.encrypted:
            return "it is encrypted"
        if self.data_file:
            return "its data is in another file"
        return "it is marked as corrupt" if self.corrupt else ""


def parse(head: bytes, *, named: bool = True) -> Header:
    """Read a header out of a file's first bytes (HEAD, or fewer if the file is shorter).

    Raises Damaged when it breaks the format, Unsupported for what nobody can read who does not know
    more than this format, and when the name of the backing file is not within `head`, unless it
    need not be `named`.
    """
    if len(head) < _FIRST.size or not head.startswith(MAGIC):
        raise Damaged("it is no qcow2 image")
    _, version, at, length, bits, size, crypt, entries, table = _FIRST.unpack_from(head)
    if version not in {2, 3}:
        raise Unsupported("a qcow2 image of another version than 2 or 3", version=version)
    if not SMALLEST <= bits <= LARGEST:
        raise Damaged("the qcow2 image has clusters of an impossible size", bits=bits)
    features, header_length = 0, 72
    if version == 3:
        if len(head) < 72 + _THIRD.size:
            raise Damaged("the header of the qcow2 image is cut off")
        features, _, _, _, header_length = _THIRD.unpack_from(head, 72)
        if header_length < 104 or header_length % 8 or header_length > 1 << bits:
            raise Damaged("the header of the qcow2 image has an impossible length")
    if features & ~_KNOWN:
        raise Unsupported("the qcow2 image needs features that nebfs does not know")
    extended = bool(features & _EXTENDED_L2)
    if extended and bits < 14:
        raise Damaged("the qcow2 image has subclusters that are too small")
    header = Header(
        version,
        bits,
        size,
        table,
        entries,
        _name(head, at, length) if named else "",
        _backing_format(head, header_length) if named else "",
        encrypted=crypt != 0,
        data_file=bool(features & _DATA_FILE),
        corrupt=bool(features & _CORRUPT),
        extended_l2=extended,
        compression=_compression(head, features, header_length),
    )
    _check_l1(header)
    return header


def names_backing(head: bytes) -> bool:
    """Whether a header names a file beneath it."""
    return len(head) >= 16 and head.startswith(MAGIC) and head[8:16] != bytes(8)


def _name(head: bytes, at: int, length: int) -> str:
    if not at:
        return ""
    if length > LONGEST_NAME:
        raise Damaged("the qcow2 image names a backing file with too long a name")
    if at + length > len(head):
        raise Unsupported("the name of the backing file is not among the image's first bytes")
    return head[at : at + length].decode("utf-8", "surrogateescape")


def _backing_format(head: bytes, at: int) -> str:
    while at + 8 <= len(head):
        kind, length = struct.unpack_from(">II", head, at)
        if kind == 0:
            break
        if kind == _FORMAT:
            return head[at + 8 : at + 8 + min(length, 64)].decode("ascii", "replace")
        at += 8 + -(-length // 8) * 8
    return ""


def _compression(head: bytes, features: int, header_length: int) -> str:
    number = head[104] if header_length > 104 and len(head) > 104 else 0
    if bool(number) != bool(features & _COMPRESSION):
        raise Damaged("the qcow2 image contradicts itself about its compression")
    if number >= len(_COMPRESSIONS):
        raise Unsupported("the qcow2 image has a compression that nebfs does not know")
    return _COMPRESSIONS[number]


def _check_l1(header: Header) -> None:
    cluster = 1 << header.cluster_bits
    covered = cluster * (cluster // (16 if header.extended_l2 else 8))  # by one entry of L1
    if header.size >= 1 << 63 or header.l1_entries * 8 > MOST_L1:
        raise Damaged("the qcow2 image is impossibly large")
    if header.l1_entries < -(-header.size // covered):
        raise Damaged("the L1 table of the qcow2 image is too small for its size")
    if header.l1_offset % cluster or (header.size and not header.l1_offset):
        raise Damaged("the L1 table of the qcow2 image is not where one can be")
