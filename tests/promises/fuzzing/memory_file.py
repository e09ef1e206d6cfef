"""A file in memory, as the lowest reader of a stack, that checks what is asked of it."""

from __future__ import annotations

import bisect
import itertools
import random

import trio

from nebfs.content.stack import Reader, ReaderFacts
from nebfs.model import Revision

MOST_ASKED = 8 << 20
"""Bytes that may be asked of a file at once, whatever is in it."""


class MemoryFile:
    """`parts` are bytes at offsets, ascending; between them, and up to `size`, are zeros."""

    def __init__(self, size: int, parts: dict[int, bytes]) -> None:
        self.size, self.revision = size, Revision(size)
        self._parts = parts
        self._starts = sorted(parts)
        self.closed = False

    @classmethod
    def of(cls, data: bytes) -> MemoryFile:
        return cls(len(data), {0: data})

    def warm(self, offset: int, length: int) -> memoryview | None:
        return memoryview(self._bytes(offset, length)) if length <= 4096 else None

    async def pread(self, offset: int, length: int) -> bytes:
        await trio.lowlevel.checkpoint()
        return self._bytes(offset, length)

    def _bytes(self, offset: int, length: int) -> bytes:
        assert not self.closed, "read after it was closed"
        assert offset >= 0, "asked for what is before the file"
        assert 0 < length <= self.size - offset, "asked for what is beyond the file"
        assert length <= MOST_ASKED, "asked for too much at once"
        answer = bytearray(length)
        first = max(0, bisect.bisect_right(self._starts, offset) - 1)
        for start in itertools.islice(self._starts, first, None):
            if start >= offset + length:
                break
            part = self._parts[start][max(0, offset - start) : offset + length - start]
            if part:
                at = max(start - offset, 0)
                answer[at : at + len(part)] = part
        return bytes(answer)

    def facts(self) -> ReaderFacts:
        return ReaderFacts(self.size, self.size, "", "")

    async def aclose(self) -> None:
        self.closed = True


async def read_about(reader: Reader, seed: int) -> None:
    """Read here and there: the same bytes must come in one piece, in several, and from memory."""
    if not reader.size:
        return
    chance = random.Random(seed)
    for near in (True, True, False):
        length = min(reader.size, chance.choice((1, 512, 5000, 70_000)))
        most = reader.size - length
        offset = chance.randint(0, min(most, 1 << 18)) if near else chance.choice((most, most // 2))
        view = reader.warm(offset, length)
        early = None if view is None else bytes(view)
        whole = bytes(await reader.pread(offset, length))
        assert len(whole) == length, "a short read"
        assert early is None or early == whole, "other bytes from memory"
        middle = length // 2
        if middle:
            pieces = bytes(await reader.pread(offset, middle))
            pieces += bytes(await reader.pread(offset + middle, length - middle))
            assert pieces == whole, "other bytes in two pieces"
