"""Decompressed objects: which disk is in a compressed file, and who has it open.

A compression around one disk format is taken off, and no more: nothing that is compressed twice,
and no archive of files. What a look has shown is told to `on_seen`, which remembers it.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import structlog
import trio
from cachetools import LRUCache

from nebfs.blocks import SLOT_SIZE, MemoryStore, Store
from nebfs.content import views
from nebfs.content.decoders import read_index
from nebfs.content.disks import DISKS, PLAIN, Inside
from nebfs.content.formats import HEAD, sniff
from nebfs.content.layers.decoded import Decoding, reading
from nebfs.content.layers.decoded_file import Decoded
from nebfs.content.layers.decoded_passing import FIRST, Passing, Turns, longest, too_large
from nebfs.content.layers.decoded_stream import Streams
from nebfs.content.layers.kept import Kept
from nebfs.content.peeking import UNKNOWN, WANTED, Peeked, peek
from nebfs.content.prober import Probed
from nebfs.content.stack import Reader
from nebfs.ending import pass_on
from nebfs.errors import CacheFault, Changed, Damaged, NebfsError, Unsupported
from nebfs.model import Content, Revision

log = structlog.get_logger()

PASSES = 2
"""How many objects are decompressed at once."""

EXPANSION = 4
"""How much longer than the compressed file its cache file is made, to begin with."""

OPENING = 0.8
"""The part of the mount's deadline for which an opening waits: it says how far it is then."""

SHOWN = " (decompressed)"
"""What follows the source of a compressed file where its decompressed object is shown."""

Seen = Callable[[Content, Revision, Inside], None]


@dataclass(frozen=True, slots=True)
class Decompressed:
    """The object of the cache into which a compressed file is decompressed.

    `size` is how long it is, or None while that is not known; `decoding` is its life while somebody
    has it open.
    """

    key: str
    source: str
    compression: str
    size: int | None
    decoding: Decoding | None


@dataclass(slots=True)
class _Shared:
    """An object that somebody has open, or that is being made."""

    content: Content
    probed: Probed
    decoding: Decoding
    users: int = 0


class Decodings:
    """Opens what is in compressed files of one library. Passes run in `nursery`."""

    def __init__(
        self,
        store: Store,
        memory: MemoryStore,
        nursery: trio.Nursery,
        open_file: Callable[[Content, Revision], Awaitable[Reader]],
        key_of: Callable[[Content, Revision], str],
        patience: float,
        known: Callable[[Content], Probed | None],
        *,
        on_seen: Seen,
        on_damaged: Callable[[Content], None],
    ) -> None:
        """`open_file` opens a file as it was published, `key_of` names it in the cache, `known`
        tells what its place was found to have.
        """
        self._known = known
        self._store = store
        self._memory = memory
        self._nursery = nursery
        self._open_file = open_file
        self._key_of = key_of
        self._patience = patience
        self._on_seen = on_seen
        self._on_damaged = on_damaged
        self._turns = Turns(PASSES)
        self._streams = Streams(PASSES)
        self._shared: dict[str, _Shared] = {}
        self._opening = trio.Lock()
        self._failures: LRUCache[str, NebfsError] = LRUCache(4096)

    # --- looking ----------------------------------------------------------------------------

    async def look(self, content: Content, probed: Probed, file: Reader) -> Inside:
        """Find out which disk is in the compressed `file`, by its first bytes and its index.

        Raises what reading the file raises.
        """
        kind, compression = probed.format.name, probed.format.compression
        if content.volatile:
            return Inside(kind, None, "others may write to the compressed file", lasting=False)
        try:
            head = await peek(compression, file)
            kind = _kind(head, content)
            size = None
            if file.revision.ranges and file.size:
                size = (await read_index(compression, reading(file), file.size)).size
            if size is not None and size > longest(self._store):
                return Inside(kind, None, str(too_large(self._store.limit)), size, lasting=False)
            if kind in PLAIN:
                return Inside(kind, size, decoded=size)
            if not DISKS[kind].early:
                return Inside(kind, None, decoded=size)  # it is looked at when it is decoded
            length = len(head) if len(head) < WANTED else UNKNOWN if size is None else size
            disk = await DISKS[kind].look(Peeked(head, length, probed.revision))
        except (Damaged, Unsupported) as exc:
            return _flawed(Inside(kind, None), exc)
        return Inside(disk.kind, disk.size, disk.flaw, size)

    async def measure(self, content: Content, probed: Probed) -> None:
        """Have a file decompressed to its end, as its length is not known before.

        Raises Unready when that takes longer than an opening may, and goes on; Damaged, Unsupported
        and what reading the file raises.
        """
        reader = await self.open(content, probed, probed.revision)
        try:
            shared = self._shared[self._key(content, probed)]
            try:
                await shared.decoding.measure(self._patience * OPENING)
            finally:
                await self._settle(shared)
        finally:
            with trio.CancelScope(shield=True):
                await reader.aclose()

    async def _settle(self, shared: _Shared) -> None:
        """Tell what is known now of an object of which too little was known before."""
        inside, passing = shared.probed.inside, shared.decoding.passing
        if inside is None or not inside.is_unmeasured:
            return
        if passing.failure is not None:
            inside = _flawed(inside, passing.failure)
        elif passing.size is None:
            return
        elif inside.kind in PLAIN:
            inside = replace(inside, disk=passing.size, decoded=passing.size)
        else:
            reader = Decoded(shared.decoding, shared.probed.revision, _nothing)
            try:
                disk = await DISKS[inside.kind].look(reader)
            except (Damaged, Unsupported) as exc:
                inside = _flawed(inside, exc)
            else:
                inside = Inside(disk.kind, disk.size, disk.flaw, passing.size)
        shared.probed = replace(shared.probed, inside=inside)
        self._on_seen(shared.content, shared.probed.revision, inside)

    # --- opening ----------------------------------------------------------------------------

    def of(self, view: Content) -> Decompressed | None:
        """Return the object that the file of a raw view is decompressed into; None: nothing is, or
        it is not known what is in the file.
        """
        found = self._compressed(view)
        if found is None:
            return None
        content, probed = found
        key = self._key(content, probed)
        shared = self._shared.get(key)
        size = None if probed.inside is None else probed.inside.decoded
        if shared is not None and shared.decoding.size is not None:
            size = shared.decoding.size
        return Decompressed(
            key,
            content.locator.shown + SHOWN,
            probed.format.compression,
            size,
            None if shared is None else shared.decoding,
        )

    def _compressed(self, view: Content) -> tuple[Content, Probed] | None:
        files = views.files(view) if view.view else ()
        probed = self._known(files[0]) if len(files) == 1 else None
        if probed is None or probed.inside is None or not probed.format.compression:
            return None
        return replace(files[0], volatile=False), probed

    @asynccontextmanager
    async def held(self, view: Content) -> AsyncIterator[Decoding]:
        """Have what the file of a raw view is decompressed into open for the length of the block.

        Raises Changed where nothing is known of it any more, and CacheFault.
        """
        found = self._compressed(view)
        if found is None:
            raise Changed("what is known of the file was forgotten")
        reader = await self.open(*found, found[1].revision)
        try:
            yield reader.decoding
        finally:
            with trio.CancelScope(shield=True):
                await reader.aclose()

    def forgive(self, key: str) -> None:
        """Have an object tried again that could not be had: what was kept of it is gone."""
        self._failures.pop(key, None)

    def _key(self, content: Content, probed: Probed) -> str:
        whole = f"{self._key_of(content, probed.revision)}#{probed.format.compression}"
        return hashlib.sha256(whole.encode()).hexdigest()

    async def open(self, content: Content, probed: Probed, revision: Revision) -> Decoded:
        """Return a reader of what is in the compressed file `content`. Raises CacheFault."""
        key = self._key(content, probed)
        async with self._opening:
            shared = self._shared.get(key)
            if shared is None:
                shared = _Shared(content, probed, await self._build(key, content, probed))
                self._shared[key] = shared
            shared.users += 1
        return Decoded(shared.decoding, revision, partial(self._give_back, key, shared))

    async def _build(self, key: str, content: Content, probed: Probed) -> Decoding:
        said = probed.inside.decoded if probed.inside is not None else None
        guess = max(-(-probed.revision.size * EXPANSION // SLOT_SIZE) * SLOT_SIZE, FIRST)
        shown = content.locator.shown + SHOWN
        size = guess if said is None else said
        kept = await Kept.open(self._store, self._memory, key, size, shown, any_size=True)
        source = partial(self._open_file, content, probed.revision)
        damaged = partial(self._on_damaged, replace(content, view="raw"))
        ended = partial(self._nursery.start_soon, self._rest, key)
        passing = Passing(
            *(probed.format.compression, kept, source, self._nursery, self._turns),
            said=said,
            is_read=lambda: key in self._shared and self._shared[key].users > 0,
            on_damage=damaged,
            on_end=ended,
        )
        if key in self._failures:
            passing.failure = self._failures[key]
        try:
            try:
                await passing.fit(kept.file)
            except CacheFault as exc:
                await kept.leave(kept.file, str(exc))
                await passing.fit(kept.file)
        except BaseException:
            await kept.aclose()
            raise
        return Decoding(
            *(probed.format.compression, kept, passing, source, self._nursery, self._streams),
            self._patience,
            ended,
        )

    async def _give_back(self, key: str, shared: _Shared) -> None:
        shared.users -= 1
        with trio.CancelScope(shield=True):
            await self._close(key, shared)

    async def _rest(self, key: str) -> None:
        """Take note of how a pass has ended, and close the object if nobody has it open."""
        shared = self._shared.get(key)
        if shared is None:
            return
        shared.users += 1  # it must not be closed meanwhile
        try:
            try:
                await self._settle(shared)
            except NebfsError as exc:
                log.warning("decoded.unseen", error=str(exc))
            finally:
                await self._give_back(key, shared)
        except BaseException as exc:  # a bug must cost this object, not the mount
            pass_on(exc)
            log.exception("decoded.bug")

    async def _close(self, key: str, shared: _Shared) -> None:
        async with self._opening:
            failure = shared.decoding.passing.failure
            if failure is not None:
                self._failures[key] = failure
            if shared.users or shared.decoding.is_busy or self._shared.get(key) is not shared:
                return
            del self._shared[key]
            await shared.decoding.aclose()


def _flawed(inside: Inside, failure: NebfsError) -> Inside:
    """Return what is known of a file in whose decompressed bytes something is wrong."""
    damaged = isinstance(failure, Damaged)
    return replace(inside, flaw=str(failure), damaged=damaged, lasting=False)


def _kind(head: bytes, content: Content) -> str:
    """Return which disk begins with `head`. Raises Unsupported when it is none."""
    found = sniff(head[:HEAD], content.format, content.media)
    if found.compression:
        raise Unsupported("what is in the compressed file is compressed again")
    if found.name == "tar" or head[257:262] == b"ustar":
        raise Unsupported("it is an archive of files, not a disk")
    if found.name not in PLAIN and found.name not in DISKS:
        raise Unsupported(f"nebfs does not read the disk inside a {found.name} file")
    return found.name


async def _nothing() -> None:
    """What closes a reader that has no share of its own."""
