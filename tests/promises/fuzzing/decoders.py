"""Compressed images: one pass over them, in pieces, and what their index says.

The first byte says which compression. What decodes without an error must be what the format's own
library makes of it, and the blocks of an index must be parts of the same.
"""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
from functools import partial

import trio
import zstandard

from nebfs.content.decoders import decode_block, decoder, read_index
from nebfs.errors import NebfsError

NAMES = ("gz", "bz2", "xz", "zst")
MOST = 4 << 20
"""Bytes after which a bomb is known for one: that decoding it is bounded was seen by then."""


def one(data: bytes) -> None:
    """`data` is the compressed image behind its first byte."""
    if not data:
        return
    name, packed = NAMES[data[0] % len(NAMES)], data[1:]
    try:
        index = trio.run(partial(_index, name, packed))
    except NebfsError:
        index = None
    found = _decoded(name, packed, 1 << 20)
    if found is None:
        return
    assert found == _decoded(name, packed, 100), "other bytes in smaller pieces"
    theirs = _library(name, packed)
    assert theirs is None or theirs == found, "other bytes than the library's"
    assert index is not None, "an index is refused of what can be decoded"
    assert index.size is None or index.size == len(found), "another length than was said"
    for block in index.blocks or ():
        part = packed[block.host : block.host + block.length]
        right = found[block.start : block.start + block.size]
        assert decode_block(name, part, block) == right, "other bytes from a block"


async def _index(name: str, packed: bytes):
    async def read(offset: int, length: int) -> bytes:
        assert offset >= 0
        assert 0 < length <= len(packed) - offset
        await trio.lowlevel.checkpoint()
        return packed[offset : offset + length]

    return await read_index(name, read, len(packed))


def _decoded(name: str, packed: bytes, step: int) -> bytes | None:
    """Return what it decodes to; None for a bomb. Raises what the decoder raises."""
    pieces, length = [], 0
    with decoder(name) as made:
        feeds = (made.feed(packed[at : at + step]) for at in range(0, len(packed), step))
        for piece in itertools.chain(itertools.chain.from_iterable(feeds), made.end()):
            assert piece, "an empty piece"
            pieces.append(piece)
            length += len(piece)
            if length > MOST:
                return None
    return b"".join(pieces)


def _library(name: str, packed: bytes) -> bytes | None:
    try:
        match name:
            case "gz":
                return gzip.decompress(packed)
            case "bz2":
                return bz2.decompress(packed)
            case "xz":
                return lzma.decompress(packed, lzma.FORMAT_XZ)
            case _:
                reader = zstandard.ZstdDecompressor().stream_reader(
                    io.BytesIO(packed), read_across_frames=True
                )
                return reader.read(MOST + 1)
    except (OSError, EOFError, ValueError, lzma.LZMAError, zstandard.ZstdError, MemoryError):
        return None  # it is stricter, of what follows a stream for example
    except Exception as exc:
        if type(exc).__name__ == "error":  # zlib's own
            return None
        raise
