"""A part of a file that is a disk by itself: what a footer or an archive is around."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nebfs.content.stack import Reader, ReaderFacts
from nebfs.errors import Damaged
from nebfs.model import Revision


@dataclass(frozen=True, slots=True)
class Span:
    """`size` bytes of a file, from `offset` on."""

    offset: int
    size: int


class Window:
    """Reads `size` bytes of `file` from `offset` on. It owns `file`."""

    def __init__(self, file: Reader, offset: int, size: int, revision: Revision) -> None:
        """Raises Damaged when they are not all within the file."""
        if offset < 0 or size < 0 or offset + size > file.size:
            raise Damaged("the file is cut off: the disk in it goes on beyond its end", size=size)
        self._file = file
        self._offset = offset
        self.size = size
        self.revision = revision

    def warm(self, offset: int, length: int) -> memoryview | None:
        """Answer from RAM, or say None."""
        return self._file.warm(self._offset + offset, length)

    async def pread(self, offset: int, length: int) -> bytes | memoryview:
        """Return exactly these bytes. Raises what reading the file raises."""
        return await self._file.pread(self._offset + offset, length)

    def facts(self) -> ReaderFacts:
        """What is known of the file."""
        facts = self._file.facts()
        return replace(facts, size=self.size, cached=min(facts.cached, self.size))

    async def aclose(self) -> None:
        """Let go of the file."""
        await self._file.aclose()
