"""Open images: the plan of each stack, building it, and sharing it between open files."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import structlog
import trio
from cachetools import LRUCache

from nebfs.blocks import MemoryStore, Store
from nebfs.blocks.index import Verdict
from nebfs.content import views
from nebfs.content.decodings import Decodings
from nebfs.content.disks import DISKS, PLAIN, Inside
from nebfs.content.explaining import Stack, explained
from nebfs.content.filling import Budget, Filling
from nebfs.content.layers.cached import Cached
from nebfs.content.layers.decoded_file import Settled
from nebfs.content.layers.fetched import Fetched
from nebfs.content.layers.here import TRANSPORTS, Here
from nebfs.content.layers.kept import Kept
from nebfs.content.layers.limited import Gate, Limited
from nebfs.content.layers.noticed import Noticed, Quiet
from nebfs.content.layers.pinned import Pinned
from nebfs.content.layers.readahead import ReadAhead
from nebfs.content.layers.retried import Retried
from nebfs.content.layers.uncached import Uncached
from nebfs.content.layers.verified import Verified, strongest
from nebfs.content.layers.watched import Watched
from nebfs.content.pace import Pace
from nebfs.content.prober import Probed, place_of
from nebfs.content.profiling import Boots, Shelf, is_worthwhile, lineage
from nebfs.content.stack import Reader, ReaderFacts, Source
from nebfs.content.tasks import Tasks
from nebfs.content.unpackings import Unpackings
from nebfs.errors import Changed, Damaged, NebfsError, Unsupported
from nebfs.fetcher.messages import Fetcher
from nebfs.model import Content, Revision
from nebfs.units import MIB

log = structlog.get_logger()

_NO_PARTS = "its place gives no parts (Range): a read waits for everything before it"


@dataclass(frozen=True, slots=True)
class LibrarySettings:
    """`patience`: seconds of trying before a read fails. `turns`: requests at a time per place, and
    as many again for what somebody waits for. `read_ahead`: the longest window, in bytes; 0 orders
    nothing ahead. `fill`: bytes per second at which images that are read are completed while their
    place is idle; None: they are not.
    """

    patience: float = 60.0
    turns: int = 4
    read_ahead: int = 32 * MIB
    fill: float | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """What the objects of one place share."""

    gate: Gate
    row: Gate
    pace: Pace
    quiet: Quiet


@dataclass(slots=True)
class _Shared:
    """What the open files of one object share."""

    cached: Cached
    top: Cached | Verified
    tasks: Tasks
    sources: tuple[Source, ...]
    """What is below `cached`, from there down."""
    filling: Filling | None = None
    boots: Boots | None = None
    users: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """An open object without a reader. `turns`: requests that it may have out at its place.
    `patience`: seconds of trying in vain.
    """

    cached: Cached
    verified: Verified | None
    turns: int
    patience: float


def object_key(content: Content, revision: Revision) -> str:
    """Return the name of an object in the cache: another version is another object."""
    facts = (content.identity, str(revision.size), revision.etag, revision.modified)
    return hashlib.sha256("\0".join(facts).encode("utf-8", "surrogatepass")).hexdigest()


class Library:
    """Opens contents. What runs in the background runs in `nursery`.

    `on_changed` is told of a content whose place has another version now, `on_damaged` of one that
    is not what was published.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        store: Store,
        memory: MemoryStore,
        nursery: trio.Nursery,
        settings: LibrarySettings,
        *,
        on_changed: Callable[[Content], None],
        on_damaged: Callable[[Content], None],
        latency: Callable[[str], float] = lambda _: 0.0,
        known: Callable[[Content], Probed | None] = lambda _: None,
        on_seen: Callable[[Content, Revision, Inside], None] = lambda *_: None,
        profiles: Shelf | None = None,
    ) -> None:
        """`latency` tells in how many seconds a place usually answers; 0: not known. `known` tells
        what a place was found to have: raw views are opened by it. `on_seen` is told what a look
        into a file has shown, for that to be known. `profiles` has what boots read;
        without it that is neither recorded nor fetched ahead.
        """
        self._profiles = profiles
        self._latency = latency
        self._known = known
        self._on_seen = on_seen
        self._fetcher = fetcher
        self._store = store
        self._memory = memory
        self._nursery = nursery
        self._here = Here(nursery)
        self._settings = settings
        self._on_changed = on_changed
        self._on_damaged = on_damaged
        self._shared: dict[str, _Shared] = {}
        self.decodings = Decodings(
            *(store, memory, nursery, self.open, object_key, settings.patience, known),
            on_seen=on_seen,
            on_damaged=on_damaged,
        )
        self.unpackings = Unpackings(store, nursery, object_key, known)
        self._budget = None if settings.fill is None else Budget(settings.fill)
        self._opening = trio.Lock()
        self._places: LRUCache[str, _Place] = LRUCache(256)

    async def open(self, content: Content, revision: Revision) -> Reader:
        """Return a reader of this very version. Raises NebfsError."""
        if content.view:
            return await self._open_view(content, revision)
        if content.locator.transport in TRANSPORTS:
            return await self._here.open(content.locator, revision, volatile=content.volatile)
        if content.volatile:
            return Uncached(self._fetcher, content.locator, revision, self._settings.patience)
        key, shared = await self._share(content, revision)
        return _Opened(self, key, shared, self._settings.read_ahead)

    async def _share(self, content: Content, revision: Revision) -> tuple[str, _Shared]:
        """Return an object and its key, built if nobody has it open; ``close`` gives it back."""
        key = object_key(content, revision)
        async with self._opening:
            shared = self._shared.get(key)
            if shared is None or shared.tasks.broken:
                shared = self._shared[key] = await self._build(key, content, revision)
            shared.users += 1
        return key, shared

    @asynccontextmanager
    async def held(self, content: Content, revision: Revision) -> AsyncIterator[Held]:
        """Have an object of the cache open for the length of the block. Raises NebfsError."""
        key, shared = await self._share(content, revision)
        verified = shared.top if isinstance(shared.top, Verified) else None
        try:
            yield Held(shared.cached, verified, self._settings.turns, self._settings.patience)
        finally:
            with trio.CancelScope(shield=True):
                await self.close(key, shared)

    async def look(self, content: Content) -> None:
        """Find out which disk is in a file, where its first bytes do not tell.

        Raises what reading the file raises; what is wrong with the file itself is found out.
        """
        probed = self._known(content)
        if probed is None:
            raise NebfsError("its place was not asked yet")
        if not probed.is_unseen:
            return
        file = await self.open(replace(content, volatile=False), probed.revision)
        try:
            if probed.format.compression:
                inside = await self.decodings.look(content, probed, file)
            else:
                inside = await self._look_inside(file, probed.format.name)
        finally:
            with trio.CancelScope(shield=True):
                await file.aclose()
        self._on_seen(content, probed.revision, inside)

    @staticmethod
    async def _look_inside(file: Reader, kind: str) -> Inside:
        try:
            disk = await DISKS[kind].look(file)
        except (Damaged, Unsupported) as exc:
            return Inside(kind, None, str(exc))
        return Inside(disk.kind, disk.size, disk.flaw)

    async def measure(self, content: Content) -> None:
        """Have a compressed file decompressed whose length is not known before.

        Raises Unready while that goes on and takes long, and what comes in its way.
        """
        (file, *_) = views.files(content)
        probed = self._known(file)
        if probed is None or probed.inside is None:
            raise Changed("what is known of the file was forgotten")
        if probed.inside.is_unmeasured:
            await self.decodings.measure(replace(file, volatile=False), probed)

    async def _open_view(self, content: Content, revision: Revision) -> Reader:
        """Open the disk inside a file, over the files beneath it.

        Each open file has tables of its own in memory; the blocks are shared as those of any file.
        """
        whole = self._known(content)
        found = [(file, self._known(file)) for file in views.files(content)]
        if whole is None or whole.revision.differs_from(revision):
            raise Changed("a file of the image has another version now")
        reader: Reader | None = None
        opened: list[Reader] = []
        try:
            for file, probed in reversed(found):
                assert probed is not None  # noqa: S101 - the whole is known by its files
                # Tables of a file that is written to meanwhile lead to what is something else by
                # then: a view is of one version of each file, or an error.
                fixed = replace(file, volatile=False)
                inside = probed.inside if len(found) == 1 else None
                if inside is not None and probed.format.compression:
                    reader = await self._open_decoded(fixed, probed, inside.kind, revision)
                    break
                below = await self.open(fixed, probed.revision)
                opened.append(below)
                if inside is None and probed.disk is None:
                    reader = below  # what is at the bottom of a chain may be a raw disk
                else:
                    kind = probed.format.name if inside is None else inside.kind
                    # It owns both from here on, and closes them if it fails.
                    backing, reader = reader, None
                    reader = await DISKS[kind].open(below, backing, revision)
        except BaseException:
            if reader is not None:
                with trio.CancelScope(shield=True):
                    await reader.aclose()
            raise
        assert reader is not None  # noqa: S101 - there is one file at least
        if content.volatile:
            return Watched(reader, opened)
        return await self.unpackings.over(reader, content, opened)

    async def _open_decoded(
        self, file: Content, probed: Probed, kind: str, revision: Revision
    ) -> Reader:
        below = await self.decodings.open(file, probed, revision)
        if kind in PLAIN:
            return below
        return Settled(await DISKS[kind].open(below, None, revision))

    async def _build(self, key: str, content: Content, revision: Revision) -> _Shared:
        """Build the stack of one object, from the bottom up."""
        name = place_of(content.locator)
        place = self._places.get(name)
        if place is None:
            made = _Place(Gate(self._settings.turns), Gate(1), Pace(self._latency(name)), Quiet())
            place = self._places[name] = made
        fetched = Fetched(self._fetcher, content.locator, revision, place.pace)
        pinned = Pinned(fetched, lambda: self._on_changed(content))
        limited = Limited(pinned, place.gate, place.row, place.pace)
        source: Source = Retried(limited, self._settings.patience)
        sources = (source, limited, pinned, fetched)
        if self._budget is not None:
            source = Noticed(source, place.quiet)
        shown = content.locator.shown
        kept = await Kept.open(self._store, self._memory, key, revision.size, shown)
        file = kept.file
        if not revision.ranges and not file.complete:
            log.warning("read.sequential", source=shown, reason=_NO_PARTS)
        tasks = Tasks()
        try:
            nursery = await self._nursery.start(tasks.run)
            cached = Cached(kept, source, nursery, place.pace)
            checksum = strongest(content.checksums)
            verified = None
            if checksum is not None:
                verified = Verified(cached, checksum, nursery, lambda: self._on_damaged(content))
                await verified.recall()
            # The daemon may have ended meanwhile: then nothing can be started below any more.
            await trio.lowlevel.checkpoint_if_cancelled()
        except BaseException:
            # Whoever wanted it has given up: nobody else would ever close what was opened.
            with trio.CancelScope(shield=True):
                await tasks.end()
                await kept.aclose()
            raise
        shared = _Shared(cached, verified or cached, tasks, sources)
        if self._budget is not None and revision.ranges and not file.complete:
            shared.filling = Filling(cached, verified, place.quiet, place.pace, self._budget, shown)
            nursery.start_soon(shared.filling.run)
        if self._profiles is not None and revision.ranges and is_worthwhile(revision.size):

            def damaged() -> bool:
                return verified is not None and verified.verdict is Verdict.MISMATCH

            shared.boots = Boots(
                *(self._profiles, lineage(content), content.locator.shown, cached, place.pace),
                turns=place.gate.profiled,
                damaged=damaged,
            )
            nursery.start_soon(shared.boots.run)
        return shared

    def facts(self, content: Content, revision: Revision) -> ReaderFacts | None:
        """Say what an open object knows about itself; None when it is not open."""
        shared = self._shared.get(object_key(content, revision))
        return None if shared is None else shared.top.facts()

    def explained(self, content: Content, revision: Revision) -> Stack | None:
        """Say what the layers of an open object have done; None when it is not open."""
        shared = self._shared.get(object_key(content, revision))
        return None if shared is None else explained(shared.top, shared.cached, shared.sources)

    def pace(self, content: Content) -> Pace | None:
        """Return how fast the place of a content is; None when nothing of it was opened lately."""
        place = self._places.get(place_of(content.locator))
        return None if place is None else place.pace

    def paces(self) -> dict[str, Pace]:
        """Return how fast the places are of which something was opened lately (256 at most)."""
        return {name: place.pace for name, place in self._places.items()}

    @property
    def open_objects(self) -> int:
        """How many objects are open."""
        return len(self._shared)

    async def close(self, key: str, shared: _Shared) -> None:
        """Give one use of an object back; the last one closes it."""
        async with self._opening:
            shared.users -= 1
            if shared.users == 0:
                if self._shared.get(key) is shared:
                    del self._shared[key]
                with trio.CancelScope(shield=True):
                    await shared.tasks.end()
                    await shared.top.aclose()


class _Opened(ReadAhead):
    """The handle of one open file: its read-ahead, and its share of the object and its filling."""

    def __init__(self, library: Library, key: str, shared: _Shared, read_ahead: int) -> None:
        super().__init__(shared.top, shared.cached, read_ahead)
        self._library = library
        self._key = key
        self._shared = shared
        self._filling = shared.filling
        self._recorder = None if shared.boots is None else shared.boots.opened()

    def _note(self, offset: int, length: int) -> None:
        super()._note(offset, length)
        if self._recorder is not None:
            self._recorder.note(offset, length, trio.current_time())
        if self._filling is not None:
            self._filling.read(offset + length)

    async def aclose(self) -> None:
        # Also for somebody who is being cancelled: the object is counted as open until then.
        with trio.CancelScope(shield=True):
            if self._recorder is not None and self._shared.boots is not None:
                await self._shared.boots.closed(self._recorder)
            await self._library.close(self._key, self._shared)
