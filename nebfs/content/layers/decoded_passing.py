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
from nebfs.content.layers.verified import QUARANTINE
from nebfs.content.stack import Reader, read
from nebfs.ending import pass_on
from nebfs.errors import Bug, CacheFault, Damaged, NebfsError, Unsupported
from nebfs.units import MIB, format_size

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


class Passing:
    """The passes over one object, whose cache file is `file`. They run in `nursery`.

    `file` is of any length unless a verdict says that it is whole, or `said` how long it will be.
    """

    def __init__(
        self,
        compression: str,
        file: BlockFile,
        store: Store,
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
        self.file = file
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
        self._compression = compression
        self._store = store
        self._source = source
        self._nursery = nursery
        self._turns = turns
        self._said = said
        self._is_read = is_read
        self._on_damage = on_damage
        self._on_end = on_end
        self._scope: trio.CancelScope | None = None
        verdict, judged = file.verdict
        self.whole = verdict is Verdict.VERIFIED
        """Whether a pass was through once: the length is right, and so is what is here."""
        if verdict is Verdict.MISMATCH and 0 <= time.time() - judged < QUARANTINE:
            self.failure = Damaged("the compressed image is damaged, as was found before")

    @property
    def size(self) -> int | None:
        """How long the object is, as far as that is known."""
        return self.file.size if self.whole else self._said

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
            log.warning("decoded.failed", error=str(exc), key=self.file.key[:12])
        except BaseException as exc:  # a bug must cost these reads, not the mount
            pass_on(exc)
            log.exception("decoded.bug")
            error = Bug(exc)
        finally:
            self._scope, self.error = None, error
            self.has_turn = self.wanted_whole = False
            self.ended.set()
            self.file.tell()
            self._on_end()

    async def _pass(self) -> None:
        reader = await self._source()
        work: Pass | None = None
        self.passes += 1
        self.position, self.progress = 0, 0.0
        try:
            work = Pass(self._compression, self.file, self.size)
            at = 0
            while at < reader.size:
                if self._is_unwanted(at, reader.size):
                    return
                if self.whole and self.file.last_absent() < work.slot:
                    return  # all that has left is here again
                data = await self._packed(reader, at)
                at += len(data)
                work.feed(data)
                await self._drain(work)
                self.progress = at / reader.size
            work.finish()
            await self._drain(work)
            await self._conclude(work)
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

    async def _drain(self, work: Pass) -> None:
        """Decode what the pass was fed."""
        hungry = False
        while not hungry:
            try:
                self._check_fits(work)
                hungry = await self._advance(work)
            except CacheFault as exc:
                if isinstance(self._store, DiskStore):
                    self._store.refused(str(exc))
                raise
            except (Damaged, Unsupported) as exc:
                await self._fail(exc)
                raise
            self.moved += 1
            self.position = work.position

    async def _advance(self, work: Pass) -> bool:
        file = self.file
        stop = work.slot + BATCH
        if self.size is None and stop > file.slots:
            await file.resize(max(file.size * 2, FIRST))
        absent = [s for s in range(work.slot, min(stop, file.slots)) if file.claimable(s)]
        amount = len(absent) << SLOT_SHIFT
        await self._store.reserve(amount)
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
            self._store.settle(amount)
        if filled:
            file.put(filled)
        return hungry

    def _check_fits(self, work: Pass) -> None:
        limit = self._store.limit
        if work.position > SPARSE * limit or work.written > limit * 9 // 10:
            raise too_large(limit)

    async def _conclude(self, work: Pass) -> None:
        """Take up the length of the object, and that all of it is right."""
        file, size = self.file, work.position
        if self.size is not None and size != self.size:
            failure = Damaged("less is in the compressed image than it says", said=self.size)
            await self._fail(failure)
            raise failure
        if size != file.size:
            await file.resize(size)
        await self._put_tail(work)
        await self.judge()

    async def judge(self) -> None:
        """Take note that the object is whole."""
        if not self.whole:
            self.whole = True
            await self.file.judge(Verdict.VERIFIED)

    async def _put_tail(self, work: Pass) -> None:
        """Put the last slot, which is shorter than others."""
        file, slot = self.file, work.slot
        if slot >= file.slots or not file.claimable(slot):
            return
        await self._store.reserve(SLOT_SIZE)
        file.claimed[slot] = 1
        try:
            filled = await trio.to_thread.run_sync(work.tail, {slot}, limiter=decode_threads)
        finally:
            file.claimed[slot] = 0
            self._store.settle(SLOT_SIZE)
        if filled:
            file.put(filled)

    async def _fail(self, failure: NebfsError) -> None:
        """Take note that the object cannot be had, now or later."""
        self.failure = failure
        if is_cut(failure):
            return
        await self.drop()
        if isinstance(failure, Damaged):
            await self.file.judge(Verdict.MISMATCH)

    async def drop(self) -> None:
        """Let go of all that was decoded: it may be wrong."""
        await self.file.drop(0, self.file.slots)
        self._on_damage()


def is_cut(failure: NebfsError) -> bool:
    """Whether a failure is of a stream that stops too early: what came before is right."""
    return isinstance(failure, Damaged) and failure.message.endswith("image is cut off")


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
