"""One cached object: what it answers, what it proves, what survives."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import trio
from xxhash import xxh3_64_intdigest

from nebfs.blocks import SLOT_SIZE, BlockFile, DiskStore, MemoryStore
from nebfs.blocks.index import HEADER_SIZE, SLOT_RECORD, Header, Verdict
from nebfs.model import Filled

KEY = "ab" * 32
SIZE = 5 * SLOT_SIZE + 1000


def content(size: int = SIZE, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture
async def store(tmp_path):
    store = DiskStore.prepare(tmp_path / "cache", 1 << 30, 0)
    await store.measure()
    yield store
    store.unlock()


def fill(file: BlockFile, data: bytes, *slots: int) -> None:
    """Do what the fetcher does: write the bytes, report their checksums."""
    filled = []
    for slot in slots:
        part = data[slot * SLOT_SIZE : (slot + 1) * SLOT_SIZE]
        zero = part.count(0) == len(part)
        if not zero:
            os.pwrite(file.fd, part, slot * SLOT_SIZE)
        digest = xxh3_64_intdigest(part, seed=(file.seed + slot) % 2**64)
        filled.append(Filled(slot, len(part), digest, zero))
    file.put(filled)


async def test_bytes_come_back_from_any_offset(store):
    data = content()
    file = await store.open(KEY, SIZE)
    fill(file, data, *range(6))
    rng = random.Random(2)
    for _ in range(300):
        offset = rng.randrange(SIZE)
        length = rng.randint(1, min(SIZE - offset, 3 * SLOT_SIZE))
        view = file.warm(offset, length)
        got = bytes(view) if view is not None else await file.read(offset, length)
        assert got == data[offset : offset + length]
    assert file.complete
    assert file.cached_bytes == SIZE
    await store.release(file)


async def test_what_is_not_here_is_never_answered(store):
    data = content()
    file = await store.open(KEY, SIZE)
    fill(file, data, 1, 3)
    assert file.warm(0, 10) is None
    assert file.warm(2 * SLOT_SIZE - 5, 10) is None
    assert await file.read(2 * SLOT_SIZE - 5, 10) is None
    assert file.missing(0, 6) == [0, 2, 4, 5]
    assert bytes(file.warm(SLOT_SIZE, 10)) == data[SLOT_SIZE : SLOT_SIZE + 10]
    await store.release(file)


async def test_what_was_read_is_known_for_it(store):
    file = await store.open(KEY, SIZE)
    fill(file, content(), 1, 3)
    assert not file.proven(0, 6)
    assert file.warm(SLOT_SIZE, 10) is not None
    assert [file.proven(slot, slot + 1) for slot in range(6)] == [slot == 1 for slot in range(6)]
    assert file.proven(0, 99)
    await store.release(file)


async def test_slots_survive_close_and_open(store):
    data = content()
    file = await store.open(KEY, SIZE, "http://example/x")
    fill(file, data, 0, 5)
    await store.release(file)
    file = await store.open(KEY, SIZE)
    assert file.missing(0, 6) == [1, 2, 3, 4]
    assert bytes(file.warm(SIZE - 10, 10)) == data[-10:]
    await store.release(file)


async def test_another_size_starts_afresh(store):
    file = await store.open(KEY, SIZE)
    fill(file, content(), 0)
    await store.release(file)
    file = await store.open(KEY, SIZE + 1)
    assert file.here == 0
    await store.release(file)


@pytest.mark.parametrize("where", ["data", "index"])
async def test_any_flipped_byte_is_a_miss_never_a_wrong_byte(store, where):
    data = bytearray(content())
    data[2 * SLOT_SIZE : 3 * SLOT_SIZE] = bytes(SLOT_SIZE)  # a slot of zeros is proven like others
    data = bytes(data)
    file = await store.open(KEY, SIZE)
    fill(file, data, 0, 1, 2, 3)  # 4 and 5 stay absent
    await store.release(file)
    path = store.paths(KEY)[where == "index"]
    rng = random.Random(3)
    size = path.stat().st_size
    if where == "data":
        places = [rng.randrange(4 * SLOT_SIZE) for _ in range(40)]
    else:
        places = [HEADER_SIZE + rng.randrange(6 * SLOT_RECORD) for _ in range(80)]
        places += [rng.randrange(HEADER_SIZE) for _ in range(20)]
    original = path.read_bytes()
    for place in places:
        damaged = bytearray(original)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        assert path.stat().st_size == size
        file = await store.open(KEY, SIZE)
        for slot in range(6):
            length = file.length(slot)
            got = await file.read(slot * SLOT_SIZE, length)
            assert got is None or got == data[slot * SLOT_SIZE : slot * SLOT_SIZE + length]
        await store.release(file)
        path.write_bytes(original)
        store.paths(KEY)[0].touch()


async def test_corrupt_block_is_counted_forgotten_and_can_come_again(store):
    data = content()
    file = await store.open(KEY, SIZE)
    fill(file, data, 0, 1)
    os.pwrite(file.fd, b"\xff\xff\xff\xff", SLOT_SIZE + 77)
    assert file.warm(SLOT_SIZE, 100) is None
    assert file.corrupt == 1
    assert file.missing(0, 2) == [1]
    fill(file, data, 1)
    assert bytes(file.warm(SLOT_SIZE, 100)) == data[SLOT_SIZE : SLOT_SIZE + 100]
    await store.release(file)
    assert store.statistics().corrupt == 1


async def test_dropping_gives_the_space_back(store):
    data = content()
    file = await store.open(KEY, SIZE)
    fill(file, data, *range(6))
    before = file.disk_bytes
    await file.drop(1, 4)
    assert file.missing(0, 6) == [1, 2, 3]
    assert os.fstat(file.fd).st_blocks * 512 <= before - 3 * SLOT_SIZE + 4096
    assert file.disk_bytes == os.fstat(file.fd).st_blocks * 512
    assert file.here == 3
    await store.release(file)


async def test_a_slot_that_is_leaving_cannot_be_claimed(store):
    file = await store.open(KEY, SIZE)
    fill(file, content(), *range(6))
    seen = []

    async def watch():
        while not seen:
            await trio.lowlevel.checkpoint()
            if not file.has(0, 6):
                seen.append([file.claimable(s) for s in range(6)])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await file.drop(0, 6)
    assert seen
    assert all(file.claimable(s) for s in range(6))
    await store.release(file)


async def test_a_short_slot_is_refused(store):
    file = await store.open(KEY, SIZE)
    with pytest.raises(ValueError, match="slot 0 came with 5 bytes"):
        file.put([Filled(0, 5, 0, zero=False)])
    await store.release(file)


async def test_verdict_is_kept(store):
    file = await store.open(KEY, SIZE)
    fill(file, content(), *range(6))
    await file.judge(Verdict.VERIFIED)
    await store.release(file)
    file = await store.open(KEY, SIZE)
    assert file.verdict[0] is Verdict.VERIFIED
    await store.release(file)


async def test_an_object_of_no_bytes(store):
    file = await store.open(KEY, 0)
    assert file.complete
    assert file.cached_bytes == 0
    await store.release(file)


async def test_memory_objects_answer_too():
    store = MemoryStore(1 << 22)
    data = content()
    file = await store.open(KEY, SIZE)
    fill(file, data, *range(6))
    assert bytes(file.warm(SLOT_SIZE - 3, 6)) == data[SLOT_SIZE - 3 : SLOT_SIZE + 3]
    await store.release(file)


def test_header_round_trip():
    header = Header(123, SLOT_SIZE, 2**64 - 1, "http://x/y", Verdict.MISMATCH, 12.5)
    assert Header.decode(header.encode()) == header
    assert Header.decode(b"") is None
    assert Header.decode(bytes(HEADER_SIZE)) is None


async def test_torn_writes_cost_only_the_torn_slots(store, tmp_path: Path):
    """After a power cut any 4 KiB page of either file may be missing: misses, never wrong bytes."""
    data = content()
    file = await store.open(KEY, SIZE)
    fill(file, data, *range(6))
    await store.release(file)
    data_path, index_path = store.paths(KEY)
    originals = data_path.read_bytes(), index_path.read_bytes()
    rng = random.Random(4)
    for _ in range(25):
        for path, original in zip((data_path, index_path), originals, strict=True):
            torn = bytearray(original)
            for page in range(0, len(torn), 4096):
                if rng.random() < 0.2:
                    end = min(page + 4096, len(torn))
                    torn[page:end] = bytes(end - page)
            path.write_bytes(torn)
        file = await store.open(KEY, SIZE)
        for slot in range(6):
            got = await file.read(slot * SLOT_SIZE, file.length(slot))
            assert got is None or got == data[slot * SLOT_SIZE :][: file.length(slot)]
        await store.release(file)


@pytest.mark.parametrize("size", [2 * SLOT_SIZE, 2 * SLOT_SIZE + 5, 9 * SLOT_SIZE, SIZE])
async def test_an_object_of_another_length_keeps_the_slots_that_are_the_same(store, size):
    data = content()
    file = await store.open(KEY, SIZE)
    fill(file, data, *range(6))
    await file.judge(Verdict.VERIFIED)
    await file.resize(size)
    assert file.size == size
    kept = {s for s in range(file.slots) if file.has(s, s + 1)}
    assert kept == {s for s in range(6) if (s + 1) * SLOT_SIZE <= min(size, SIZE) or size == SIZE}
    assert file.here == len(kept)
    assert file.verdict[0] is Verdict.UNKNOWN
    await store.release(file)
    again = await store.open(KEY, 1, any_size=True)
    assert again.size == size
    assert {s for s in range(again.slots) if again.has(s, s + 1)} == kept
    for slot in kept:
        part = data[slot * SLOT_SIZE : (slot + 1) * SLOT_SIZE]
        assert await again.read(slot * SLOT_SIZE, len(part)) == part
    if again.slots > 6:
        rest = content(size, seed=2)
        fill(again, rest, 7)
        assert bytes(again.warm(7 * SLOT_SIZE, 100)) == rest[7 * SLOT_SIZE :][:100]
    await store.release(again)


async def test_an_object_in_memory_grows_too():
    store = MemoryStore()
    file = await store.open(KEY, SLOT_SIZE)
    data = content()
    fill(file, data[:SLOT_SIZE], 0)
    await file.resize(SIZE)
    fill(file, data, *range(1, 6))
    assert await file.read(0, SIZE) == data
    await store.release(file)
