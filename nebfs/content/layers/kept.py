"""Where the blocks of one object are kept: on the disk, or in memory while that cannot be used.

A disk that is full, slow, broken or rots must not fail a read. What is open moves into memory then,
and what the disk holds stays there. Once the disk may be asked again, whatever is missing brings
the object back to it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog
import trio

from nebfs.blocks import BlockFile, DiskStore, MemoryStore, Store
from nebfs.errors import CacheFault, Damaged
from nebfs.fetcher.messages import SLOW

log = structlog.get_logger()

ROUNDS = 8
"""How often a read starts over because slots came and left again before it could take them."""

HARMED = 2
"""How often one read takes what the disk has harmed for a bad block, which is written anew. A disk
that does it again is left."""

Bring = Callable[[int, int], Awaitable[bytes | memoryview | None]]
"""Has the slots from the first to before the second come, or returns what is wanted of them."""


async def _as_it_is(_file: BlockFile) -> None:
    """The cache file of an object whose length is known."""


async def _nothing() -> None:
    """Nobody has to know."""


class Kept:
    """The cache file of one object, which its users find in `file`, and the `store` it is in.

    They set `fit`, which makes a file ready that was opened, and `on_move`, which is called when
    there is another one; whoever waits for the one before is woken.
    """

    def __init__(
        self,
        file: BlockFile,
        store: Store,
        memory: MemoryStore,
        *,
        left: DiskStore | None = None,
        shown: str = "",
        any_size: bool = False,
    ) -> None:
        """`left`: the disk on which it could not be opened. For the rest see ``open``."""
        self.file = file
        self.store = store
        self.fit: Callable[[BlockFile], Awaitable[None]] = _as_it_is
        self.on_move: Callable[[], Awaitable[None]] = _nothing
        self._memory = memory
        self._left = left
        """The disk that was left, until the object is there again."""
        self._shown = shown
        self._any_size = any_size

    @classmethod
    async def open(
        cls,
        store: Store,
        memory: MemoryStore,
        key: str,
        size: int,
        shown: str,
        *,
        any_size: bool = False,
    ) -> Kept:
        """Open an object in `store`, or in `memory` if its disk refuses. See Store.open."""
        left = None
        try:
            file = await store.open(key, size, shown, any_size=any_size)
        except CacheFault as exc:
            if not isinstance(store, DiskStore):
                raise
            log.warning("cache.bypassed", reason=str(exc), key=key[:12])
            left, store = store, memory
            file = await memory.open(key, size)
        return cls(file, store, memory, left=left, shown=shown, any_size=any_size)

    @property
    def home(self) -> Store:
        """The store in which the object is, or would be if its disk worked."""
        return self._left or self.store

    async def pread(self, offset: int, length: int, bring: Bring) -> bytes | memoryview:
        """Return the bytes; `bring` gets what is missing. Raises what that raises, and Damaged."""
        harmed = 0
        for _ in range(ROUNDS):
            file, file.harm = self.file, ""
            view = file.warm(offset, length)
            if view is not None:
                return view
            first, stop = file.span(offset, length)
            if file.harm:
                harmed += 1
                await self._doubt(file, harmed)
            if not file.has(first, stop):
                if self._left is not None and await self.look_again():
                    continue
                data = await bring(first, stop)
                if data is not None:
                    return data
                continue
            began = trio.current_time()
            data = await file.read(offset, length)
            took = trio.current_time() - began
            if took > SLOW:
                await self.leave(file, f"the cache disk is slow: {took:.1f} s")
            if data is not None:
                if self.store.trouble and took <= SLOW:
                    self.store.accepted()
                return data
            if file.harm:
                harmed += 1
                await self._doubt(file, harmed)
        raise Damaged("the cache keeps losing these blocks", offset=offset, length=length)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[tuple[BlockFile, Store]]:
        """Have the file and its store of now for something that ends with these, though the object
        may move meanwhile: the file stays open for the length of the block.
        """
        file, store = self.file, self.store
        file.users += 1
        try:
            yield file, store
        finally:
            await store.release(file)

    async def _doubt(self, file: BlockFile, harmed: int) -> None:
        """Leave a disk that has `harmed` what one read wants so many times."""
        if harmed >= HARMED:
            await self.leave(file, file.harm)

    async def leave(self, file: BlockFile, reason: str) -> None:
        """Go on in memory, if `file` is on a disk and has not been left already."""
        store = self.store
        if self.file is not file or not isinstance(store, DiskStore):
            return
        store.refused(reason)
        log.warning("cache.bypassed", reason=reason, key=file.key[:12])
        fresh = await self._memory.open(file.key, file.size)
        self._left = store
        await self._move(fresh, self._memory)

    async def look_again(self) -> bool:
        """Go on with what the disk that was left holds, if that may be asked again and can be
        opened. Say whether.
        """
        disk = self._left
        if disk is None or not disk.may_be_asked:
            return False
        file, self._left = self.file, None  # who else reads meanwhile does not try it, too
        fresh = None
        try:
            size, any_size = file.size, self._any_size
            fresh = await disk.open(file.key, size, self._shown, any_size=any_size)
            await self.fit(fresh)
        except BaseException as exc:
            self._left = disk
            if fresh is not None:
                await disk.release(fresh)
            if isinstance(exc, CacheFault):
                return False
            raise
        log.info("cache.used_again", key=file.key[:12])
        await self._move(fresh, disk)
        return True

    async def _move(self, fresh: BlockFile, store: Store) -> None:
        """Go on with another file. Whoever waits for the one before starts over."""
        old, former = self.file, self.store
        self.file, self.store = fresh, store
        try:
            await self.on_move()
        finally:
            old.tell()
            await former.release(old)

    async def aclose(self) -> None:
        """Give the cache file back."""
        await self.store.release(self.file)
