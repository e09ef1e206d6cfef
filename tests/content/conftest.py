"""A scripted fetcher: a place that holds bytes, and does what a test tells it to."""

from __future__ import annotations

import os
import random
import types
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing
from xxhash import xxh3_64_intdigest

from nebfs.blocks import DiskStore, MemoryStore
from nebfs.content import Library, LibrarySettings
from nebfs.errors import CacheFault, Changed, NebfsError
from nebfs.fetcher.messages import Fetcher
from nebfs.model import Checksum, Content, Filled, Locator, Revision


@dataclass
class Place(Fetcher):
    """Implements the two functions of the fetcher over `data`.

    `script` holds what the next fetches do: an exception to raise, a number of slots after which to
    raise Unreachable, or an Event to wait for. `latency` is in (virtual) seconds.
    """

    data: bytes = b""
    etag: str = '"1"'
    ranges: bool = True
    latency: float = 0.0
    per_slot: float = 0.0
    script: list = field(default_factory=list)
    log: list = field(default_factory=list)
    running: int = 0
    most: int = 0
    corrupt: bool = False
    disk_full: bool = False
    """Writing to a file on a disk fails, writing to memory does not."""

    @property
    def revision(self):
        return Revision(len(self.data), self.etag, "", self.ranges)

    @property
    def fetched(self):
        return sum(stop - start for request in self.log for start, stop in request.ranges)

    async def fetch(self, request, fd, progress, early=None):
        self.log.append(request)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            return await self._fetch(request, fd, progress)
        finally:
            self.running -= 1

    async def _fetch(self, request, fd, progress):
        await trio.sleep(self.latency)
        step = self.script.pop(0) if self.script else None
        if isinstance(step, NebfsError):
            raise step
        if self.disk_full and not os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:"):
            raise CacheFault("No space left on device")
        if isinstance(step, Exception):
            raise step
        if isinstance(step, trio.Event):
            await step.wait()
        if request.expected is not None:
            difference = request.expected.differs_from(self.revision)
            if difference:
                raise Changed("another version", what=difference)
        brought = 0
        for start, stop in request.ranges:
            for at in range(start, min(stop, len(self.data)), request.slot_size):
                if isinstance(step, int) and brought == step:
                    from nebfs.errors import Unreachable

                    raise Unreachable("the body broke off")
                await trio.sleep(self.per_slot)
                part = self.data[at : min(at + request.slot_size, stop)]
                if self.corrupt:
                    part = part[:-1] + bytes([part[-1] ^ 1])
                zero = part.count(0) == len(part)
                if not zero:
                    os.pwrite(fd, part, at)
                slot = at // request.slot_size
                digest = xxh3_64_intdigest(part, seed=(request.seed + slot) % 2**64)
                progress([Filled(slot, len(part), digest, zero)])
                brought += 1
        return self.revision

    async def call(self, request):
        raise AssertionError("not asked for here")


@pytest.fixture
def place():
    return Place(random.Random(7).randbytes(3 * 1024 * 1024 + 12345))


@pytest.fixture
async def store(tmp_path):
    store = DiskStore.prepare(tmp_path / "cache", 1 << 30, 0)
    await store.measure()
    yield store
    store.unlock()


class Shop:
    """A library with its surroundings, and what it reported."""

    def __init__(self, place, store, nursery, **settings):
        self.place = place
        self.store = store
        self.memory = MemoryStore(16 << 20)
        self.changed = []
        self.damaged = []
        self.library = Library(
            place,
            store,
            self.memory,
            nursery,
            LibrarySettings(**settings),
            on_changed=self.changed.append,
            on_damaged=self.damaged.append,
        )

    async def open(self, *checksums: Checksum, url="http://host/image"):
        content = Content(Locator("http", url), checksums=checksums)
        return await self.library.open(content, self.place.revision)


@pytest.fixture
def shop(place, store, nursery):
    def shop(**settings):
        return Shop(place, store, nursery, **settings)

    return shop


@pytest.fixture
def kinds():
    """The classes of this module, for tests that make their own: it cannot be imported by name."""
    return types.SimpleNamespace(Place=Place, Shop=Shop)


@pytest.fixture
def patient_clock():
    """Jumps only when nothing happens for a while: threads are let finish."""
    return trio.testing.MockClock(autojump_threshold=0.05)
