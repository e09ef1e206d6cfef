"""bzip2, decoded in one pass by its own library, several blocks at the same time.

There is no specification but the program; what is used here: a stream is ``BZh`` and a digit, then
blocks, each with a magic of 48 bits and the CRC of what it decodes to, then an end magic and a CRC
made of all of theirs; then zeros up to a whole byte. Each block is decoded in a thread as a stream
of its own: a header, the block's bits moved to a whole byte, and an end that says what it must.

Where blocks begin is found by their magics (bzip2_marks.py). A magic may also stand inside a block.
What is then decoded is cut off, and fails; so what fails is joined with what follows and decoded
again. Nothing is handed out before its block's CRC was right, if it is not of unusual length.

Like ``bzip2 -dc``: streams follow one another, and bytes behind the last that begin no stream are
ignored (the program warns and ends with status 0). Unlike there, a stream whose header is damaged
is not ignored with all that follows: that would be a disk without its end. All CRCs are checked.
"""

from __future__ import annotations

import bz2
from collections import deque
from collections.abc import Iterator
from functools import partial

import numpy as np

from nebfs.content.decoders.ahead import WORKERS, Ahead, Unit
from nebfs.content.decoders.bzip2_marks import BLOCK, END, MAGIC_BITS, Mark, find_marks
from nebfs.content.decoders.interface import PIECE, Closing, pieces
from nebfs.errors import Damaged, Unsupported

_LONGEST = 2600 << 10
"""Bytes of no block that bzip2 can make are more: 900001 symbols of at most 20 bits, and tables."""

_MOST_JOINED = 16
"""False magics in one block. Each costs decoding it once more; chance makes none."""

_MOST_PARTS = 64
"""Parts that may wait: those that are no block are in no worker's queue."""

_HOLD = 4 << 20
"""Decoded bytes that are kept back until their CRC is seen. A block has 0.9 MB, but runs of equal
bytes make it up to 46 MB."""

_START = 0
"""The magic of the Part before the first block, which has none."""

_CRC_BITS = 32


class Part:
    """The bits from one mark to the next: a block, or a stream's end and the header of the next."""

    __slots__ = (
        "bits",
        "failed",
        "held",
        "joined",
        "magic",
        "open",
        "raw",
        "shift",
        "size",
        "unit",
    )

    def __init__(self, magic: int, raw: bytes, shift: int, bits: int) -> None:
        self.magic = magic
        self.raw = raw
        self.shift = shift  # bits of the first byte that belong to the part before
        self.bits = bits
        self.unit: Unit | None = None
        self.held: list[bytes] = []
        self.size = 0  # bytes in held
        self.open = False  # some of it was handed out
        self.failed = False
        self.joined = 0

    def number(self, at: int, bits: int) -> int:
        """Return `bits` bits, from bit `at` of the part on; fewer are filled up with zeros."""
        first = self.shift + at
        seen = self.raw[first // 8 : (first + bits) // 8 + 1].ljust(bits // 8 + 2, b"\0")
        spare = len(seen) * 8 - first % 8 - bits
        return int.from_bytes(seen, "big") >> spare & (1 << bits) - 1

    def join(self, other: Part) -> None:
        """Put the part that follows behind this one."""
        self.raw = self.raw[: (self.shift + self.bits) // 8] + other.raw
        self.bits += other.bits
        self.joined += 1


class Bz2Decoder(Closing):
    """Streams, their blocks in `workers` threads."""

    def __init__(self, workers: int = WORKERS) -> None:
        self._ahead = Ahead(workers)
        self._parts: deque[Part] = deque()  # those whose end is known, in order
        self._kept = bytearray()  # from the byte on in which the open part begins
        self._open = Mark(0, _START)
        self._searched = 0  # bytes of kept
        self._over = False  # nothing that follows matters
        self._between = False  # the image may end here
        self._combined = 0  # the CRC of a stream's blocks so far

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        """See Decoder."""
        view = memoryview(data)
        for at in range(0, len(view), PIECE):
            if self._over:
                return
            self._kept += view[at : at + PIECE]
            marks, self._searched = find_marks(self._kept, self._searched)
            for mark in marks:
                self._finish_part(mark.bit)
                self._open = mark
                if self._full:
                    yield from self._settle(wait=True)
            self._cut()
        yield from self._settle(wait=False)

    def end(self) -> Iterator[bytes]:
        """See Decoder."""
        if not self._over:
            self._finish_part(len(self._kept) * 8)
            yield from self._settle(wait=True, final=True)
        if not self._between:
            raise Damaged("the bzip2 image is cut off")

    def close(self) -> None:
        """See Decoder."""
        self._ahead.close()

    @property
    def _full(self) -> bool:
        return self._ahead.full or len(self._parts) > _MOST_PARTS

    def _finish_part(self, end: int) -> None:
        """Put the open part, up to bit `end` of what is kept, behind the others."""
        first = self._open.bit // 8
        raw = bytes(memoryview(self._kept)[first : -(-end // 8)])
        part = Part(self._open.magic, raw, self._open.bit % 8, end - self._open.bit)
        if part.magic == BLOCK:
            part.unit = self._ahead.start(partial(_decode_unit, part.shift, part.bits))
            self._ahead.give(part.unit, raw, last=True)
        self._parts.append(part)

    def _cut(self) -> None:
        """Forget what is before the open part; end one that is too long to be anything."""
        first = self._open.bit // 8
        del self._kept[:first]
        self._open = Mark(self._open.bit % 8, self._open.magic)
        self._searched -= first
        if len(self._kept) > _LONGEST:
            self._finish_part(len(self._kept) * 8)
            # Either it follows the last stream, or it breaks the format: settling it tells.
            self._kept.clear()
            self._open, self._searched = Mark(0, _START), 0

    def _settle(self, *, wait: bool, final: bool = False) -> Iterator[bytes]:
        """Yield what is known to be right, in order; with `wait` until there is room for more."""
        while self._parts and not self._over:
            part = self._parts[0]
            if part.magic != BLOCK:
                if not self._pass_edge(part, final=final):
                    return
                continue
            yield from self._collect(part, wait=wait and (final or self._full))
            if part.unit is not None:
                return
            if part.failed and not self._join_next(part, final=final):
                return
            if not part.failed:
                yield from part.held
                self._parts.popleft()
                self._between = False
                crc = part.number(MAGIC_BITS, _CRC_BITS)
                rotated = self._combined << 1 & 0xFFFFFFFF | self._combined >> 31
                self._combined = rotated ^ crc

    def _collect(self, part: Part, *, wait: bool) -> Iterator[bytes]:
        """Take what the worker has made of a block, and let go of the worker at its end."""
        while part.unit is not None:
            piece = self._ahead.take(part.unit, wait=wait)
            if piece is not None:
                part.held.append(piece)
                part.size += len(piece)
                if part.size > _HOLD:
                    part.open = True
                    held, part.held = part.held, []
                    yield from held
            elif part.unit.over:
                if part.unit.failure is not None:
                    if part.open or not isinstance(part.unit.failure, Damaged):
                        raise part.unit.failure
                    part.failed = True
                part.unit = None
            else:
                return

    def _join_next(self, part: Part, *, final: bool) -> bool:
        """Join a block that failed with what follows, and decode it; False if nothing does yet."""
        if len(self._parts) == 1 and not final:
            return False
        too_much = part.joined == _MOST_JOINED or len(part.raw) > _LONGEST
        if len(self._parts) == 1 or too_much:
            raise Damaged("a block of the bzip2 image is damaged, or cut off")
        self._take_next(part)
        part.held = []
        try:
            for piece in _decode(part.raw, part.shift, part.bits):
                part.held.append(piece)
        except Damaged:
            return True
        part.failed = False
        return True

    def _take_next(self, part: Part) -> None:
        following = self._parts[1]
        del self._parts[1]
        if following.unit is not None:
            self._ahead.drop(following.unit)
        part.join(following)

    def _pass_edge(self, part: Part, *, final: bool) -> bool:
        """Go over the end of a stream, and the beginning of the next. False if more must come."""
        end = 0
        if part.magic == END:
            end = MAGIC_BITS + _CRC_BITS
            end += -(part.shift + end) % 8
        while part.bits < end + 32 and len(self._parts) > 1:
            self._take_next(part)
        if part.bits < end + 32 and not final:
            return False
        if part.magic == END:
            if part.bits < MAGIC_BITS + _CRC_BITS:
                raise Damaged("the bzip2 image is cut off")
            if part.number(MAGIC_BITS, _CRC_BITS) != self._combined:
                raise Damaged("a stream of the bzip2 image is damaged")
        header = part.raw[(part.shift + end) // 8 :][:4]
        self._combined = 0
        self._between = part.magic == END
        if not header and self._between:
            pass
        elif _is_header(header):
            if len(header) < 4 or part.bits != end + 32:
                raise Damaged("a stream of the bzip2 image is damaged, or cut off")
            self._between = False
        elif self._between:
            # Behind four bytes that are no header a block begins: they were one.
            if part.bits == end + 32 and (len(self._parts) > 1 or not final):
                raise Damaged("a stream of the bzip2 image is damaged")
            self._over = True
        else:
            raise Damaged("this is no bzip2 image")
        self._parts.popleft()
        return True


def _is_header(data: bytes) -> bool:
    """Whether this is, or begins, the header of a stream."""
    return data[:3] == b"BZh"[: len(data)] and data[3:] in (b"", *(b"%d" % n for n in range(1, 10)))


def _decode_unit(shift: int, bits: int, inputs: Iterator[bytes]) -> Iterator[bytes]:
    yield from _decode(next(inputs), shift, bits)


def _decode(raw: bytes, shift: int, bits: int) -> Iterator[bytes]:
    """Decode one block, `bits` bits of `raw` behind the first `shift`. Raises Damaged."""
    library = bz2.BZ2Decompressor()
    try:
        yield from pieces(library, _as_stream(raw, shift, bits))
    except MemoryError as exc:
        raise Unsupported("there is no memory to decode the bzip2 image") from exc
    except (OSError, EOFError, ValueError, RuntimeError) as exc:
        raise Damaged("a block of the bzip2 image is damaged", error=str(exc)) from exc
    if not library.eof:
        raise Damaged("a block of the bzip2 image is not whole")


def _as_stream(raw: bytes, shift: int, bits: int) -> bytes:
    """Make a stream of one block: the CRC of the whole is that of the block."""
    whole = bits // 8
    if shift:
        array = np.frombuffer(raw + b"\0", np.uint8)
        body = ((array[:-1] << shift) | (array[1:] >> (8 - shift))).tobytes()
    else:
        body = raw + b"\0"
    crc = int.from_bytes(body[6:10], "big")
    rest = bits % 8
    end = (END << _CRC_BITS) | crc
    if rest:
        end |= body[whole] >> (8 - rest) << (MAGIC_BITS + _CRC_BITS)
    length = rest + MAGIC_BITS + _CRC_BITS
    filled = -length % 8
    tail = (end << filled).to_bytes((length + filled) // 8, "big")
    # The largest blocks: how large this stream's are cannot be seen from here.
    return b"BZh9" + body[:whole] + tail
