"""A fetcher over bytes in memory, and a library over it: what the far subjects are made of."""

from __future__ import annotations

import os
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from xxhash import xxh3_64_intdigest

from nebfs.blocks import DiskStore, Documents, MemoryStore, Store
from nebfs.content import Library, LibrarySettings, Prober, views
from nebfs.content.profiling import Shelf
from nebfs.content.stack import Reader
from nebfs.errors import CacheFault, Changed, NebfsError, Unreachable
from nebfs.fetcher.messages import CallAnswer, CallRequest, Early, FetchRequest, Progress
from nebfs.model import Checksum, Content, Filled, Locator, Revision

MIB = 1 << 20


class Files:
    """Implements messages.Fetcher. `script` holds what the next fetches do: an error to raise, or
    after how many slots their answer breaks off.
    """

    def __init__(self, files: dict[str, bytes], *, ranges: bool = True) -> None:
        self.files = files
        self.ranges = ranges
        self.script: list[NebfsError | int] = []
        self.disk_full = False
        self.running = 0

    def revision(self, address: str) -> Revision:
        data = self.files[address]
        return Revision(len(data), f'"{zlib.crc32(data):x}"', "", self.ranges)

    async def fetch(
        self, request: FetchRequest, fd: int, progress: Progress, early: Early | None = None
    ) -> Revision:
        fd = os.dup(fd)  # as a descriptor that was sent to another process
        self.running += 1
        try:
            return await self._fetch(request, fd, progress, early)
        finally:
            self.running -= 1
            os.close(fd)

    async def _fetch(
        self, request: FetchRequest, fd: int, progress: Progress, early: Early | None
    ) -> Revision:
        await trio.lowlevel.checkpoint()
        step = self.script.pop(0) if self.script else None
        if isinstance(step, NebfsError):
            raise step
        if self.disk_full and not os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:"):
            raise CacheFault("No space left on device")
        data, revision = self.files[request.locator.address], self.revision(request.locator.address)
        if request.expected is not None and request.expected.differs_from(revision):
            raise Changed("another version")
        brought = 0
        for start, stop in request.ranges:
            for at in range(start, min(stop, len(data)), request.slot_size):
                if brought == step:
                    raise Unreachable("the body broke off")
                await trio.lowlevel.checkpoint()
                part = data[at : min(at + request.slot_size, stop)]
                wanted = request.wanted
                if wanted is not None and early is not None and at <= wanted[0] < at + len(part):
                    early(wanted[0], data[wanted[0] : wanted[1]])
                    await trio.lowlevel.checkpoint()
                progress([_written(request, fd, at, part)])
                brought += 1
        return revision

    async def call(self, request: CallRequest) -> CallAnswer:
        raise NotImplementedError


def _written(request: FetchRequest, fd: int, at: int, part: bytes) -> Filled:
    zero = not any(part)
    if not zero:
        os.pwrite(fd, part, at)
    slot = at // request.slot_size
    digest = xxh3_64_intdigest(part, seed=(request.seed + slot) % 2**64)
    return Filled(slot, len(part), digest, zero)


class Shop:
    """A library over `files`, with what stands beside it."""

    def __init__(
        self, files: Files, store: Store, documents: Documents, nursery: trio.Nursery, **settings
    ) -> None:
        self.files = files
        self.store = store
        self.memory = MemoryStore(16 * MIB)
        self.prober = Prober(files, Documents(None))
        self.library = Library(
            *(files, store, self.memory, nursery),
            LibrarySettings(**settings),
            on_changed=self.prober.forget,
            on_damaged=lambda _: None,
            known=self.prober.known,
            on_seen=self.prober.learn,
            profiles=Shelf(documents),
        )

    def content(self, address: str, *checksums: Checksum, **facts) -> Content:
        return Content(Locator("http", address), checksums=checksums, **facts)

    async def open(self, content: Content) -> Reader:
        """Open the version that is there."""
        return await self.library.open(content, self.files.revision(content.locator.address))

    async def open_disk(self, content: Content) -> Reader:
        """Open the raw view of a file, as whoever lists and opens it does."""
        for file in views.files(content):
            probed = await self.prober.ask(file)
            if probed.is_unseen:
                await self.library.look(file)
        if content.backing is None:
            await self.library.measure(content)
        return await self.library.open(content, self.prober.view(content).revision)

    def idle(self) -> None:
        """Raises when something is held though nothing is open."""
        for store in (self.store, self.memory):
            assert store.reserved == 0, f"{store.reserved} bytes are reserved in the {store.kind}"
            assert store.open_files() == [], f"a file is open in the {store.kind}"
            assert not store._opening.locked()
            assert not store._evicting.locked()
        assert self.library.open_objects == 0, "an object is open"
        assert not self.library._opening.locked()
        assert self.library.decodings._shared == {}, "a decoded object is open"
        assert self.files.running == 0, "something is being fetched"
        for place in self.library._places.values():
            assert place.gate.holding == place.row.holding == 0, "a turn is held"
            assert not any(place.gate._queues.values()), "somebody waits for a turn"
            assert place.quiet._orders == 0, "an order is counted"

    async def cold(self) -> None:
        """Forget all that is cached."""
        if isinstance(self.store, DiskStore):
            for key in list(self.store._resting):
                await self.store.discard(key, force=True)


@asynccontextmanager
async def shop(
    home: Path, files: Files, *, in_memory: bool = False, limit: int = 256 * MIB, **settings
) -> AsyncIterator[Shop]:
    """Give a library over `files` and a cache below `home`."""
    store: Store
    if in_memory:
        store = MemoryStore(limit)
    else:
        (home / "documents").mkdir(exist_ok=True)
        store = DiskStore.prepare(home / "cache", limit, 0)
        await store.measure()
    made: Shop | None = None
    try:
        async with trio.open_nursery() as nursery:
            made = Shop(files, store, Documents(home / "documents"), nursery, **settings)
            yield made
            nursery.cancel_scope.cancel()
    finally:
        # As the end of the process would.
        for one in (store, made.memory) if made is not None else (store,):
            for file in one.open_files():
                file.close()
        if isinstance(store, DiskStore):
            store.unlock()
