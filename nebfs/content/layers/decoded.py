"""A compressed file, decompressed: once, in one pass, into the cache as an object of its own.

What the pass has behind it is answered as any cached bytes are; whoever reads ahead of it waits for
it. Where the format has blocks that can be decoded by themselves there is no pass: the blocks that
are read are decoded. What leaves the cache is decoded again.

How long the object is may be known only when the pass is through. Until then its cache file grows,
and a reader is told UNKNOWN.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Awaitable, Callable

import structlog
import trio

from nebfs.blocks import BlockFile, DiskStore
from nebfs.blocks.blockfile import SLOT_SHIFT
from nebfs.content.decoders import read_index
from nebfs.content.layers.decoded_blocks import Blocks
from nebfs.content.layers.decoded_passing import Passing
from nebfs.content.layers.decoded_stream import Stream, Streams
from nebfs.content.layers.kept import Kept
from nebfs.content.stack import Reader
from nebfs.ending import pass_on
from nebfs.errors import CacheFault, Damaged, NebfsError, TimedOut, Unready

log = structlog.get_logger()

ATTEMPTS = 2
"""Passes that are made for somebody who wants all of it: the second one brings back what made room
for what came after it."""

KEEP_ROUNDS = 4
"""How often memory may lose what one read wants before it is not asked to keep it."""

CHAINED = frozenset({"gz", "bz2"})
"""What has no index at all."""


class PastEnd(Damaged):
    """The object turned out to be shorter than what was asked for."""


class Decoding:
    """The decompressed object, shared by whoever has it open. What runs in the background runs in
    `nursery`.
    """

    def __init__(
        self,
        compression: str,
        kept: Kept,
        passing: Passing,
        source: Callable[[], Awaitable[Reader]],
        nursery: trio.Nursery,
        streams: Streams,
        patience: float,
        on_end: Callable[[], None],
    ) -> None:
        """`source` opens the compressed file. `streams` are for what nothing can keep. `patience`:
        seconds without any progress after which a read fails. `on_end` is called when something in
        the background has ended.
        """
        self.passing = passing
        self.kept = kept
        kept.fit, kept.on_move = passing.fit, self._moved
        self._compression = compression
        self._source = source
        self._nursery = nursery
        self._streams = streams
        self._stream: Stream | None = None
        self._patience = patience
        self._on_end = on_end
        self._blocks: Blocks | None = None
        self._indexed = compression in CHAINED
        self._indexing = trio.Lock()
        self._ahead = False
        self.hits = self.waits = 0
        """Reads that found their bytes decoded already, of those that were not answered at once,
        and reads that did not.
        """
        self.streamed = 0
        """Reads of what nothing could keep."""
        if self.file.complete and not passing.whole and passing.size is not None:
            # An earlier life has ended just before it was judged.
            passing.start()

    @property
    def file(self) -> BlockFile:
        """The cache file of now."""
        return self.kept.file

    @property
    def size(self) -> int | None:
        """How long it is, as far as that is known."""
        return self.passing.size

    @property
    def frontier(self) -> int:
        """Up to which byte everything is decoded and here; while a pass is under way, up to where
        that has come.
        """
        first = self.file.absent(0, self.file.slots)
        here = self.file.size if first < 0 else first << SLOT_SHIFT
        return max(here, self.passing.position if self.passing.under_way else 0)

    @property
    def decoded_blocks(self) -> int:
        """How many blocks were decoded by themselves."""
        return 0 if self._blocks is None else self._blocks.decoded

    @property
    def is_busy(self) -> bool:
        """Whether something goes on in the background."""
        return self._ahead or self.passing.under_way

    async def read(self, offset: int, length: int) -> bytes | memoryview:
        """Return exactly these bytes, waiting for them. Raises Damaged, TimedOut, what reading the
        compressed file raises, and PastEnd.
        """
        file = self.file
        if file.has(*file.span(offset, length)):
            self.hits += 1
        else:
            self.waits += 1

        rounds = 0

        async def bring(first: int, stop: int) -> bytes | None:
            nonlocal rounds
            rounds += 1
            await self._bring(first, stop, offset + length, may_stream=rounds > KEEP_ROUNDS)
            return None if self._stream is None else await self._streaming(offset, length)

        return await self.kept.pread(offset, length, bring)

    async def _bring(self, first: int, stop: int, end: int, *, may_stream: bool) -> None:
        """Return when the slots are here, or will not come because nothing can keep them."""
        file = self.file
        if self._stream is not None:
            return
        try:
            if may_stream and not isinstance(self.kept.store, DiskStore):
                raise CacheFault("memory keeps losing these blocks")
            await self._await(file, first, stop, end)
        except CacheFault as exc:
            await self.kept.leave(file, str(exc))
            if file is self.file and self._stream is None:  # it was in memory, and there is no room
                log.info("decoded.streams", reason=str(exc), key=file.key[:12])
                self._stream = Stream(
                    *(self._compression, self._source, self._streams),
                    on_taint=self.passing.drop,
                    on_failure=self.passing.fail,
                )

    async def _await(self, file: BlockFile, first: int, stop: int, end: int) -> None:
        """Return when the slots are in `file`, or that is left. Raises PastEnd when there is no
        byte before `end`.
        """
        passing = self.passing
        while file is self.file:
            size = passing.size
            if size is not None and end > size:
                raise PastEnd("this is beyond the end of the compressed image", size=size)
            if file.has(first, stop):
                return
            self._check()
            if not passing.keeps:
                raise CacheFault("memory cannot hold what is decompressed")
            blocks = await self._find_blocks()
            if blocks is not None:
                await blocks.bring(first, stop)
                self._follow(stop, blocks)
                if any(file.claimable(slot) for slot in range(first, stop)):
                    return  # some have left again: whoever reads starts over
            else:
                passing.start()
            if file.has(first, stop):
                continue
            moved, ended = passing.moved, passing.ended
            with trio.move_on_after(self._patience) as wait:
                await file.arrival(first, stop)
            if wait.cancelled_caught and passing.moved == moved:
                raise TimedOut("decompressing the image does not get on", after=self._patience)
            if ended.is_set() and passing.error is not None and not file.has(first, stop):
                raise copy.copy(passing.error) from passing.error

    async def _streaming(self, offset: int, length: int) -> bytes | None:
        """Decode these bytes for one read alone; None when the object is kept again meanwhile."""
        stream, size = self._stream, self.size
        if stream is None:
            return None
        if size is not None and offset + length > size:
            raise PastEnd("this is beyond the end of the compressed image", size=size)
        self._check()
        self.streamed += 1
        data = await stream.read(offset, length)
        if data is None:
            raise PastEnd("this is beyond the end of the compressed image")
        return data

    async def _moved(self) -> None:
        """Go on with another cache file."""
        stream, self._stream = self._stream, None
        self.passing.begin_anew()
        if stream is not None:
            with trio.CancelScope(shield=True):
                await self._streams.close(stream)

    def _check(self) -> None:
        failure = self.passing.failure
        if failure is not None:
            # A copy: each reader raises its own, with its own traceback.
            raise copy.copy(failure) from failure

    # --- blocks -----------------------------------------------------------------------------

    async def _find_blocks(self) -> Blocks | None:
        """Return the blocks of the compressed file, if it has several."""
        if not self._indexed:
            async with self._indexing:
                if not self._indexed:
                    self._blocks = await self._index()
                    self._indexed = True
        return self._blocks

    async def _index(self) -> Blocks | None:
        if self.size is None:
            return None
        reader = await self._source()
        try:
            index = await read_index(self._compression, reading(reader), reader.size)
        finally:
            with trio.CancelScope(shield=True):
                await reader.aclose()
        if not index.blocks or len(index.blocks) < 2 or index.size != self.size:
            return None
        return Blocks(
            *(self._compression, index.blocks, self._source, self.kept, self.passing.drop)
        )

    def _follow(self, stop: int, blocks: Blocks) -> None:
        """Decode the next block before somebody waits for it who reads one after the other."""
        if self._ahead:
            return
        begin, end = blocks.after(stop - 1)
        first = blocks.first_of(stop - 1)
        follows = not first or self.file.has(first - 1, first)
        if self.file.complete or (follows and begin < end):
            self._ahead = True
            self._nursery.start_soon(self._bring_ahead, blocks, begin, end)

    async def _bring_ahead(self, blocks: Blocks, first: int, stop: int) -> None:
        try:
            if first < stop:
                await blocks.bring(first, stop)
            if self.file.complete:
                await self.passing.judge(self.file)  # each block was checked by itself
        except NebfsError as exc:
            log.debug("decoded.ahead_failed", error=str(exc))  # whoever needs it is told
        except BaseException as exc:  # and meets the same bug, at the cost of his read alone
            pass_on(exc)
            log.exception("decoded.ahead_bug")
        finally:
            self._ahead = False
            self._on_end()

    # --- as a whole -------------------------------------------------------------------------

    async def measure(self, patience: float) -> int:
        """Have all of it decoded, waiting for that for so many seconds; return how long it is.

        Raises Unready when they are over: the pass goes on. Raises what it ends with.
        """
        passing = self.passing
        await self.kept.look_again()
        with trio.move_on_after(patience):
            while passing.size is None:
                self._check()
                file = self.file
                passing.wanted_whole = True
                passing.start()
                await passing.ended.wait()
                self._check()
                # Where it has left its disk meanwhile it goes on in memory.
                if passing.error is not None and file is self.file:
                    raise copy.copy(passing.error) from passing.error
        if passing.size is None:
            done = math.floor(passing.progress * 100)
            raise Unready(
                f"it is being decompressed to find its length, {done} % is done: try again later"
            )
        return passing.size

    async def complete(self) -> None:
        """Return when all of it is decoded, proven and here, for somebody who asked for that.

        Raises as ``read``, and CacheFault when the cache has no room for all of it.
        """
        passing = self.passing
        await self.kept.look_again()
        for _ in range(ATTEMPTS):
            if self.file.complete and passing.whole:
                return
            self._check()
            passing.wanted_whole = True
            passing.start()
            try:
                await self._end_of_pass()
            except trio.Cancelled:
                passing.wanted_whole = False
                raise
        if not self.file.complete:
            raise CacheFault("what is decompressed leaves the cache again: there is no room for it")

    async def _end_of_pass(self) -> None:
        passing, ended = self.passing, self.passing.ended
        while not ended.is_set():
            moved = passing.moved
            with trio.move_on_after(self._patience):
                await ended.wait()
            # One that waits for its turn may do so for as long as others take.
            if not ended.is_set() and passing.moved == moved and passing.has_turn:
                raise TimedOut("decompressing the image does not get on", after=self._patience)
        self._check()
        if passing.error is not None:
            raise copy.copy(passing.error) from passing.error

    async def aclose(self) -> None:
        """Give the cache file back."""
        if self._blocks is not None:
            await self._blocks.aclose()
        if self._stream is not None:
            await self._streams.close(self._stream)
        await self.kept.aclose()


def reading(reader: Reader) -> Callable[[int, int], Awaitable[bytes]]:
    """Return what reads ranges of a file for ``read_index``."""

    async def read(offset: int, length: int) -> bytes:
        return bytes(await reader.pread(offset, length)) if length else b""

    return read
