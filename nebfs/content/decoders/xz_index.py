"""The blocks of an .xz file, from the indexes at the ends of its streams.

Read back to front: each footer says how long the index before it is, and each index how long the
blocks before it are. Every field is compared with what it must be; that the blocks are what
the index says, only decoding them shows.
"""

from __future__ import annotations

from zlib import crc32

from nebfs.content.decoders import xz_format as form
from nebfs.content.decoders.interface import MOST_BLOCK, MOST_BLOCKS, Block, Index, Read
from nebfs.errors import Damaged

_LONGEST_INDEX = 1 << 20
"""Bytes of all indexes: those of MOST_BLOCKS blocks take half of it."""

_MOST_STREAMS = 256
"""Each costs three reads, one after the other."""

_MOST_PADDING = 1 << 20
_PADDING_READ = 64 << 10

_MOST_BYTES = 1 << 63


class _TooMuch(Exception):
    """An index that costs more than it is worth."""


async def read_index(read: Read, length: int) -> Index:
    """Return the Index of an xz image of `length` bytes; Damaged if it contradicts itself.

    An Index with nothing in it is for an image of more streams, blocks or padding than is
    reasonable: a pass decodes it as well.
    """
    streams: list[tuple[int, list[tuple[int, int]]]] = []  # the last one first
    end, indexes, records = length, 0, 0
    try:
        while end > 0 or not streams:
            end = await _skip_padding(read, end)
            if end < 2 * form.EDGE + 8 or end % 4:
                raise Damaged("the xz image is cut off")
            index_length, check = form.parse_footer(await read(end - form.EDGE, form.EDGE))
            at = end - form.EDGE - index_length
            if at < form.EDGE:
                raise Damaged("the index of the xz image is longer than the image")
            indexes += index_length
            if indexes > _LONGEST_INDEX or len(streams) == _MOST_STREAMS:
                raise _TooMuch
            found = _parse_index(await read(at, index_length), MOST_BLOCKS - records)
            records += len(found)
            start = at - sum(_padded(unpadded) for unpadded, _ in found)
            end = start - form.EDGE
            if end < 0:
                raise Damaged("the index of the xz image is of more than there is")
            if form.parse_header(await read(end, form.EDGE)) != check:
                raise Damaged("header and footer of an xz stream differ")
            streams.append((start, found))
    except _TooMuch:
        return Index()
    return _put_together(streams)


async def _skip_padding(read: Read, end: int) -> int:
    """Return where the stream ends that has zeros up to `end`."""
    skipped = 0
    while end > 0:
        # A footer ends with a letter, so mostly these bytes are enough.
        wanted = min(4 if not skipped else _PADDING_READ, end)
        tail = await read(end - wanted, wanted)
        left = len(tail.rstrip(b"\0"))
        zeros = (wanted - left) // 4 * 4
        end -= zeros
        skipped += zeros
        if zeros < wanted:
            break
        if skipped > _MOST_PADDING:
            raise _TooMuch
    return end


def _parse_index(data: bytes, most: int) -> list[tuple[int, int]]:
    """Return for each block its stored bytes without padding, and its decoded bytes."""
    if data[0] or crc32(data[:-4]).to_bytes(4, "little") != data[-4:]:
        raise Damaged("the index of the xz image is damaged")
    fields = data[:-4]
    count, at = form.unpack_number(fields, 1)
    if count > len(fields) // 2:
        raise Damaged("the index of the xz image breaks the format")
    if count > most:
        raise _TooMuch
    found = []
    for _ in range(count):
        unpadded, at = form.unpack_number(fields, at)
        size, at = form.unpack_number(fields, at)
        if unpadded < 5:  # the shortest header is longer
            raise Damaged("the index of the xz image breaks the format")
        found.append((unpadded, size))
    if len(fields) - at > 3 or any(fields[at:]):
        raise Damaged("the index of the xz image breaks the format")
    return found


def _put_together(streams: list[tuple[int, list[tuple[int, int]]]]) -> Index:
    blocks, size = [], 0
    useful = True
    for start, found in reversed(streams):
        host = start
        for unpadded, decoded in found:
            stored = _padded(unpadded)
            blocks.append(Block(host, stored, size, decoded))
            # An empty one nobody would decode, and a pass might find bytes in it.
            useful = useful and stored <= MOST_BLOCK and 0 < decoded <= MOST_BLOCK
            host += stored
            size += decoded
    if size >= _MOST_BYTES:
        raise Damaged("the xz image is impossibly large")
    return Index(size, tuple(blocks) if useful else None)


def _padded(length: int) -> int:
    return length + -length % 4
