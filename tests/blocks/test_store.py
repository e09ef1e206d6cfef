"""All objects together: the limit, who leaves first, who may have the directory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import trio
from xxhash import xxh3_64_intdigest

from nebfs.blocks import SLOT_SIZE, DiskStore, Documents, MemoryStore, resting
from nebfs.blocks.diskstore import in_memory
from nebfs.blocks.index import Header
from nebfs.blocks.store import PATIENCE
from nebfs.errors import CacheFault, UserError
from nebfs.model import Filled

SIZE = 64 * SLOT_SIZE  # 8 MiB, two groups
MIB = 1 << 20


def key(number: int) -> str:
    return f"{number:064x}"


async def fill(store, file, first, stop):
    """Reserve, bring slots of other than zeros, settle: an order's life."""
    amount = (stop - first) * SLOT_SIZE
    before = store.reserved
    await store.reserve(amount)
    assert store.reserved == before + amount
    for slot in range(first, stop):
        os.pwrite(file.fd, b"x" * SLOT_SIZE, slot * SLOT_SIZE)
        file.put([Filled(slot, SLOT_SIZE, 0, zero=False)])
    store.settle(amount)
    assert store.reserved == before, "a reservation was not given back"


@pytest.fixture
async def make(tmp_path):
    stores = []

    async def make(limit, min_free=0, measured=True):
        store = DiskStore.prepare(tmp_path / "cache", limit, min_free)
        stores.append(store)
        if measured:
            await store.measure()
        return store

    yield make
    for store in stores:
        store.unlock()


async def test_the_limit_is_never_exceeded(make):
    store = await make(20 * MIB)
    files = [await store.open(key(n), SIZE) for n in range(6)]
    for file in files:
        for first in range(0, 64, 16):
            await fill(store, file, first, first + 16)
            assert store.used <= 20 * MIB
            on_disk = sum(os.fstat(f.fd).st_blocks * 512 for f in files)
            assert on_disk <= 20 * MIB
    assert store.reserved == 0
    assert store.evicted > 0
    for file in files:
        await store.release(file)


async def test_the_least_recently_used_leaves_first(make):
    store = await make(20 * MIB)
    old, kept, new = [await store.open(key(n), SIZE) for n in range(3)]
    await fill(store, old, 0, 64)
    await fill(store, kept, 0, 64)
    for number in range(2):
        old.touched[number] = 1.0
        kept.touched[number] = 2.0
    await fill(store, new, 0, 48)
    assert len(old.missing(0, 64)) >= 32
    assert kept.missing(0, 64) == []
    for file in (old, kept, new):
        await store.release(file)


async def test_closed_objects_leave_whole(make):
    store = await make(20 * MIB)
    first = await store.open(key(1), SIZE)
    await fill(store, first, 0, 64)
    await store.release(first)
    assert store.used >= SIZE
    others = [await store.open(key(n), SIZE) for n in (2, 3)]
    for file in others:
        await fill(store, file, 0, 64)
    assert not store.paths(key(1))[0].exists()
    assert not store.paths(key(1))[1].exists()
    for file in others:
        await store.release(file)


async def test_what_rests_is_found_after_a_restart_without_being_read(make):
    store = await make(100 * MIB)
    file = await store.open(key(1), SIZE)
    await fill(store, file, 0, 64)
    await store.release(file)
    store.unlock()
    again = DiskStore.prepare(store.directory, 100 * MIB, 0)
    store._lock_fd = os.dup(again._lock_fd)  # the fixture closes it
    with trio.move_on_after(0.01) as impatient:
        await again.reserve(1)  # orders wait until it is known what there is
    assert impatient.cancelled_caught
    await again.measure()
    assert SIZE <= again.used <= SIZE + MIB
    again.unlock()


async def test_a_request_larger_than_the_cache_is_a_fault(make):
    store = await make(MIB)
    with pytest.raises(CacheFault, match="smaller than one request"):
        await store.reserve(2 * MIB)
    assert store.reserved == 0


async def test_the_floor_of_free_space_is_kept(make):
    store = await make(1 << 40, min_free=1 << 60)
    with pytest.raises(CacheFault, match="no room"):
        await store.reserve(SLOT_SIZE)


async def test_a_refused_write_is_remembered_for_a_while(make):
    store = await make(100 * MIB)
    await store.reserve(SLOT_SIZE)
    store.settle(SLOT_SIZE)
    store.refused("it is full")
    with pytest.raises(CacheFault, match="a moment ago"):
        await store.reserve(SLOT_SIZE)
    assert store.statistics().faults == 1


async def test_a_directory_has_one_owner_at_a_time(make):
    store = await make(MIB)
    with pytest.raises(UserError, match=rf"in use by another nebfs \(process {os.getpid()}\)"):
        DiskStore.prepare(store.directory, MIB, 0)


async def test_a_killed_owner_leaves_no_lock(tmp_path):
    script = (
        "import sys, pathlib; from nebfs.blocks import DiskStore;"
        "DiskStore.prepare(pathlib.Path(sys.argv[1]), 1, 0); print('mine', flush=True);"
        "sys.stdin.read()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "c")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert owner.stdout.readline() == b"mine\n"
        with pytest.raises(UserError, match="in use"):
            DiskStore.prepare(tmp_path / "c", 1, 0)
    finally:
        owner.kill()
        owner.communicate()
    DiskStore.prepare(tmp_path / "c", 1, 0).unlock()


async def test_everything_is_private(make):
    store = await make(MIB)
    file = await store.open(key(1), SIZE)
    for path in (store.directory, store.directory / "objects", store.directory / "documents"):
        assert path.stat().st_mode & 0o777 == 0o700
    for path in store.paths(key(1)):
        assert path.stat().st_mode & 0o777 == 0o600
    await store.release(file)


async def test_memory_has_a_limit_too():
    store = MemoryStore(12 * MIB)
    file = await store.open(key(1), 64 * MIB)
    for first in range(0, 512, 32):
        await fill(store, file, first, first + 32)
        assert store.used <= 12 * MIB
    assert file.has(480, 512)
    await store.release(file)


async def test_documents_are_whole_or_not_there(tmp_path):
    documents = Documents(tmp_path)
    assert await documents.load("x") is None
    await documents.save("x", b"first")
    await documents.save("x", b"second")
    assert await documents.load("x") == b"second"
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600
    raw = bytearray((tmp_path / "x").read_bytes())
    raw[2] ^= 1
    (tmp_path / "x").write_bytes(raw)
    assert await documents.load("x") is None
    await Documents(tmp_path / "missing").save("x", b"")  # logged, and no failure
    await Documents(None).save("x", b"")
    assert await Documents(None).load("x") is None


async def test_an_urgent_order_waits_for_others_reservations_and_a_patient_one_does_not(
    autojump_clock,
):
    store = MemoryStore(8 * MIB)
    await store.reserve(6 * MIB)
    with pytest.raises(CacheFault, match="no room"):
        await store.reserve(4 * MIB, urgent=False)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.reserve, 4 * MIB)
        await trio.testing.wait_all_tasks_blocked()
        assert store.reserved == 6 * MIB
        store.settle(6 * MIB)
        assert store.reserved == 0, "a reservation was not given back"
    assert trio.current_time() - began < 1, "whoever waits was not woken"
    assert store.reserved == 4 * MIB


async def test_nobody_waits_for_ever_for_a_reservation_that_is_not_given_back(autojump_clock):
    store = MemoryStore(8 * MIB)
    await store.reserve(6 * MIB)
    began = trio.current_time()
    with trio.fail_after(10 * PATIENCE), pytest.raises(CacheFault, match="no room"):
        await store.reserve(4 * MIB)
    assert trio.current_time() - began == pytest.approx(PATIENCE)
    assert store.reserved == 6 * MIB


async def test_an_order_waits_as_long_as_others_go_on_to_end(autojump_clock):
    store = MemoryStore(8 * MIB)
    began = trio.current_time()

    async def other(seconds):
        await store.reserve(2 * MIB)
        await trio.sleep(seconds)
        store.settle(2 * MIB)

    with trio.fail_after(10 * PATIENCE):
        async with trio.open_nursery() as nursery:
            for number in range(1, 5):
                nursery.start_soon(other, 0.8 * PATIENCE * number)
            await trio.testing.wait_all_tasks_blocked()
            assert store.reserved == 8 * MIB
            await store.reserve(8 * MIB)
    assert trio.current_time() - began == pytest.approx(3.2 * PATIENCE)
    assert store.reserved == 8 * MIB


async def test_a_closed_file_takes_and_gives_nothing(make):
    store = await make(100 * MIB)
    file = await store.open(key(1), SIZE)
    await fill(store, file, 0, 1)
    index = file._index.fd
    await store.release(file)
    stranger = os.memfd_create("stranger")
    os.dup2(stranger, index)  # another file has the number now
    file.put([Filled(3, SLOT_SIZE, 0, zero=False)])
    assert os.fstat(stranger).st_size == 0
    assert await file.read(0, 10) is None
    assert file.warm(0, 10) is None
    os.close(stranger)
    os.close(index)


@pytest.mark.parametrize(("place", "expected"), [("/dev/shm", True), ("/proc", False)])
def test_what_never_waits_for_a_disk_is_known(place, expected):
    assert in_memory(Path(place)) is expected


async def test_a_cache_on_a_tmpfs_answers_at_once():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        store = DiskStore.prepare(Path(directory), 100 * MIB, 0)
        await store.measure()
        file = await store.open(key(1), 10)
        os.pwrite(file.fd, b"0123456789", 0)
        file.put([Filled(0, 10, xxh3_64_intdigest(b"0123456789", seed=file.seed), zero=False)])
        assert bytes(file.warm(2, 3)) == b"234"
        await store.release(file)
        store.unlock()


async def test_somebody_s_directory_is_not_taken_for_a_cache(tmp_path):
    (tmp_path / "letter").write_text("dear")
    tmp_path.chmod(0o755)
    with pytest.raises(UserError, match="neither empty nor a cache"):
        DiskStore.prepare(tmp_path, MIB, 0)
    assert os.listdir(tmp_path) == ["letter"]
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_an_index_that_claims_an_impossible_size_is_not_read(tmp_path):
    name = "ab" * 32
    directory = tmp_path / "cache"
    data, index = resting.paths(directory, name)
    index.parent.mkdir(parents=True)
    data.write_bytes(b"")
    index.write_bytes(Header(1 << 62, SLOT_SIZE, 0, "").encode())
    assert resting.look(directory, name) is None


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"source": 5}'])
def test_an_index_whose_text_is_something_else_is_no_index(text):
    whole = Header(SLOT_SIZE, SLOT_SIZE, 0, "").encode()
    assert Header.decode(whole) is not None
    # In place of what it says of its source, and as long; the digest is right.
    said = b'{"source": ""}'
    body = whole[:-8].replace(said, text.ljust(len(said)))
    digest = xxh3_64_intdigest(body).to_bytes(8, "little")
    assert Header.decode(body + digest) is None
