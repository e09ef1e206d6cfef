"""Where blocks rest: the stores by themselves, one object of theirs, and the documents."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import trio

from nebfs.blocks import SLOT_SIZE, BlockFile, DiskStore, Documents
from nebfs.blocks.index import Verdict
from tests.promises.cancelling import Readers
from tests.promises.subjects import Made, Operation, subject
from tests.promises.threads import turns

SLOTS = 40
DATA = random.Random(3).randbytes(SLOTS * SLOT_SIZE - 1000)
KEY, OTHER = "1a" * 32, "2b" * 32


def fill(file: BlockFile, first: int, stop: int) -> None:
    """Put slots into a file, as an order does that has reserved them."""
    for slot in range(first, stop):
        if file.claimable(slot):
            at = slot * SLOT_SIZE
            file.put([file.record(slot, memoryview(DATA)[at : at + file.length(slot)])])


async def expect(file: BlockFile) -> None:
    """Whether what it says is here is here, and right."""
    assert not any(file.claimed)
    assert file.here == sum(file.present()), "it miscounts its slots"
    for slot in range(file.slots):
        assert file._state[slot] != 3, "a slot has been leaving for ever"  # LEAVING
        if file.has(slot, slot + 1):
            at = slot * SLOT_SIZE
            right = DATA[at : at + file.length(slot)]
            assert await file.read(at, len(right)) == right, f"slot {slot} is not what it was"
    assert file.corrupt == 0, "a slot claims bytes that it has not"


@subject
async def disk_store(home: Path) -> AsyncIterator[Made]:
    """Opening, making room, dropping and closing, with two objects of which one has to leave."""
    store = DiskStore.prepare(home / "cache", 6 << 20, 0)
    await store.measure()

    async def prepare() -> None:
        for key in (KEY, OTHER):
            await store.discard(key, force=True)
        file = await store.open(OTHER, len(DATA))
        await store.reserve(4 << 20)
        fill(file, 0, 32)
        store.settle(4 << 20)
        await store.release(file)

    async def run() -> None:
        file = await store.open(KEY, len(DATA), "somewhere")
        try:
            for first, stop in ((0, 20), (20, 40), (5, 6)):
                amount = (stop - first) * SLOT_SIZE
                await store.reserve(amount)
                try:
                    fill(file, first, stop)
                finally:
                    store.settle(amount)
                assert store.used <= store.limit
                at = first * SLOT_SIZE
                data = await file.read(at, 5000)
                assert data is None or data == DATA[at : at + 5000]
            await file.drop(2, 9)
            await file.judge(Verdict.UNKNOWN)
        finally:
            await store.release(file)
        await store.discard(KEY)
        again = await store.open(KEY, 5, any_size=True)
        await store.release(again)

    async def check() -> None:
        await trio.testing.wait_all_tasks_blocked()
        assert store.reserved == 0
        assert store.open_files() == []
        assert not store._opening.locked()
        assert not store._evicting.locked()
        await store.measure()
        taken = sum(p.stat().st_blocks * 512 for p in home.glob("cache/objects/*/*"))
        assert store.used <= store.limit
        assert taken <= store.used + (64 << 10), f"{taken} bytes are taken, {store.used} counted"
        for key in (KEY, OTHER):
            file = await store.open(key, len(DATA))
            await expect(file)
            await store.release(file)

    yield Operation(run, check, prepare)
    store.unlock()


@subject
async def waiting_for_room(home: Path) -> AsyncIterator[Made]:
    """Whoever waits until others have ended their orders."""
    store = DiskStore.prepare(home / "cache", 1 << 20, 0)
    await store.measure()

    async def other() -> None:
        await store.reserve(1 << 20)
        try:
            for _ in range(5):
                await trio.lowlevel.checkpoint()
        finally:
            store.settle(1 << 20)

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            await trio.lowlevel.checkpoint()
            await store.reserve(600_000)
            store.settle(600_000)

    async def check() -> None:
        assert store.reserved == 0
        await store.reserve(1 << 20)
        store.settle(1 << 20)

    yield Operation(run, check)
    store.unlock()


@subject
async def one_object(home: Path) -> AsyncIterator[Made]:
    """It grows and shrinks, slots come and leave, somebody waits for them."""
    store = DiskStore.prepare(home / "cache", 64 << 20, 0)
    await store.measure()
    file = await store.open(KEY, len(DATA))

    async def prepare() -> None:
        await file.resize(len(DATA))
        fill(file, 0, file.slots)

    async def run() -> None:
        await file.drop(3, 7)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(file.arrival, 3, 5)
            await turns(2)  # it waits before they are put
            fill(file, 3, 5)
        assert await file.read(3 * SLOT_SIZE, 10) == DATA[3 * SLOT_SIZE : 3 * SLOT_SIZE + 10]
        await file.resize(10 * SLOT_SIZE)
        await file.judge(Verdict.VERIFIED)
        await file.resize(len(DATA))
        await file.judge(Verdict.UNKNOWN)

    async def check() -> None:
        assert file._waiting == []
        assert len(file.present()) == len(file.claimed) == file.slots == -(-file.size // SLOT_SIZE)
        await expect(file)
        # What a next life finds.
        fresh = DiskStore(home / "cache", 64 << 20, 0, os.dup(store._lock_fd))
        again = await fresh.open(KEY, 1, any_size=True)
        assert again.size in (file.size, 1)
        await expect(again)
        await fresh.release(again)
        fresh.unlock()

    yield Operation(run, check, prepare)
    await store.release(file)
    store.unlock()


@subject
async def read_from_the_disk(home: Path) -> AsyncIterator[Made]:
    """Slots leave while they are read, and come again."""
    store = DiskStore.prepare(home / "cache", 64 << 20, 0)
    await store.measure()

    class Here:
        """One use of the object."""

        def __init__(self, file: BlockFile) -> None:
            self.file = file
            self.size = file.size
            self.revision = None

        def warm(self, offset: int, length: int) -> memoryview | None:
            return self.file.warm(offset, length) if offset % 2 else None

        async def pread(self, offset: int, length: int) -> bytes:
            while True:
                first, stop = self.file.span(offset, length)
                fill(self.file, first, stop)
                data = await self.file.read(offset, length)
                if data is not None:
                    return data
                await self.file.drop(first, stop)

        async def aclose(self) -> None:
            await store.release(self.file)

    async def opened() -> Here:
        return Here(await store.open(KEY, len(DATA)))

    def idle() -> None:
        assert store.open_files() == []

    yield Readers(opened, DATA, idle)  # type: ignore[arg-type]
    store.unlock()


@subject
async def documents(home: Path) -> AsyncIterator[Made]:
    """A document is the old one or the new one, and nothing is left beside it."""
    kept = Documents(home)

    async def prepare() -> None:
        await kept.save("a", b"old")

    async def run() -> None:
        assert await kept.load("a") == b"old"
        await kept.save("a", b"new")
        assert await kept.names("") == ["a"]
        await kept.save("b", b"another")
        assert await kept.forget("b")

    async def check() -> None:
        assert await kept.load("a") in (b"old", b"new")
        assert await kept.load("b") in (None, b"another")
        assert {path.name for path in home.iterdir()} <= {"a", "b"}
        await kept.forget("b")

    yield Operation(run, check, prepare)
