"""Compressed disk images, decoded: one forward pass, as fast as it goes, in bounded memory.

What lives here: for each of gzip, bzip2, xz and zstd a Decoder (bytes in, bytes out), and for
those formats that have one an Index of the blocks that can be decoded by themselves. What does not:
reading, writing and waiting for the network (layers/), and which images get a decoded face.

Start reading in interface.py. ``decoder(name)`` makes a Decoder, ``read_index`` asks for the Index
and ``decode_block`` decodes one block of it. The names are those of formats.py.

Rules: all that comes in is somebody's input, so memory is bounded whatever it says; what the
format has checksums of is checked; where concatenated or trailing bytes are concerned, the exit
status of the format's own tool decides what is right, and each module says what that is.

Concurrency: synchronous, for worker threads; read_index alone is async, and only because `read` is.
A decoder of bzip2 or xz has two threads of its own (ahead.py), which ``close`` ends.
"""

from __future__ import annotations

from nebfs.content.decoders import xz_index, zst_index
from nebfs.content.decoders.bzip2 import Bz2Decoder
from nebfs.content.decoders.gz import GzDecoder
from nebfs.content.decoders.interface import (
    MOST_BLOCK,
    MOST_BLOCKS,
    PIECE,
    Block,
    Decoder,
    Index,
    Read,
)
from nebfs.content.decoders.xz import XzDecoder
from nebfs.content.decoders.xz import decode_block as decode_xz_block
from nebfs.content.decoders.zst import ZstDecoder, decode_frame
from nebfs.errors import Damaged, Unsupported

__all__ = [
    "MOST_BLOCK",
    "MOST_BLOCKS",
    "PIECE",
    "Block",
    "Decoder",
    "Index",
    "Read",
    "decode_block",
    "decoder",
    "read_index",
]

_DECODERS: dict[str, type[Decoder]] = {
    "bz2": Bz2Decoder,
    "gz": GzDecoder,
    "xz": XzDecoder,
    "zst": ZstDecoder,
}
_INDEXES = {"xz": xz_index.read_index, "zst": zst_index.read_index}
_BLOCKS = {"xz": decode_xz_block, "zst": decode_frame}


def decoder(compression: str) -> Decoder:
    """Return a new Decoder for ``gz``, ``bz2``, ``xz`` or ``zst``; Unsupported for another name."""
    kind = _DECODERS.get(compression)
    if kind is None:
        raise Unsupported("nebfs does not know this compression", compression=compression)
    return kind()


async def read_index(compression: str, read: Read, length: int) -> Index:
    """Return what a compressed image of `length` bytes says about itself, in a few small reads.

    Empty where the format has no index (gz, bz2) or this image none. Raises Damaged, Unsupported
    (and what `read` raises) for an image that a pass cannot decode either.
    """
    index = _INDEXES.get(compression)
    return Index() if index is None else await index(read, length)


def decode_block(compression: str, data: bytes | memoryview, block: Block) -> bytes:
    """Return the `block.size` bytes that `data`, the `block.length` bytes of a Block, decodes to.

    The block's own checksum is checked where it has one. Raises Damaged, Unsupported.
    """
    if len(data) != block.length or max(block.length, block.size) > MOST_BLOCK:
        raise Damaged("this is no block of an index", length=len(data), size=block.size)
    return _BLOCKS[compression](data, block)
