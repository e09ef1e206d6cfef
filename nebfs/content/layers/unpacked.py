"""Keeping in the cache what was unpacked: the next read of it is one of a plain disk.

Whatever of a disk comes out of compressed clusters goes, 128 KiB by 128 KiB, into an object of the
cache of its own, which all who have that disk open share. What lies uncompressed in the image is in
the cache already. So a slot is kept if at least half of it was unpacked: to unpack less than half
of one, at each read, costs less than room for all of it.

It can all be made again. So it takes only room that is to spare, is the first to leave, and is
written in the background, when an answer has left, or not at all. Where something was published
about a file of the image, only what was unpacked of a file that has been found to be that is kept:
what a damaged copy has given is never answered with after it was mended.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import numpy as np
import structlog
import trio

from nebfs.blocks import SLOT_SIZE, BlockFile, Store
from nebfs.blocks.blockfile import SLOT_SHIFT
from nebfs.blocks.index import HEADER_SIZE, SLOT_RECORD, Verdict
from nebfs.content.layers.together import together
from nebfs.content.layers.verified import Verified
from nebfs.content.layers.zeros import LONGEST
from nebfs.content.stack import Reader, ReaderFacts, read
from nebfs.ending import pass_on
from nebfs.errors import CacheFault
from nebfs.model import Filled, Revision
from nebfs.units import MIB

log = structlog.get_logger()

WAITING: Final = 16 * MIB
"""Bytes that may wait to be written, of all disks together: what comes meanwhile is not kept."""

BATCH: Final = 8
"""Slots that are written in one go: 1 MiB takes a disk that is well some milliseconds."""

PAUSE: Final = 30.0
"""Seconds for which nothing is kept after the cache has refused something."""

SLOW: Final = 2.0
"""Seconds after which a disk that does not give back a few blocks is not asked again: see
cached.py, which leaves it then."""

OPENING: Final = 1.0
"""Seconds for which opening a disk waits for what was kept of it: it can be read without that."""

Warm: TypeAlias = Callable[[int, int], memoryview | None]
Read: TypeAlias = Callable[[int, int], Coroutine[Any, Any, bytes | memoryview]]

_ANSWER: Final = memoryview(mmap.mmap(-1, LONGEST))
"""What is put together of what is kept and what is not. It is good until the next await."""

keep_threads: Final = trio.CapacityLimiter(1)
"""Threads that keep something, which nobody waits for: of all disks together."""


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


class _Room:
    """Bytes that may wait to be written."""

    def __init__(self, limit: int) -> None:
        self.left = limit

    def take(self, amount: int) -> bool:
        """Take so many, if there are as many left."""
        if amount > self.left:
            return False
        self.left -= amount
        return True

    def give(self, amount: int) -> None:
        """Give them back."""
        self.left += amount


room: Final = _Room(WAITING)


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
        of the image about which something was published. Use ``open``.
        """
        self.size = below.size
        self.warm: Warm = below.warm
        self.pread: Read = self._first_pread
        self._below = below
        self._store = store
        self._nursery = nursery
        self._key = key
        self._shown = shown
        self._published = published
        self._file: BlockFile | None = None
        self._queue: dict[int, bytes] = {}
        """What is to be kept, by slots."""
        self._wake = trio.Event()
        self._paused = 0.0
        self._scope = trio.CancelScope()
        self._running = False
        """Whether ``_run`` was started."""
        self._keeping = False
        """Whether it has not ended."""
        self._opened = trio.Event()
        self._ended = trio.Event()
        below.on_packed = self._begin

    @classmethod
    async def open(
        cls,
        below: Unpacking,
        store: Store,
        nursery: trio.Nursery,
        key: str,
        shown: str,
        published: Sequence[Verified],
    ) -> Unpacked:
        """Open what is kept, if anything is. From here on it owns `below`, also if it fails."""
        self = cls(below, store, nursery, key, shown, published)
        try:
            if store.holds(key):
                below.on_packed = None
                self._begin()
                with trio.move_on_after(OPENING):
                    await self._opened.wait()
            return self
        except BaseException:
            with trio.CancelScope(shield=True):
                await self.aclose()
            raise

    @property
    def revision(self) -> Revision:
        """The version of the disk."""
        return self._below.revision

    # --- answering --------------------------------------------------------------------------------

    def _withheld(self) -> bool:
        """Whether a file of the image has, or is about to have, a verdict that the reader below
        must be asked about.
        """
        return any(file.withholds for file in self._published)

    def _warm(self, offset: int, length: int) -> memoryview | None:
        file = self._file
        if self._withheld():
            return self._below.warm(offset, length)
        if file is not None:
            view = file.warm(offset, length)
            if view is not None:
                return view
        parts = _parts(file, offset, length)
        if file is None or len(parts) == 1:
            if parts[0].kept:
                return None
            view = self._below.warm(offset, length)
            if view is not None and self._settled:
                self._keep(offset, view)
            return view
        if length > LONGEST:
            return None
        for part in parts:
            warm = file.warm if part.kept else self._below.warm
            view = warm(part.offset, part.length)
            if view is None:
                return None
            at = part.offset - offset
            _ANSWER[at : at + part.length] = view
            if not part.kept and self._settled:
                self._keep(part.offset, view)
        return _ANSWER[:length]

    async def _first_pread(self, offset: int, length: int) -> bytes | memoryview:
        """Answer from below. In the middle of it, this may have begun."""
        settled = self._settled
        data = await self._below.pread(offset, length)
        if self._keeping and settled:
            self._keep(offset, memoryview(data))
        return data

    async def _pread(self, offset: int, length: int) -> bytes | memoryview:
        file = self._file
        if self._withheld():
            return await self._below.pread(offset, length)
        parts = _parts(file, offset, length)
        if file is None or len(parts) == 1:
            data = None if file is None else await self._read(file, offset, length)
            # It may have been found damaged meanwhile: whoever is below says so.
            if data is None or self._withheld():
                return await self._unpack(offset, length, self._below.pread)
            return data
        answer = np.empty(length, np.uint8).data
        await together(partial(self._put, file, part, answer, offset) for part in parts)
        if self._withheld():
            return await self._below.pread(offset, length)
        return answer

    async def _put(self, file: BlockFile, part: _Part, answer: memoryview, start: int) -> None:
        """Put a part of an answer, which begins at `start`, into its place."""
        at = part.offset - start
        data = await self._read(file, part.offset, part.length) if part.kept else None
        if data is None:
            data = await self._unpack(part.offset, part.length, partial(read, self._below))
        answer[at : at + part.length] = data

    async def _read(self, file: BlockFile, offset: int, length: int) -> bytes | memoryview | None:
        """Return what is kept, or None if it is not there any more, or not what was kept."""
        view = file.warm(offset, length)
        if view is not None:
            return view
        if not file.has(*file.span(offset, length)):
            return None
        began = trio.current_time()
        data = await file.read(offset, length)
        if trio.current_time() - began > SLOW:
            log.debug("unpacked.slow", key=self._key[:12])
            self._scope.cancel()
        return data

    async def _unpack(self, offset: int, length: int, ask: Read) -> bytes | memoryview:
        """Return what the reader below has, and keep it."""
        settled = self._settled
        data = await ask(offset, length)
        if settled:
            self._keep(offset, memoryview(data))
        return data

    # --- keeping ----------------------------------------------------------------------------------

    @property
    def _settled(self) -> bool:
        """Whether all files about which something was published are that."""
        return all(file.verdict is Verdict.VERIFIED for file in self._published)

    def _keep(self, offset: int, view: memoryview) -> None:
        """Have those slots kept that are whole in what was read, and were unpacked."""
        file, end = self._file, offset + len(view)
        first = -(-offset >> SLOT_SHIFT)
        stop = -(-end >> SLOT_SHIFT) if end == self.size else end >> SLOT_SHIFT
        wanted = [
            slot
            for slot in range(first, stop)
            if slot not in self._queue and (file is None or file.claimable(slot))
        ]
        if not wanted or not self._keeping or trio.current_time() < self._paused:
            return
        unpacked = self._unpacked_in(wanted[0], wanted[-1] + 1)
        for slot in wanted:
            length = min(SLOT_SIZE, self.size - (slot << SLOT_SHIFT))
            if 2 * unpacked.get(slot, 0) < length:
                continue
            if not room.take(length):
                break  # the disk is behind: whoever reads it again has it kept
            at = (slot << SLOT_SHIFT) - offset
            self._queue[slot] = bytes(view[at : at + length])
            self._wake.set()

    def _unpacked_in(self, first: int, stop: int) -> dict[int, int]:
        """Return how many bytes of each of these slots come out of compressed clusters."""
        start, end = first << SLOT_SHIFT, min(stop << SLOT_SHIFT, self.size)
        found: dict[int, int] = {}
        for offset, length in self._below.packed_in(start, end - start):
            at, last = offset, offset + length
            while at < last:
                slot = at >> SLOT_SHIFT
                until = min((slot + 1) << SLOT_SHIFT, last)
                found[slot] = found.get(slot, 0) + until - at
                at = until
        return found

    def _begin(self) -> None:
        """Have the object opened, and more of it kept, until this is closed."""
        try:
            self._nursery.start_soon(self._run)
        except RuntimeError:  # nebfs has ended but for this read, which is answered from below
            return
        self._running = self._keeping = True
        self.warm, self.pread = self._warm, self._pread

    async def _run(self) -> None:
        file: BlockFile | None = None
        try:
            with self._scope:
                file = await self._open()
                if file is not None:
                    self._file = file
                    self._opened.set()
                    await self._keep_on(file)
        except BaseException as exc:  # a bug costs what would be kept, not the mount
            pass_on(exc)
            log.exception("unpacked.bug")
        finally:
            self._keeping, self._file = False, None
            self.warm, self.pread = self._below.warm, self._below.pread
            room.give(sum(map(len, self._queue.values())))
            self._queue.clear()
            if file is not None:
                with trio.CancelScope(shield=True):
                    await self._store.release(file)
            self._opened.set()
            self._ended.set()

    async def _open(self) -> BlockFile | None:
        slots = -(-self.size // SLOT_SIZE)
        index = HEADER_SIZE + slots * SLOT_RECORD
        if not self._store.holds(self._key) and not self._store.has_spare(index + SLOT_SIZE):
            return None
        try:
            file = await self._store.open(self._key, self.size, self._shown)
        except CacheFault as exc:
            log.debug("unpacked.not_kept", reason=str(exc))
            return None
        file.spare = True
        return file

    async def _keep_on(self, file: BlockFile) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._queue:
                batch = [(slot, self._queue[slot]) for slot in list(self._queue)[:BATCH]]
                try:
                    await self._write(file, [one for one in batch if file.claimable(one[0])])
                except (CacheFault, OSError) as exc:
                    log.debug("unpacked.not_kept", reason=str(exc))
                    self._paused = trio.current_time() + PAUSE
                for slot, data in batch:
                    del self._queue[slot]
                    room.give(len(data))

    async def _write(self, file: BlockFile, batch: Sequence[tuple[int, bytes]]) -> None:
        """Put slots into the cache, if there is room to spare. Raises CacheFault, OSError."""
        amount = sum(len(data) for _, data in batch)
        if not batch:
            return
        if not self._store.has_spare(amount):
            raise CacheFault("nothing is to spare in the cache")
        await self._store.reserve(amount, urgent=False)
        for slot, _ in batch:
            file.claimed[slot] = 1
        try:
            filled = await trio.to_thread.run_sync(_record, file, batch, limiter=keep_threads)
            file.put(filled, used=False)
        finally:
            for slot, _ in batch:
                file.claimed[slot] = 0
            self._store.settle(amount)

    # --- the rest ---------------------------------------------------------------------------------

    def facts(self) -> ReaderFacts:
        """What is known below: what is kept is made of that."""
        return self._below.facts()

    async def aclose(self) -> None:
        """Let go of what is kept, and of the reader below. What waits to be kept is not."""
        with trio.CancelScope(shield=True):
            self._below.on_packed = None
            self._scope.cancel()
            if self._running:
                await self._ended.wait()
            await self._below.aclose()


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


def _record(file: BlockFile, batch: Iterable[tuple[int, bytes]]) -> list[Filled]:
    return [file.record(slot, memoryview(data)) for slot, data in batch]
