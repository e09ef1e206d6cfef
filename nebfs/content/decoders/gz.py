"""gzip (RFC 1952), decoded in one pass by Intel's ISA-L: three to four times as fast as gzip.

Like ``gzip -dc``: members follow one another, zeros may follow the last. Of anything else behind
it gzip warns (and ends with status 2, after the right bytes): here the pass ends with Damaged,
for the bytes are not what somebody packed. CRC32 and length of each member are checked.
"""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from nebfs.content.decoders.interface import Closing
from nebfs.errors import Damaged

if TYPE_CHECKING:
    import zlib as deflate
else:
    try:  # on processors without it, zlib does the same, slower
        from isal import isal_zlib as deflate
    except ImportError:
        deflate = zlib

_GZIP = 16 + 15
"""As zlib's `wbits`: a gzip member with the largest window."""

_PIECE = 512 << 10
"""Decoded bytes asked for at once: a tenth faster than with 1 MiB."""

_STEP = 256 << 10
"""Compressed bytes handed to the library at once: what it leaves over, it copies."""


class GzDecoder(Closing):
    """Members, then zeros."""

    def __init__(self) -> None:
        self._member: zlib._Decompress | None = None
        self._members = 0
        self._padded = False

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        """See Decoder."""
        view = memoryview(data)
        for at in range(0, len(view), _STEP):
            part: bytes | memoryview = view[at : at + _STEP]
            while part:
                member = self._member or self._begin(part)
                if member is None:
                    break
                part = yield from self._go_on(member, part)

    def end(self) -> Iterator[bytes]:
        """See Decoder."""
        yield from ()
        if self._member is not None or not self._members:
            raise Damaged("the gzip image is cut off")

    def _begin(self, part: bytes | memoryview) -> zlib._Decompress | None:
        """Begin a member if one begins here; None for padding."""
        if self._members and (self._padded or part[0] == 0):
            self._padded = True
            if any(part):
                raise Damaged("the gzip image is followed by something else")
            return None
        if part[0] != 0x1F:
            raise Damaged(
                "the gzip image is followed by something else"
                if self._members
                else "this is no gzip image"
            )
        self._member = deflate.decompressobj(_GZIP)
        self._members += 1
        return self._member

    def _go_on(
        self, member: zlib._Decompress, part: bytes | memoryview
    ) -> Generator[bytes, None, bytes]:
        """Yield what `part` decodes to; return what is behind the member."""
        while True:
            try:
                piece = member.decompress(part, _PIECE)
            except (deflate.error, MemoryError) as exc:
                raise Damaged("the gzip image cannot be decoded", error=str(exc)) from exc
            if piece:
                yield piece
            if member.eof:
                self._member = None
                return member.unused_data
            part = member.unconsumed_tail
            # A full piece may leave more of it inside, also when all of the input is taken.
            if not part and len(piece) < _PIECE:
                return b""
