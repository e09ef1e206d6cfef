"""gzip (RFC 1952), decoded in one pass by Intel's ISA-L: three to four times as fast as gzip.

Like ``gzip -dc``: members follow one another, zeros may follow the last. Of anything else behind
it gzip warns (and ends with status 2, after the right bytes): here the pass ends with Damaged,
for the bytes are not what somebody packed. CRC32 and length of each member are checked.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from nebfs.content.decoders.interface import Closing
from nebfs.content.decoders.walking import Walk
from nebfs.errors import Damaged, Unsupported

if TYPE_CHECKING:
    import zlib as deflate
else:
    try:  # on processors without it, zlib does the same, slower
        from isal import isal_zlib as deflate
    except ImportError:
        deflate = zlib

_RAW = -15
"""As zlib's `wbits`: deflate with the largest window, and nothing around it."""

_METHOD = 8
_HEADER_CRC, _EXTRA, _NAME, _COMMENT = 0x02, 0x04, 0x08, 0x10
_RESERVED = 0xE0
_LONGEST_TEXT = 64 << 10
"""Bytes of a file name or comment in a header; they are read one by one."""

_PIECE = 512 << 10
"""Decoded bytes asked for at once: a tenth faster than with 1 MiB."""

_STEP = 256 << 10
"""Compressed bytes handed to the library at once: what it leaves over, it copies."""


class GzDecoder(Closing):
    """Members, then zeros.

    Header and trailer are read here: ISA-L takes a name that comes in two pieces for data.
    """

    def __init__(self) -> None:
        self._member: zlib._Decompress | None = None  # while its data is read
        self._crc = self._length = 0  # of what it has decoded to
        self._between = False  # the image may end here
        self._padded = False
        self._kept = bytearray()
        self._walk = self._walk_members()
        self._need = next(self._walk)

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        """See Decoder."""
        view = memoryview(data)
        for at in range(0, len(view), _STEP):
            part: bytes | memoryview = view[at : at + _STEP]
            while part:
                if self._member is not None:
                    part = yield from self._go_on(self._member, part)
                elif self._between and (self._padded or part[0] == 0):
                    self._padded = True
                    if any(part):
                        raise Damaged("the gzip image is followed by something else")
                    part = b""
                else:
                    part = self._step(part)

    def end(self) -> Iterator[bytes]:
        """See Decoder."""
        yield from ()
        if not self._between:
            raise Damaged("the gzip image is cut off")

    def _go_on(
        self, member: zlib._Decompress, part: bytes | memoryview
    ) -> Generator[bytes, None, bytes]:
        """Yield what `part` decodes to; return what is behind the member's data."""
        while True:
            try:
                piece = member.decompress(part, _PIECE)
            except MemoryError as exc:
                raise Unsupported("there is no memory to decode the gzip image") from exc
            except deflate.error as exc:
                raise Damaged("the gzip image cannot be decoded", error=str(exc)) from exc
            if piece:
                self._crc = deflate.crc32(piece, self._crc)
                self._length += len(piece)
                yield piece
            if member.eof:
                self._member = None
                return member.unused_data
            part = member.unconsumed_tail
            # A full piece may leave more of it inside, also when all of the input is taken.
            if not part and len(piece) < _PIECE:
                return b""

    def _step(self, part: bytes | memoryview) -> bytes | memoryview:
        """Walk on with what is no data of a member; return what is left."""
        wanted = self._need - len(self._kept)
        self._kept += part[:wanted]
        self._between = False
        if len(self._kept) == self._need:
            step = bytes(self._kept)
            self._kept.clear()
            self._need = self._walk.send(step)
        return part[wanted:]

    def _walk_members(self) -> Walk[None]:
        follows = False
        while True:
            if (yield 1) != b"\x1f":
                what = "the gzip image is followed by something else"
                raise Damaged(what if follows else "this is no gzip image")
            yield from _walk_header()
            self._crc = self._length = 0
            self._member = deflate.decompressobj(_RAW)
            # What is sent next is what is behind the data.
            crc, length = struct.unpack("<II", (yield 8))
            if crc != self._crc or length != self._length & 0xFFFFFFFF:
                raise Damaged("a checksum of the gzip image is of other bytes")
            self._between = follows = True


def _walk_header() -> Walk[None]:
    """Read a header behind its first byte."""
    seen = bytearray(b"\x1f")
    seen += yield 9
    if seen[1] != 0x8B or seen[2] != _METHOD:
        raise Damaged("something that is no gzip member is in the gzip image")
    flags = seen[3]
    if flags & _RESERVED:
        raise Unsupported("the gzip image uses a feature that is not known")
    if flags & _EXTRA:
        length = yield 2
        seen += length
        seen += yield int.from_bytes(length, "little")
    for flag in (_NAME, _COMMENT):
        if flags & flag:
            yield from _walk_text(seen)
    if flags & _HEADER_CRC:
        checksum = yield 2
        if zlib.crc32(seen) & 0xFFFF != int.from_bytes(checksum, "little"):
            raise Damaged("a header of the gzip image is damaged")


def _walk_text(seen: bytearray) -> Walk[None]:
    for _ in range(_LONGEST_TEXT):
        byte = yield 1
        seen += byte
        if byte == b"\0":
            return
    raise Unsupported("a name in the gzip image is too long")
