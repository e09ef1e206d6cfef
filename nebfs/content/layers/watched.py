"""A raw view of files that others may write to: each answer is of the files that were opened.

What is empty in a qcow2 image, and what was unpacked before, is answered out of memory, and so
would be for ever. So each file is touched before the view is asked: it says by itself whether it is
still the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from nebfs.content.stack import Reader, ReaderFacts
from nebfs.model import Revision


class Watched:
    """Answers with what `view`, which is made of `files` and owns them, says."""

    def __init__(self, view: Reader, files: Sequence[Reader]) -> None:
        self._view = view
        self._files = [file for file in files if file.size]

    @property
    def size(self) -> int:
        """The length of the disk."""
        return self._view.size

    @property
    def revision(self) -> Revision:
        """The version of the view."""
        return self._view.revision

    def warm(self, offset: int, length: int) -> memoryview | None:
        """Answer at once if all files do: a file that has changed does not."""
        if any(file.warm(0, 1) is None for file in self._files):
            return None
        return self._view.warm(offset, length)

    async def pread(self, offset: int, length: int) -> bytes | memoryview:
        """Answer, or raise Changed."""
        for file in self._files:
            await file.pread(0, 1)
        return await self._view.pread(offset, length)

    def facts(self) -> ReaderFacts:
        """What the view says."""
        return self._view.facts()

    async def aclose(self) -> None:
        """Close the view."""
        await self._view.aclose()
