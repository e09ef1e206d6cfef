"""The nouns of this room: what a decoder is, what an index of a compressed image is."""

from __future__ import annotations

from bz2 import BZ2Decompressor
from collections.abc import Awaitable, Callable, Iterator
from lzma import LZMADecompressor
from types import TracebackType
from typing import NamedTuple, Protocol, Self

PIECE = 1 << 20
"""Bytes of the longest piece that a decoder hands out, whatever the compressed bytes make of it."""

MOST_BLOCK = 64 << 20
"""Bytes of the longest native block, compressed or decoded, that is worth reading at random: what
xz makes at its default is 24 MiB, a quarter of a second. Of longer ones no index is made."""

MOST_BLOCKS = 1 << 16
"""Native blocks of one index: 1.5 TiB as xz cuts it by default, 0.1 s to read, 15 MiB of memory."""

Read = Callable[[int, int], Awaitable[bytes]]
"""Bytes of the compressed image: `read(offset, length)`, exactly `length` of them."""


class Decoder(Protocol):
    """One forward pass over one compressed image; for one thread at a time, made anew for each.

    What ``feed`` and ``end`` return is to be exhausted before the next call: nothing is decoded
    before it is asked for. After an error only ``close`` may be called. Bytes that were handed out
    are right only when ``end`` is through: most checksums come after what they are of.
    """

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        """Take the next compressed bytes; yield what is decoded, in pieces of at most PIECE.

        `data` may be written over when the iterator is exhausted. With threads, pieces lag behind
        what was fed: waits for them when too much does; with no data, yields those that are ready.
        Raises Damaged; Unsupported for what the format has and we do not (nor memory for).
        """
        ...

    def end(self) -> Iterator[bytes]:
        """Yield the rest. Raises Damaged when the compressed bytes stop too early."""
        ...

    def close(self) -> None:
        """Let go of memory, and end the threads that decode ahead. Any number of times.

        From another thread, too: a ``feed`` that waits for a piece ends with Busy then.
        """
        ...

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Block(NamedTuple):
    """`length` compressed bytes at `host` are, decoded, the `size` bytes at `start`."""

    host: int
    length: int
    start: int
    size: int


class Index(NamedTuple):
    """What a compressed image says about itself."""

    size: int | None = None
    """Bytes of the whole, decoded; None when only a pass can tell."""
    blocks: tuple[Block, ...] | None = None
    """All blocks, in order and without a gap, none of them empty; None when they are of no use."""


class Closing:
    """The part of a Decoder that needs no threads to be closed."""

    def close(self) -> None:
        """Nothing to end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def pieces(library: BZ2Decompressor | LZMADecompressor, data: bytes) -> Iterator[bytes]:
    """Yield all that can be decoded after `data`, in pieces of at most PIECE."""
    piece = library.decompress(data, PIECE)
    while piece or not (library.needs_input or library.eof):
        if piece:
            yield piece
        if library.needs_input or library.eof:
            break
        piece = library.decompress(b"", PIECE)
