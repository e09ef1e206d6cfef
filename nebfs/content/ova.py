"""The disk in an OVA: a tar archive of a description (OVF), and of the disks it is about.

Sources: DMTF's DSP0243 (OVF 2.1: "an OVA shall be a POSIX 1003.1 ustar archive"), POSIX pax for the
headers, and the GNU tar manual for long names and sizes of 8 GiB and more. An OVA has a handful of
members; the headers are read one after the other where they are, and what is between is not. Which
member is a disk is said by its name, and what is in it by its bytes. The description is not read:
it could only name members, and with one disk there is nothing to choose.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import trio

from nebfs.content.layers.blockmap_formats import VDI, VHD, VHDX, VMDK, BlockFormat
from nebfs.content.layers.window import Window
from nebfs.content.stack import Disk, Reader
from nebfs.errors import Damaged, Unsupported
from nebfs.model import Revision
from nebfs.units import KIB

KIND: Final = "tar"

_BLOCK: Final = 512
_MOST_MEMBERS: Final = 64
"""Headers that are read: an OVA has 3 to 10 members, the root of a system has tens of thousands."""
_LONGEST_EXTRA: Final = 64 * KIB
"""Bytes of what goes before a header: names and sizes that are too long to be in it."""

_FILES: Final = frozenset(b"0\x007")
_EXTRAS: Final = frozenset(b"xgLK")
_OTHERS: Final = frozenset(b"123456")
"""Links, devices, directories, pipes: they have no bytes, whatever their header says."""

_DISKS: Final = {"vmdk": VMDK, "vhd": VHD, "vhdx": VHDX, "vdi": VDI}
_NO_DISK: Final = "it is an archive of files, not a disk"


@dataclass(frozen=True, slots=True)
class Member:
    """One file in an archive: `size` bytes from `offset` on."""

    name: str
    offset: int
    size: int


async def look(file: Reader) -> Disk:
    """Say how long the disk in an archive is, or why it has no raw view.

    Raises what reading the file raises.
    """
    try:
        member, kind = await _find(file)
        disk = await kind.look(_Part(file, member.offset, member.size, file.revision))
    except (Damaged, Unsupported) as exc:
        return Disk(0, KIND, str(exc))
    return Disk(disk.size, KIND, disk.flaw)


async def open_disk(file: Reader, backing: Reader | None, revision: Revision) -> Reader:
    """Return a reader of the disk in an archive. From here on it owns both, also if it fails.

    Raises Damaged, Unsupported, and what reading the file raises.
    """
    try:
        member, kind = await _find(file)
        window = Window(file, member.offset, member.size, file.revision)
    except BaseException:
        with trio.CancelScope(shield=True):
            await file.aclose()
        raise
    return await kind.open(window, backing, revision)


class _Part(Window):
    """A window through which is only looked: the file is somebody else's."""

    async def aclose(self) -> None:
        """Leave the file open."""


async def _find(file: Reader) -> tuple[Member, BlockFormat]:
    """Return the one member that is a disk, and its format. Raises Damaged, Unsupported."""
    found = []
    async for member in members(file):
        kind = _DISKS.get(member.name.rpartition(".")[2].lower())
        if kind is not None:
            found.append((member, kind))
    if not found:
        raise Unsupported(_NO_DISK)
    if len(found) > 1:
        raise Unsupported(f"it is an archive with {len(found)} disks, and a raw view shows one")
    return found[0]


async def members(file: Reader) -> AsyncIterator[Member]:
    """Yield the files in an archive. Raises Damaged, and Unsupported for one that is no OVA."""
    at = 0
    name, size = "", -1  # what goes before a header says of the next one
    seen = 0
    while at < file.size:
        if at + _BLOCK > file.size:
            raise Damaged("the archive is cut off", at=at)
        header = bytes(await file.pread(at, _BLOCK))
        if not any(header):
            return
        seen += 1
        if seen > _MOST_MEMBERS:
            raise Unsupported(_NO_DISK)
        _check(header)
        kind = header[156]
        length = _number(header[124:136])
        at += _BLOCK
        if kind in _EXTRAS:
            if length > _LONGEST_EXTRA or at + length > file.size:
                raise Damaged("the archive has a header of an impossible length", length=length)
            extra = bytes(await file.pread(at, length)) if length else b""
            if kind == ord("L"):
                name = extra.rstrip(b"\0").decode("utf-8", "replace")
            elif kind == ord("x"):
                name, size = _pax(extra, name, size)
            at += -(-length // _BLOCK) * _BLOCK
            continue
        if kind in _FILES:
            length = size if size >= 0 else length
            if at + length > file.size:
                raise Damaged("the archive is cut off: a file in it goes on beyond its end")
            yield Member(name or _name(header), at, length)
            at += -(-length // _BLOCK) * _BLOCK
        elif kind not in _OTHERS:
            raise Unsupported("an archive with members that nebfs does not know")
        name, size = "", -1


def _check(header: bytes) -> None:
    """Raise Damaged unless a header's checksum is right: its own place in it counts as spaces."""
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if header[257:262] != b"ustar" or _number(header[148:156]) != total:
        raise Damaged("a header of the archive is damaged")


def _number(field: bytes) -> int:
    """Read a number: octal digits, or as GNU writes what is too large. Raises Damaged."""
    if field[0] == 0x80:
        value = int.from_bytes(field[1:], "big")
    else:
        digits = field.strip(b" \0")
        if not re.fullmatch(rb"[0-7]*", digits):
            raise Damaged("a header of the archive has a number that is none")
        value = int(digits or b"0", 8)
    if value >= 1 << 62:
        raise Damaged("a header of the archive has an impossible number")
    return value


def _name(header: bytes) -> str:
    return header[:100].partition(b"\0")[0].decode("utf-8", "replace")


def _pax(extra: bytes, name: str, size: int) -> tuple[str, int]:
    """Return the name and the size of the next member. Records are ``length key=value newline``.

    Raises Damaged, and Unsupported for a file with holes: its bytes are not as they are stored.
    """
    at = 0
    while at < len(extra):
        digits, space, _ = extra[at : at + 8].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        if length <= len(digits) + 1 or at + length > len(extra):
            raise Damaged("a header of the archive is damaged")
        key, _, value = extra[at + len(digits) + 1 : at + length - 1].partition(b"=")
        if key.startswith(b"GNU.sparse"):
            raise Unsupported("an archive with a file that has holes")
        if key == b"path":
            name = value.decode("utf-8", "replace")
        elif key == b"size":
            if not re.fullmatch(rb"[0-9]{1,18}", value):
                raise Damaged("a header of the archive has a number that is none")
            size = int(value)
        at += length
    return name, size
