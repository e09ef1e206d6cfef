"""Decompressing as a task: a compressed file, front to back, into the cache file of its content.

One pass at a time for each object, and few at once for all. It ends at the end of the stream, which
then was proven; when it cannot go on; or when nobody needs it any more.

Most checksums of these formats come after what they are of. So when a stream is found damaged
nothing of it is right for certain: all of it is an error then, as it is where a published checksum
does not match. Of a stream that is merely cut off, what came before is right.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog
import trio

from nebfs.blocks import SLOT_SIZE, BlockFile, DiskStore, Store
from nebfs.blocks.blockfile import SLOT_SHIFT
from nebfs.blocks.index import Verdict
from nebfs.content.layers.decoded_pass import Pass, decode_threads
from nebfs.content.layers.kept import Kept
from nebfs.content.layers.verified import QUARANTINE
from nebfs.content.stack import Reader, read
from nebfs.ending import pass_on
from nebfs.errors import Bug, CacheFault, Damaged, NebfsError, Unsupported
from nebfs.units import GIB, MIB, format_size

log = structlog.get_logger()

STEP = 1 * MIB
"""Compressed bytes that a decoder is fed at once."""

BATCH = 4 * MIB >> SLOT_SHIFT
"""Slots that are made in one go: some 10 ms of a thread, and what is reserved in the cache."""

FIRST = 64 * MIB
"""The least that a cache file is made for whose length is not known; it doubles when it is full."""

SMALL_PART = 8
"""A pass that nobody needs any more is ended within its first eighth: somebody had a look at the
beginning. Beyond it goes on to the end: a next reader would have to wait for all of it again."""

SPARSE = 16
"""How many times the cache's limit an object may be long. Zeros take no space, but each slot does
in memory and in its index, 25 bytes for 128 KiB."""


STANDIN = 4 * GIB
"""The limit of a cache that has no disk, as far as the length of an object is concerned: memory
keeps little of it."""


class Passing:
    """The passes over one object, which is `kept`. They run in `nursery`.

    Its file is of any length unless a verdict says that it is whole, or `said` how long it will be.
    """

    def __init__(
        self,
        compression: str,
        kept: Kept,
        source: Callable[[], Awaitable[Reader]],
        nursery: trio.Nursery,
        turns: Turns,
        *,
        said: int | None,
        is_read: Callable[[], bool],
        on_damage: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        """`source` opens the compressed file. `said`: the length that this says the object has.
        `is_read` tells whether somebody has the object open. `on_damage` is called when what was
        answered may have been wrong, `on_end` after each pass.
        """
        self.failure: NebfsError | None = None
        """Why no more can be had of it, for good."""
        self.error: NebfsError | None = None
        """Why the last pass did not get on; None also when it was merely ended."""
        self.ended = trio.Event()
        """Set when the pass that was started last has ended."""
        self.moved = 0
        """Grows with every step."""
        self.passes = 0
        """How many passes were begun."""
        self.position = 0
        """Decompressed bytes that the last pass has behind it."""
        self.has_turn = False
        """Whether the pass that is under way has begun: few are at once."""
        self.progress = 0.0
        """Which part of the compressed file the pass has behind it."""
        self.wanted_whole = False
        """Whether it is to go on to the end although nobody reads."""
        self.keeps = True
        """Whether what is decoded is kept. Memory may have no room for it: then a pass can only
        tell how long the object is."""
        self._compression = compression
        self._kept = kept
        self._source = source
        self._nursery = nursery
        self._turns = turns
        self._said = said
        self._is_read = is_read
        self._on_damage = on_damage
        self._on_end = on_end
        self._scope: trio.CancelScope | None = None
        verdict, judged = kept.file.verdict
        self._length = kept.file.size if verdict is Verdict.VERIFIED else None
        """How long it is, once a pass was through."""
        if verdict is Verdict.MISMATCH and 0 <= time.time() - judged < QUARANTINE:
            self.failure = Damaged("the compressed image is damaged, as was found before")

    @property
    def whole(self) -> bool:
        """Whether a pass was through once: the length is right, and so is what is here."""
        return self._length is not None

    @property
    def size(self) -> int | None:
        """How long the object is, as far as that is known."""
        return self._said if self._length is None else self._length

    async def fit(self, file: BlockFile) -> None:
        """Have a cache file be as long as the object, or of full slots while that is not known: a
        last one that is short would be taken for one that is as long as others. Raises CacheFault.
        """
        verdict, _ = file.verdict
        if self._length is None and verdict is Verdict.VERIFIED:
            self._length = file.size
        wanted = self.size
        if wanted is None:
            wanted = -(-file.size // SLOT_SIZE) * SLOT_SIZE
        if wanted != file.size:
            await file.resize(wanted)

    def begin_anew(self) -> None:
        """Take note that the object has another cache file: a pass over the one before ends."""
        self.keeps = True
        self.stop()

    @property
    def under_way(self) -> bool:
        """Whether a pass is under way."""
        return self._scope is not None

    @property
    def is_idle(self) -> bool:
        """Whether nobody would miss it."""
        return not self._is_read() and not self.wanted_whole

    def start(self) -> None:
        """Start a pass, unless one is under way."""
        if self._scope is None:
            self._scope = trio.CancelScope()
            self.ended = trio.Event()
            self.error = None
            self._nursery.start_soon(self._run, self._scope)

    def stop(self) -> None:
        """End the pass: others need its turn more."""
        if self._scope is not None:
            self._scope.cancel()

    async def _run(self, scope: trio.CancelScope) -> None:
        error: NebfsError | None = NebfsError("nebfs is stopping")
        try:
            with scope:
                async with self._turns.taken(self):
                    self.has_turn = True
                    await self._pass()
            error = None
        except NebfsError as exc:
            error = exc
            log.warning("decoded.failed", error=str(exc), key=self._kept.file.key[:12])
        except BaseException as exc:  # a bug must cost these reads, not the mount
            pass_on(exc)
            log.exception("decoded.bug")
            error = Bug(exc)
        finally:
            self._scope, self.error = None, error
            self.has_turn = self.wanted_whole = False
            self.ended.set()
            self._kept.file.tell()
            self._on_end()

    async def _pass(self) -> None:
        async with self._kept.held() as (file, store):
            try:
                await self._decode(file, store)
            except CacheFault as exc:
                await self._kept.leave(file, str(exc))
                raise

    async def _decode(self, file: BlockFile, store: Store) -> None:
        reader = await self._source()
        work: Pass | None = None
        self.passes += 1
        self.position, self.progress = 0, 0.0
        try:
            work = Pass(self._compression, file, self.size)
            at = 0
            while at < reader.size:
                if self._is_unwanted(at, reader.size):
                    return
                if self.whole and file.last_absent() < work.slot:
                    return  # all that has left is here again
                data = await self._packed(reader, at)
                at += len(data)
                work.feed(data)
                await self._drain(work, store)
                self.progress = at / reader.size
            work.finish()
            await self._drain(work, store)
            await self._conclude(work, store)
        finally:
            with trio.CancelScope(shield=True):
                if work is not None:
                    await trio.to_thread.run_sync(work.close, limiter=decode_threads)
                await reader.aclose()

    def _is_unwanted(self, at: int, size: int) -> bool:
        return self.is_idle and (self.whole or at * SMALL_PART < size)

    async def _packed(self, reader: Reader, at: int) -> bytes:
        length = min(STEP, reader.size - at)
        try:
            return bytes(await read(reader, at, length))
        except Damaged:
            # It is not what was published: nothing that came out of it may be served either.
            await self.drop()
            raise

    async def _drain(self, work: Pass, store: Store) -> None:
        """Decode what the pass was fed."""
        hungry = False
        while not hungry:
            try:
                self._check_fits(work, store)
                hungry = await self._advance(work, store)
            except (Damaged, Unsupported) as exc:
                await self.fail(exc)
                raise
            self.moved += 1
            self.position = work.position

    async def _advance(self, work: Pass, store: Store) -> bool:
        file = work.file
        stop = work.slot + BATCH
        if self.size is None and stop > file.slots:
            await file.resize(max(file.size * 2, FIRST))
        wanted = range(work.slot, min(stop, file.slots) if self.keeps else work.slot)
        absent = [slot for slot in wanted if file.claimable(slot)]
        amount = len(absent) << SLOT_SHIFT
        if self.keeps and not await self._reserve(work, store, amount):
            self.keeps, amount, absent = False, 0, []
            await file.drop(0, file.slots)
            self._check_fits(work, store)
        # Some may have been claimed by others while it was waited for.
        claimed = {slot for slot in absent if file.claimable(slot)}
        for slot in claimed:
            file.claimed[slot] = 1
        try:
            filled, hungry = await trio.to_thread.run_sync(
                work.advance, stop, claimed, limiter=decode_threads
            )
        finally:
            for slot in claimed:
                file.claimed[slot] = 0
            store.settle(amount)
        if filled:
            file.put(filled)
            store.accepted()
        return hungry

    async def _reserve(self, work: Pass, store: Store, amount: int) -> bool:
        """Set bytes aside in the store; say whether it has room. Raises CacheFault for a disk."""
        if isinstance(store, DiskStore):
            await store.reserve(amount)
            return True
        try:
            if work.written <= _most(store):
                await store.reserve(amount)
                return True
        except CacheFault:
            pass
        return False

    def _check_fits(self, work: Pass, store: Store) -> None:
        home = self._kept.home
        if work.position > longest(home):
            raise too_large(home.limit)
        if isinstance(store, DiskStore) and work.written > _most(store):
            raise too_large(store.limit)
        if not self.keeps and not self.wanted_whole:
            raise CacheFault("memory cannot hold what is decompressed")

    async def _conclude(self, work: Pass, store: Store) -> None:
        """Take up the length of the object, and that all of it is right."""
        file, size = work.file, work.position
        if self.size is not None and size != self.size:
            failure = Damaged("less is in the compressed image than it says", said=self.size)
            await self.fail(failure)
            raise failure
        if size != file.size:
            await file.resize(size)
        if self.keeps:
            await self._put_tail(work, store)
        await self.judge(file)

    async def judge(self, file: BlockFile) -> None:
        """Take note that the object is whole, and as long as `file` is now."""
        if not self.whole:
            self._length = file.size
            await file.judge(Verdict.VERIFIED)

    async def _put_tail(self, work: Pass, store: Store) -> None:
        """Put the last slot, which is shorter than others."""
        file, slot = work.file, work.slot
        if slot >= file.slots or not file.claimable(slot):
            return
        await store.reserve(SLOT_SIZE)
        file.claimed[slot] = 1
        try:
            filled = await trio.to_thread.run_sync(work.tail, {slot}, limiter=decode_threads)
        finally:
            file.claimed[slot] = 0
            store.settle(SLOT_SIZE)
        if filled:
            file.put(filled)

    async def fail(self, failure: NebfsError) -> None:
        """Take note that the object cannot be had, now or later."""
        self.failure = failure
        if is_cut(failure):
            return
        await self.drop()
        if isinstance(failure, Damaged):
            await self._kept.file.judge(Verdict.MISMATCH)

    async def drop(self) -> None:
        """Let go of all that was decoded: it may be wrong."""
        async with self._kept.held() as (file, _):
            await file.drop(0, file.slots)
        self._on_damage()


def is_cut(failure: NebfsError) -> bool:
    """Whether a failure is of a stream that stops too early: what came before is right."""
    return isinstance(failure, Damaged) and failure.message.endswith("image is cut off")


def _most(store: Store) -> int:
    """Return how many bytes one pass may write."""
    return store.limit * 9 // 10


def longest(store: Store) -> int:
    """Return how many bytes an object may be long, decompressed, of a cache that is `store`."""
    limit = store.limit if isinstance(store, DiskStore) else max(store.limit, STANDIN)
    return SPARSE * limit


def too_large(limit: int) -> Unsupported:
    """Return the error about an object that a cache of `limit` bytes cannot hold."""
    return Unsupported(
        f"decompressed it does not fit the cache of {format_size(limit)}: a larger cache_size is"
        " the remedy"
    )


class Turns:
    """So many passes at once: each takes a processor or two, and up to 200 MiB of memory."""

    def __init__(self, number: int) -> None:
        self._free = trio.Semaphore(number)
        self._running: list[Passing] = []

    @asynccontextmanager
    async def taken(self, passing: Passing) -> AsyncIterator[None]:
        """Hold a turn, waiting for one. What nobody reads makes room for what is waited for."""
        if not self._free.value:
            spare = next((other for other in self._running if other.is_idle), None)
            if spare is not None:
                spare.stop()
        async with self._free:
            self._running.append(passing)
            try:
                yield
            finally:
                self._running.remove(passing)
