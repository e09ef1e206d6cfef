"""Answering with what was unpacked before: the next read of it is one of a plain disk.

Whatever of a disk comes out of compressed clusters goes, 128 KiB by 128 KiB, into an object of the
cache of its own, which all who have that disk open share. What lies uncompressed in the image is in
the cache already. So a slot is kept if at least half of it was unpacked: to unpack less than half
of one, at each read, costs less than room for all of it.

Where something was published about a file of the image, only what was unpacked of a file that has
been found to be that is kept: what a damaged copy has given is never answered with once that was
mended. While such a file has a bad verdict, or is about to have one, nothing kept is answered with.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import numpy as np
import structlog
import trio

from nebfs.blocks import BlockFile, Store
from nebfs.blocks.blockfile import SLOT_SHIFT
from nebfs.blocks.index import Verdict
from nebfs.content.layers.together import together
from nebfs.content.layers.unpacked_keeping import Keeping
from nebfs.content.layers.verified import Verified
from nebfs.content.layers.zeros import LONGEST
from nebfs.content.stack import Reader, ReaderFacts, read
from nebfs.fetcher.messages import SLOW
from nebfs.model import Revision

log = structlog.get_logger()

OPENING: Final = 1.0
"""Seconds for which opening a disk waits for what was kept of it: it can be read without that."""

Warm: TypeAlias = Callable[[int, int], memoryview | None]
Read: TypeAlias = Callable[[int, int], Coroutine[Any, Any, bytes | memoryview]]

_ANSWER: Final = memoryview(mmap.mmap(-1, LONGEST))
"""What is put together of what is kept and what is not. It is good until the next await."""


class Unpacking(Reader, Protocol):
    """A reader that may have to unpack what it answers with."""

    on_packed: Callable[[], None] | None
    """Called, once, as soon as it has met something compressed."""

    @property
    def packs(self) -> bool:
        """Whether there may be something compressed."""
        ...

    def packed_in(self, offset: int, length: int) -> list[tuple[int, int]]:
        """Return which of these bytes come out of compressed clusters, as (offset, length)."""
        ...


class _Part(NamedTuple):
    """A part of a read, and whether it is among what is kept."""

    offset: int
    length: int
    kept: bool


class Unpacked:
    """Answers with what is kept of the disk that `below` has, which it owns, and keeps more of it.

    Until something compressed has been met it is not there: whoever reads calls `below` itself.
    """

    def __init__(
        self,
        below: Unpacking,
        store: Store,
        nursery: trio.Nursery,
        key: str,
        shown: str,
        published: Sequence[Verified],
    ) -> None:
        """`key` names the object in `store`, `shown` describes it there. `published` are the files
        of the image about which something was published. ``open`` comes first.
        """
        self.size = below.size
        self.warm: Warm = below.warm
        self.pread: Read = self._first_pread
        self.below = below
        self.keeping = Keeping(
            *(store, nursery, key, below.size, shown, below.packed_in, self._step_aside)
        )
        self._published = published
        below.on_packed = self._step_in

    async def open(self) -> None:
        """Open what is kept, if anything is. It is closed if that fails."""
        try:
            if self.keeping.exists:
                self.below.on_packed = None
                self._step_in()
                with trio.move_on_after(OPENING):
                    await self.keeping.opened.wait()
        except BaseException:
            with trio.CancelScope(shield=True):
                await self.aclose()
            raise

    def _step_in(self) -> None:
        self.keeping.begin()
        if self.keeping.running:
            self.warm, self.pread = self._warm, self._pread

    def _step_aside(self) -> None:
        self.warm, self.pread = self.below.warm, self.below.pread

    @property
    def revision(self) -> Revision:
        """The version of the disk."""
        return self.below.revision

    # --- the verdicts -----------------------------------------------------------------------------

    def _withheld(self) -> bool:
        """Whether a file of the image has, or is about to have, a verdict that the reader below
        must be asked about.
        """
        return any(file.withholds for file in self._published)

    def _settled(self) -> bool:
        """Whether all files about which something was published are that."""
        return all(file.verdict is Verdict.VERIFIED for file in self._published)

    # --- answering --------------------------------------------------------------------------------

    def _warm(self, offset: int, length: int) -> memoryview | None:
        file = self.keeping.file
        if self._withheld():
            return self.below.warm(offset, length)
        if file is not None:
            view = file.warm(offset, length)
            if view is not None:
                return view
        parts = _parts(file, offset, length)
        if file is None or len(parts) == 1:
            return None if parts[0].kept else self._warm_below(offset, length)
        if length > LONGEST:
            return None
        for part in parts:
            view = (file.warm if part.kept else self._warm_below)(part.offset, part.length)
            if view is None:
                return None
            at = part.offset - offset
            _ANSWER[at : at + part.length] = view
        return _ANSWER[:length]

    def _warm_below(self, offset: int, length: int) -> memoryview | None:
        """Answer from below, and have it kept."""
        view = self.below.warm(offset, length)
        if view is not None and self._settled():
            self.keeping.take(offset, view)
        return view

    async def _first_pread(self, offset: int, length: int) -> bytes | memoryview:
        """Answer from below. In the middle of it, this may have stepped in."""
        return await self._unpack(offset, length, self.below.pread)

    async def _pread(self, offset: int, length: int) -> bytes | memoryview:
        file = self.keeping.file
        if self._withheld():
            return await self.below.pread(offset, length)
        parts = _parts(file, offset, length)
        if file is None or len(parts) == 1:
            data = None if file is None else await self._read(file, offset, length)
            # It may have been found damaged meanwhile: whoever is below says so.
            if data is None or self._withheld():
                return await self._unpack(offset, length, self.below.pread)
            return data
        answer = np.empty(length, np.uint8).data
        await together(partial(self._put, file, part, answer, offset) for part in parts)
        if self._withheld():
            return await self.below.pread(offset, length)
        return answer

    async def _put(self, file: BlockFile, part: _Part, answer: memoryview, start: int) -> None:
        """Put a part of an answer, which begins at `start`, into its place."""
        at = part.offset - start
        data = await self._read(file, part.offset, part.length) if part.kept else None
        if data is None:
            data = await self._unpack(part.offset, part.length, partial(read, self.below))
        answer[at : at + part.length] = data

    async def _read(self, file: BlockFile, offset: int, length: int) -> bytes | memoryview | None:
        """Return what is kept, or None if it is not there (any more), or not what was kept."""
        view = file.warm(offset, length)
        if view is not None:
            return view
        if not file.has(*file.span(offset, length)):
            return None
        began = trio.current_time()
        data = await file.read(offset, length)
        if trio.current_time() - began > SLOW:
            log.debug("unpacked.slow", key=file.key[:12])
            self.keeping.stop()
        return data

    async def _unpack(self, offset: int, length: int, ask: Read) -> bytes | memoryview:
        """Return what the reader below has, and have it kept."""
        settled = self._settled()
        data = await ask(offset, length)
        if settled:
            self.keeping.take(offset, memoryview(data))
        return data

    # --- the rest ---------------------------------------------------------------------------------

    def facts(self) -> ReaderFacts:
        """What is known below: what is kept is made of that."""
        return self.below.facts()

    async def aclose(self) -> None:
        """Let go of what is kept, and of the reader below."""
        with trio.CancelScope(shield=True):
            self.below.on_packed = None
            await self.keeping.aclose()
            await self.below.aclose()


def _parts(file: BlockFile | None, offset: int, length: int) -> list[_Part]:
    """Cut a read into what is kept and what is not."""
    if file is None or not file.here:
        return [_Part(offset, length, kept=False)]
    first, stop = file.span(offset, length)
    if file.has(first, stop):
        return [_Part(offset, length, kept=True)]
    parts: list[_Part] = []
    end = offset + length
    for slot in range(first, stop):
        kept = file.has(slot, slot + 1)
        at = max(slot << SLOT_SHIFT, offset)
        size = min((slot + 1) << SLOT_SHIFT, end) - at
        if parts and parts[-1].kept is kept:
            parts[-1] = parts[-1]._replace(length=parts[-1].length + size)
        else:
            parts.append(_Part(at, size, kept))
    return parts
