"""The first bytes of what is in a compressed file, without a pass over it.

By the libraries themselves: a decoder of ``decoders`` may work ahead and answer later, and what
comes out here is only looked at, to see which format it is. Nothing of it is served.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zlib

import trio
import zstandard

from nebfs.content.stack import Reader, ReaderFacts
from nebfs.errors import Damaged, NebfsError
from nebfs.model import Revision
from nebfs.units import KIB, MIB

WANTED = 4 * KIB
"""Decoded bytes: with a qcow2 header and all of its extensions (see qcow2_header.HEAD)."""

_FED = (64 * KIB, MIB, 4 * MIB)
"""Compressed bytes that are tried, one after the other: bzip2 needs a whole block (900 kB of
content), and long names or comments may come first in gzip."""

_MEMORY = 256 * MIB
_WINDOW = 128 * MIB

UNKNOWN = 1 << 62
"""What stands for a length that is not known yet."""


class Peeked:
    """A Reader of the first bytes of something that has `size` of them."""

    def __init__(self, head: bytes, size: int, revision: Revision) -> None:
        self._head = head
        self.size = size
        self.revision = revision

    def warm(self, offset: int, length: int) -> memoryview | None:
        """Answer if the bytes are among the first."""
        view = memoryview(self._head)[offset : offset + length]
        return view if len(view) == length else None

    async def pread(self, offset: int, length: int) -> bytes | memoryview:
        """Answer, or raise NebfsError."""
        await trio.lowlevel.checkpoint()
        view = self.warm(offset, length)
        if view is None:
            raise NebfsError("more than the first bytes would have to be decompressed")
        return view

    def facts(self) -> ReaderFacts:
        """There is nothing to say about it."""
        return ReaderFacts(size=self.size, cached=len(self._head), verified="", last_error="")

    async def aclose(self) -> None:
        """There is nothing to let go of."""


async def peek(compression: str, file: Reader) -> bytes:
    """Return the first WANTED decoded bytes of a compressed file: fewer if there are fewer.

    Raises Damaged when it cannot be decoded, and what reading it raises.
    """
    head = b""
    for fed in _FED:
        length = min(fed, file.size)
        packed = bytes(await file.pread(0, length)) if length else b""
        try:
            head = await trio.to_thread.run_sync(_decode, compression, packed)
        except (EOFError, OSError, ValueError, lzma.LZMAError, zlib.error) as exc:
            raise Damaged(f"the {compression} file is damaged", error=str(exc)) from exc
        except zstandard.ZstdError as exc:
            raise Damaged(f"the {compression} file is damaged", error=str(exc)) from exc
        if len(head) >= WANTED or length == file.size:
            break
    return head


def _decode(compression: str, packed: bytes) -> bytes:
    if compression == "zst":
        library = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
        frames = library.stream_reader(io.BytesIO(packed), read_across_frames=True)
        return frames.read(WANTED)
    made = b""
    while packed and len(made) < WANTED:  # any number of members follow one another
        wanted = WANTED - len(made)
        match compression:
            case "gz":
                member = zlib.decompressobj(31)
                made += member.decompress(packed, wanted)
                packed = member.unused_data
            case "bz2":
                stream = bz2.BZ2Decompressor()
                made += stream.decompress(packed, wanted)
                packed = stream.unused_data
            case _:
                xz = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)
                made += xz.decompress(packed, wanted)
                packed = xz.unused_data.lstrip(b"\0") if xz.eof else b""
    return made
