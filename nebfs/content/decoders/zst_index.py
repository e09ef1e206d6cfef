"""The frames of a .zst file, from the seek table at its end.

That is a skippable frame (zstd's contrib/seekable_format/zstd_seekable_compression_format.md):
for each frame its bytes stored and decoded, and in some files a checksum. It is written by
whoever made the file and covered by nothing, so lengths that do not add up make it no table at all.

Without one nothing is said about the image. The first frame's header tells its own length only,
and whether it is the last one could be seen only by walking its blocks: a read of three bytes for
every 128 KiB of the disk, which brings the whole image through the cache. The pass does the same
and has the bytes then.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from nebfs.content.decoders.interface import MOST_BLOCK, MOST_BLOCKS, Block, Index, Read

_FOOTER = struct.Struct("<IB4s")
_FOOTER_MAGIC = b"\xb1\xea\x92\x8f"
_HEAD = struct.Struct("<4sI")
_TABLE_MAGIC = b"\x5e\x2a\x4d\x18"
_CHECKSUMS = 0x80
_RESERVED = 0x7C


async def read_index(read: Read, length: int) -> Index:
    """Return the Index of a zstd image of `length` bytes, empty without a seek table."""
    if length < _FOOTER.size + _HEAD.size:
        return Index()
    count, descriptor, magic = _FOOTER.unpack(await read(length - _FOOTER.size, _FOOTER.size))
    if magic != _FOOTER_MAGIC or descriptor & _RESERVED or count > MOST_BLOCKS:
        return Index()
    entry = struct.Struct("<III" if descriptor & _CHECKSUMS else "<II")
    table_length = entry.size * count + _FOOTER.size
    at = length - _HEAD.size - table_length
    if at < 0:
        return Index()
    table = await read(at, length - at)
    if len(table) != length - at or _HEAD.unpack_from(table) != (_TABLE_MAGIC, table_length):
        return Index()
    return _put_together(entry.iter_unpack(table[_HEAD.size : -_FOOTER.size]), at)


def _put_together(entries: Iterator[tuple[int, ...]], end: int) -> Index:
    blocks: list[Block] = []
    host = start = 0
    useful = True
    for stored, size, *_ in entries:
        if not size:  # a frame that nobody would decode, and a pass might find bytes in
            return Index()
        blocks.append(Block(host, stored, start, size))
        useful = useful and stored <= MOST_BLOCK and size <= MOST_BLOCK
        host += stored
        start += size
    if host != end:
        return Index()
    return Index(start, tuple(blocks) if useful else None)
