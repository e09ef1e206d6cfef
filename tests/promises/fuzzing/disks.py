"""Disk images of other formats: vdi, vhd, vhdx, vmdk, and archives with one of them inside.

The first byte says which. A vhdx is four megabytes at least, nearly all of them zeros: of it, the
input holds only the sectors in SECTORS. Checksums are put right, as whoever means harm would.
"""

from __future__ import annotations

import struct
from functools import partial

import trio

from nebfs.content.disks import DISKS
from nebfs.content.layers.vhdx_crc import crc32c
from nebfs.model import Revision
from tests.promises.fuzzing.memory_file import MemoryFile, read_about

KINDS = ("vdi", "vhd", "vhdx", "vmdk", "ova", "tar")
KIB, MIB = 1 << 10, 1 << 20
SECTOR = 512
SECTORS = (
    *(0, 64 * KIB, 128 * KIB, 192 * KIB, 256 * KIB),
    *(MIB, 2 * MIB, 2 * MIB + 64 * KIB, 3 * MIB, 4 * MIB),
)
"""Signature, two headers, two region tables, and what is behind them in what qemu-img makes."""
VHDX_SIZE = 8 * MIB
SUMMED = {64 * KIB: 4 * KIB, 128 * KIB: 4 * KIB, 192 * KIB: 64 * KIB, 256 * KIB: 64 * KIB}
"""Parts of a vhdx with a CRC of their own, and their length."""


def one(data: bytes) -> None:
    """Look into the file, open it and read, as a raw view does."""
    if data:
        trio.run(partial(_opened, KINDS[data[0] % len(KINDS)], data[1:]))


def packed(kind: str, image: bytes) -> bytes:
    """Return the input that is this image."""
    if kind == "vhdx":
        image = b"".join(image[at : at + SECTOR].ljust(SECTOR, b"\0") for at in SECTORS)
    return bytes((KINDS.index(kind),)) + image


async def _opened(kind: str, data: bytes) -> None:
    disk = DISKS[kind]
    shown = await disk.look(_file(kind, data))
    file = _file(kind, data)
    try:
        reader = await disk.open(file, None, Revision(0))
    except BaseException:
        assert file.closed
        raise
    try:
        assert shown.flaw or reader.size == shown.size, "another length than was said"
        await read_about(reader, len(data))
    finally:
        await reader.aclose()
    assert file.closed


def _file(kind: str, data: bytes) -> MemoryFile:
    if kind == "vhdx":
        return _vhdx(data)
    if kind == "vhd":
        return MemoryFile.of(_vhd(bytearray(data)))
    if kind in {"ova", "tar"}:
        return MemoryFile.of(_tar(bytearray(data)))
    return MemoryFile.of(data)


def _vhd(data: bytearray) -> bytes:
    for at, length, where in ((0, 512, 64), (512, 1024, 36), (len(data) - 512, 512, 64)):
        if 0 <= at <= len(data) - length:
            data[at + where : at + where + 4] = bytes(4)
            total = ~sum(data[at : at + length]) & 0xFFFFFFFF
            struct.pack_into(">I", data, at + where, total)
    return bytes(data)


def _vhdx(data: bytes) -> MemoryFile:
    parts = {}
    for number, at in enumerate(SECTORS):
        part = bytearray(data[number * SECTOR : (number + 1) * SECTOR].ljust(SECTOR, b"\0"))
        if at in SUMMED:
            part[4:8] = bytes(4)
            struct.pack_into("<I", part, 4, crc32c(bytes(part.ljust(SUMMED[at], b"\0"))))
        parts[at] = bytes(part)
    return MemoryFile(VHDX_SIZE, parts)


def _tar(data: bytearray) -> bytes:
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] == b"ustar":
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)
