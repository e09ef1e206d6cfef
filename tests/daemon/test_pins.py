"""Pins: what is pinned stays, across restarts, and cannot fill the cache."""

import pytest
from xxhash import xxh3_64_intdigest

from nebfs.blocks import SLOT_SIZE, DiskStore, Documents, MemoryStore
from nebfs.daemon.pins import Pin, Pins, pinned_in
from nebfs.errors import Busy, CacheFault, UserError
from nebfs.model import Filled

LIMIT = 64 * SLOT_SIZE
FIRST, SECOND = "a" * 64, "b" * 64


@pytest.fixture
async def store(tmp_path):
    store = DiskStore.prepare(tmp_path / "cache", LIMIT, 0)
    await store.measure()
    yield store
    store.unlock()


@pytest.fixture
def documents(store):
    return Documents(store.directory / "documents")


def pin(key, slots, path="x"):
    return Pin(key, path, "http://host/x", slots * SLOT_SIZE)


async def fill(store, key, slots):
    """Put an object of so many blocks into the cache, and close it."""
    import os

    file = await store.open(key, slots * SLOT_SIZE)
    for slot in range(slots):
        data = bytes([slot + 1]) * SLOT_SIZE
        os.pwrite(file.fd, data, slot * SLOT_SIZE)
        digest = xxh3_64_intdigest(data, seed=(file.seed + slot) % 2**64)
        file.put([Filled(slot, SLOT_SIZE, digest, False)])
    await store.release(file)


async def test_what_is_pinned_does_not_leave_open_or_closed(store, documents):
    pins = Pins(store, documents)
    await fill(store, FIRST, 30)
    await fill(store, SECOND, 30)
    await pins.add([pin(FIRST, 30)])
    await store.reserve(20 * SLOT_SIZE)
    store.settle(20 * SLOT_SIZE)
    assert store.paths(FIRST)[0].exists()
    assert not store.paths(SECOND)[0].exists()
    file = await store.open(FIRST, 30 * SLOT_SIZE)
    with pytest.raises(CacheFault, match="no room"):
        await store.reserve(60 * SLOT_SIZE)
    assert file.complete
    await store.release(file)
    assert await pins.remove([FIRST, SECOND]) == [pin(FIRST, 30)]
    await store.reserve(60 * SLOT_SIZE)
    assert not store.paths(FIRST)[0].exists()


async def test_pins_outlive_the_daemon_and_are_seen_without_one(store, documents):
    await Pins(store, documents).add([pin(FIRST, 3)])
    assert pinned_in(store.directory) == {FIRST}
    store.pinned = frozenset()
    again = Pins(store, documents)
    await again.load()
    assert again.all == (pin(FIRST, 3),)
    assert store.pinned == {FIRST}


async def test_pins_of_more_than_nine_tenths_are_refused_and_change_nothing(store, documents):
    pins = Pins(store, documents)
    await pins.add([pin(FIRST, 40)])
    with pytest.raises(UserError, match="90 % of the cache"):
        await pins.add([pin(SECOND, 20)])
    assert store.pinned == {FIRST}
    await pins.add([pin(FIRST, 40)])
    with pytest.raises(UserError, match="no cache on a disk"):
        await Pins(MemoryStore(), Documents(None)).add([pin(FIRST, 1)])


@pytest.mark.parametrize("data", [b"", b"{}", b'[{"key": 1}]', b"[[]]", b"\xff", b'[{"odd": ""}]'])
async def test_a_document_that_is_not_understood_is_no_pins(store, documents, data):
    await documents.save("pins.json", data)
    pins = Pins(store, documents)
    await pins.load()
    assert pins.all == ()


async def test_room_and_dropping_know_of_pins(store, documents):
    await fill(store, FIRST, 30)
    free = store.room(())
    await Pins(store, documents).add([pin(FIRST, 30)])
    assert free - store.room(()) == 30 * SLOT_SIZE
    assert store.room({FIRST}) == free
    with pytest.raises(Busy, match="pinned"):
        await store.discard(FIRST)
    assert await store.discard(FIRST, force=True) >= 30 * SLOT_SIZE
