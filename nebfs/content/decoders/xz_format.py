"""The parts of an .xz file, as "The .xz File Format" 1.2.1 has them. Pure; all of it is input.

A file is streams with padding between them; a stream is a header, blocks, an index of these, and
a footer that leads back to the index.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple
from zlib import crc32

from nebfs.content.decoders.walking import Walk
from nebfs.errors import Damaged, Unsupported

MAGIC, END_MAGIC = b"\xfd7zXZ\0", b"YZ"
EDGE = 12
"""Bytes of a stream's header, and of its footer."""

CHECKS = {0: 0, 1: 4, 4: 8, 10: 32}
"""Bytes of a block's check (none, CRC32, CRC64, SHA-256), by number. xz knows no others either."""

MOST_DICTIONARY = 256 << 20
"""Bytes of the largest dictionary that is decoded with: four times that of ``xz -9``."""

_LZMA2 = 0x21
_KEEP_LENGTH = frozenset(range(3, 12))
"""Filters before LZMA2 (delta, and one for each kind of processor). They change no length."""

_NUMBER_BYTES = 9


class Measures(NamedTuple):
    """Lengths of one block: without padding and check as it is stored, and decoded."""

    stored: int
    size: int


def pack_number(number: int) -> bytes:
    """Write a number as the format does (at least one byte of seven bits, the lowest first)."""
    packed = bytearray()
    while number >= 0x80:
        packed.append(number & 0x7F | 0x80)
        number >>= 7
    packed.append(number)
    return bytes(packed)


def unpack_number(data: bytes, at: int) -> tuple[int, int]:
    """Read a number: what it is, and where it ends. Damaged if it is not in its shortest form."""
    number = 0
    for place in range(_NUMBER_BYTES):
        if at + place >= len(data):
            break
        byte = data[at + place]
        number |= (byte & 0x7F) << 7 * place
        if not byte & 0x80:
            if byte == 0 and place:
                break
            return number, at + place + 1
    raise Damaged("a number in the xz image breaks the format")


def pack_header(check: int) -> bytes:
    """Make the header of a stream whose blocks have this check."""
    flags = bytes((0, check))
    return MAGIC + flags + struct.pack("<I", crc32(flags))


def pack_end(check: int, unpadded: int, size: int) -> bytes:
    """Make the index and the footer of a stream of one block."""
    index = b"\0\1" + pack_number(unpadded) + pack_number(size)
    index += bytes(-len(index) % 4)
    index += struct.pack("<I", crc32(index))
    return index + pack_footer(check, len(index))


def pack_footer(check: int, index_length: int) -> bytes:
    """Make the footer of a stream."""
    fields = struct.pack("<IBB", index_length // 4 - 1, 0, check)
    return struct.pack("<I", crc32(fields)) + fields + END_MAGIC


def parse_header(data: bytes) -> int:
    """Return the number of the check that a stream's header names."""
    if not data.startswith(MAGIC):
        raise Damaged("something that is no xz stream is in the xz image")
    if struct.unpack_from("<I", data, 8)[0] != crc32(data[6:8]):
        raise Damaged("the header of an xz stream is damaged")
    return _check(data[6:8])


def parse_footer(data: bytes) -> tuple[int, int]:
    """Return the bytes of the index before a stream's footer, and the number of the check."""
    if data[10:] != END_MAGIC or struct.unpack_from("<I", data)[0] != crc32(data[4:10]):
        raise Damaged("the footer of an xz stream is damaged")
    return 4 * (int(struct.unpack_from("<I", data, 4)[0]) + 1), _check(data[8:10])


def _check(flags: bytes) -> int:
    if flags[0] or flags[1] not in CHECKS:
        raise Unsupported("the xz image has a check that is not known", number=flags.hex())
    return flags[1]


def walk_block(length_byte: bytes, sink: Callable[[bytes], object]) -> Walk[Measures]:
    """Read a block without its check, from behind its first byte; all of it goes to `sink`.

    Its length is found without decoding: LZMA2 is chunks that say how long they are, packed (at
    most 64 KiB) and decoded (at most 2 MiB).
    """
    header = length_byte + (yield length_byte[0] * 4 + 3)
    _check_block_header(header)
    sink(header)
    stored, size = len(header), 0
    while True:
        control = yield 1
        kind = control[0]
        if kind == 0:
            break
        if kind in {1, 2}:
            head = yield 2
            decoded = packed = int.from_bytes(head, "big") + 1
        elif kind >= 0x80:
            head = yield 4 + (kind >= 0xC0)  # a byte more when it sets the properties anew
            decoded = ((kind & 0x1F) << 16 | head[0] << 8 | head[1]) + 1
            packed = (head[2] << 8 | head[3]) + 1
        else:
            raise Damaged("a chunk in the xz image breaks the format")
        chunk = yield packed
        sink(control + head + chunk)
        stored += 1 + len(head) + packed
        size += decoded
    stored += 1
    sink(b"\0" + (yield -stored % 4))
    return Measures(stored, size)


def _check_block_header(header: bytes) -> None:
    fields, checksum = header[:-4], header[-4:]
    if struct.pack("<I", crc32(fields)) != checksum:
        raise Damaged("the header of a block of the xz image is damaged")
    flags, at = fields[1], 2
    if flags & 0x3C:
        raise Unsupported("the xz image uses a feature that is not known")
    for flag in (0x40, 0x80):  # the lengths of the block; xz's library compares them
        if flags & flag:
            _, at = unpack_number(fields, at)
    for left in range(flags & 3, -1, -1):
        kind, at = unpack_number(fields, at)
        length, at = unpack_number(fields, at)
        properties = fields[at : at + length]
        at += length
        if at > len(fields):
            raise Damaged("the header of a block of the xz image breaks the format")
        if left:
            if kind not in _KEEP_LENGTH:
                raise Unsupported("the xz image uses a filter that is not known", number=kind)
        elif kind != _LZMA2:
            raise Unsupported("the xz image uses a filter that is not known", number=kind)
        else:
            _check_dictionary(properties)
    if any(fields[at:]):
        raise Unsupported("the xz image uses a feature that is not known")


def _check_dictionary(properties: bytes) -> None:
    """Lengths are 2 or 3 times a power of two, from 4 KiB on."""
    if len(properties) != 1 or properties[0] > 40:
        raise Damaged("the header of a block of the xz image breaks the format")
    bits = properties[0]
    if (2 | bits & 1) << (bits // 2 + 11) > MOST_DICTIONARY:
        raise Unsupported("the xz image needs more than 256 MiB to be decoded")
