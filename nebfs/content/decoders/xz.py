"""xz, decoded in one pass by its own library, several blocks at the same time.

The container is walked here (xz_format.py); each block goes to a thread as a stream of its own
that has nothing else in it: a header before it, and behind it the index and footer that a stream
of this block has. So the library itself checks the block, its lengths and its check. That the
stream's real index and footer say the same about all blocks is checked here, as xz does.

``xz -T0`` and ``xz --block-size`` make many blocks. A stream of one block is decoded by one
thread while the caller does something else.

Like ``xz -dc``: streams follow one another, with zeros between and behind them in multiples of
four bytes, and anything else is an error.
"""

from __future__ import annotations

import lzma
from collections import deque
from collections.abc import Iterator
from hashlib import sha256
from itertools import chain
from zlib import crc32

from nebfs.content.decoders import xz_format as form
from nebfs.content.decoders.ahead import WORKERS, Ahead, Unit
from nebfs.content.decoders.interface import Block, Closing, pieces
from nebfs.content.decoders.walking import Walk, Walker, walk_through
from nebfs.errors import Damaged, NebfsError, Unsupported

_MEMORY = form.MOST_DICTIONARY + (4 << 20)
"""What the library may use: a dictionary, and what else it needs."""

_TOGETHER = 256 << 10
"""Compressed bytes handed to a worker at once, a few chunks."""

_READ = 64 << 10


class XzDecoder(Closing):
    """Streams, their blocks in `workers` threads."""

    def __init__(self, workers: int = WORKERS) -> None:
        self._ahead = Ahead(workers)
        self._units: deque[Unit] = deque()
        self._open: Unit | None = None  # the last one, while it is being walked
        self._cut: Unit | None = None  # the last one, if its end never came
        self._together: list[bytes] = []
        self._length = 0  # of these
        self._between = False  # where the image may end
        self._walker = Walker(self._walk())

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        """See Decoder."""
        steps = self._walker.feed(data)
        while True:
            try:
                if next(steps, self) is self:
                    break
            except NebfsError:
                yield from self._before_the_flaw()
                raise
            if self._ahead.full:
                yield from self._take(wait=True)
        self._give()
        yield from self._take(wait=False)

    def end(self) -> Iterator[bytes]:
        """See Decoder."""
        yield from self._before_the_flaw()
        if not self._between or self._walker.kept:
            raise Damaged("the xz image is cut off")

    def close(self) -> None:
        """See Decoder."""
        self._ahead.close()

    def _before_the_flaw(self) -> Iterator[bytes]:
        """Yield all that is before the end, or before the place where the walk broke off."""
        self._cut = self._open
        self._give(last=True)
        while self._units:
            yield from self._take(wait=True, all_of_it=True)

    def _take(self, *, wait: bool, all_of_it: bool = False) -> Iterator[bytes]:
        """Yield what is decoded; with `wait` until there is room, or until all is out."""
        while self._units:
            unit = self._units[0]
            piece = self._ahead.take(unit, wait=wait and (all_of_it or self._ahead.full))
            if piece is not None:
                yield piece
            elif unit.over:
                self._units.popleft()
                if unit.failure is not None and unit is not self._cut:
                    raise unit.failure
            else:
                return

    def _give(self, *, last: bool = False) -> None:
        if self._open is not None:
            self._ahead.give(self._open, b"".join(self._together), last=last)
            self._together, self._length = [], 0
            if last:
                self._open = None

    def _sink(self, data: bytes) -> None:
        self._together.append(data)
        self._length += len(data)
        if self._length >= _TOGETHER:
            self._give()

    # --- the walk ---

    def _walk(self) -> Walk[None]:
        start = yield 4
        while True:
            self._between = False
            check = form.parse_header(start + (yield form.EDGE - 4))
            yield from self._walk_stream(check)
            self._between = True
            start = yield 4
            while start == bytes(4):
                start = yield 4

    def _walk_stream(self, check: int) -> Walk[None]:
        records, count, length = sha256(), 0, 0
        while True:
            first = yield 1
            if first == b"\0":
                break
            self._open = self._ahead.start(_decode)
            self._units.append(self._open)
            self._sink(form.pack_header(check))
            stored, size = yield from form.walk_block(first, self._sink)
            self._sink((yield form.CHECKS[check]))
            unpadded = stored + form.CHECKS[check]
            self._sink(form.pack_end(check, unpadded, size))
            self._give(last=True)
            record = form.pack_number(unpadded) + form.pack_number(size)
            records.update(record)
            count, length = count + 1, length + len(record)
        # The index can say nothing but what was seen, and so cannot be longer.
        head = b"\0" + form.pack_number(count)
        written = first + (yield len(head) - 1)
        checksum, same = crc32(written), written == head
        seen, left = sha256(), length
        while left:
            part = yield min(left, _READ)
            left -= len(part)
            seen.update(part)
            checksum = crc32(part, checksum)
        padding = yield -(len(head) + length) % 4
        checksum = crc32(padding, checksum)
        if not same or seen.digest() != records.digest() or any(padding):
            raise Damaged("the index of the xz image is of other blocks than its own")
        if (yield 4) != checksum.to_bytes(4, "little"):
            raise Damaged("the index of the xz image is damaged")
        index_length = len(head) + length + len(padding) + 4
        if (yield form.EDGE) != form.pack_footer(check, index_length):
            raise Damaged("the footer of an xz stream is damaged")


def _decode(inputs: Iterator[bytes]) -> Iterator[bytes]:
    """Decode a stream of one block, for a worker."""
    library = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)
    try:
        for data in inputs:
            yield from pieces(library, data)
    except (lzma.LZMAError, EOFError) as exc:
        message = str(exc)
        kind = Unsupported if "nsupported" in message or "limit" in message else Damaged
        raise kind("the xz image cannot be decoded", error=message) from exc
    except MemoryError as exc:
        raise Unsupported("there is no memory to decode the xz image") from exc
    if not library.eof or library.unused_data:
        raise Damaged("a block of the xz image is not whole")


def decode_block(data: bytes | memoryview, block: Block) -> bytes:
    """Return what a Block of an index is, decoded. Raises Damaged, Unsupported.

    The length of what is behind the block tells which check it has: no two are equally long.
    """
    stored: list[bytes] = []
    walked = None
    if data and data[0]:
        walked = walk_through(form.walk_block(bytes(data[:1]), stored.append), data[1:])
    if walked is None:
        raise Damaged("a block of the xz image is not whole")
    measures, used = walked
    check_bytes = bytes(data[1 + used :])
    check = next((kind for kind, n in form.CHECKS.items() if n == len(check_bytes)), None)
    if check is None or measures.size != block.size:
        raise Damaged("a block of the xz image has another length than its index says")
    end = form.pack_end(check, measures.stored + len(check_bytes), measures.size)
    return b"".join(_decode(chain([form.pack_header(check)], stored, [check_bytes, end])))
