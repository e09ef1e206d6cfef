"""Open files of decompressed objects, and of disks in them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nebfs.content.layers.decoded import Decoding, PastEnd
from nebfs.content.peeking import UNKNOWN
from nebfs.content.stack import Reader, ReaderFacts
from nebfs.model import Revision


class Decoded:
    """One open file of a decompressed object. Its `size` is UNKNOWN until that is known."""

    def __init__(
        self,
        decoding: Decoding,
        revision: Revision,
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self.decoding = decoding
        self._close = close
        self.revision = revision

    def warm(self, offset: int, length: int) -> memoryview | None:
        """Return the bytes if they are here. See BlockFile.warm."""
        return self.decoding.kept.file.warm(offset, length)

    @property
    def size(self) -> int:
        """The length, or UNKNOWN."""
        size = self.decoding.size
        return UNKNOWN if size is None else size

    async def pread(self, offset: int, length: int) -> bytes | memoryview:
        """Return exactly these bytes. See Decoding.read."""
        return await self.decoding.read(offset, length)

    def facts(self) -> ReaderFacts:
        """Say how much is decoded."""
        file, failure = self.decoding.file, self.decoding.passing.failure
        return ReaderFacts(
            size=self.size,
            cached=file.cached_bytes,
            verified="",
            last_error="" if failure is None else str(failure),
            corrupt_blocks=file.corrupt,
            where=self.decoding.kept.store.kind,
        )

    async def aclose(self) -> None:
        """Give one use of the object back."""
        await self._close()


class Settled:
    """A disk in a file whose end may not be known yet. When that turns out to be nearer than what
    was looked for, it is looked up again: only then it can be told what lies beyond.
    """

    def __init__(self, disk: Reader) -> None:
        self._disk = disk
        self.size = disk.size
        self.revision = disk.revision
        self.warm = disk.warm
        self.facts = disk.facts
        self.aclose = disk.aclose

    async def pread(self, offset: int, length: int) -> bytes | memoryview:
        """Return exactly these bytes."""
        try:
            return await self._disk.pread(offset, length)
        except PastEnd:
            return await self._disk.pread(offset, length)
