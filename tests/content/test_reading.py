"""Reads through the whole stack, over a scripted place: right bytes or an error."""

from __future__ import annotations

import hashlib
import itertools
import os
import random

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nebfs.blocks import SLOT_SIZE, MemoryStore
from nebfs.errors import (
    BadAnswer,
    Changed,
    Damaged,
    FetcherDied,
    Missing,
    NebfsError,
    Unreachable,
)
from nebfs.model import Checksum
from tests.content.reading import read

MIB = 1 << 20


async def test_random_reads_are_right_and_only_what_is_needed_is_fetched(shop, place):
    reader = await shop().open()
    rng = random.Random(1)
    for _ in range(40):
        offset = rng.randrange(len(place.data))
        length = rng.randint(1, min(200_000, len(place.data) - offset))
        assert await read(reader, offset, length) == place.data[offset : offset + length]
    assert place.fetched <= len(place.data)  # nothing was asked for twice
    await reader.aclose()


async def test_one_small_read_fetches_at_most_the_minimum(shop, place):
    reader = await shop().open()
    await read(reader, 2 * MIB + 5, 10)
    assert place.fetched == 128 * 1024
    await reader.aclose()


@given(
    cuts=st.lists(st.integers(0, 3 * MIB + 12344), min_size=2, max_size=30),
    failures=st.lists(st.sampled_from([None, None, 0, 1, 3]), max_size=8),
)
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_reads_in_parallel_over_a_place_that_breaks_off(
    tmp_path_factory, kinds, cuts, failures
):
    """Property: whatever is read at once, in any order, with bodies breaking off, is right."""
    from nebfs.blocks import DiskStore

    data = random.Random(7).randbytes(3 * MIB + 12345)

    async def main():
        place = kinds.Place(data, script=list(failures), per_slot=0.001)
        store = DiskStore.prepare(tmp_path_factory.mktemp("c"), 1 << 30, 0)
        await store.measure()
        try:
            async with trio.open_nursery() as nursery:
                shop = kinds.Shop(place, store, nursery)
                reader = await shop.open()

                async def one(offset, stop):
                    got = await read(reader, offset, stop - offset)
                    assert got == data[offset:stop]

                async with trio.open_nursery() as readers:
                    for first, second in itertools.pairwise(cuts):
                        low, high = min(first, second), max(first, second) + 1
                        readers.start_soon(one, low, high)
                await reader.aclose()
                nursery.cancel_scope.cancel()
        finally:
            store.unlock()
        assert store.reserved == 0

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.01))


async def test_many_readers_of_the_same_blocks_fetch_them_once(shop, place, autojump_clock):
    place.latency = 1.0
    reader = await shop().open()
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(read, reader, 100, 1000)
    assert len(place.log) == 1
    await reader.aclose()


async def test_a_temporary_failure_is_retried_for_the_rest_only(shop, place, autojump_clock):
    place.script = [1, Unreachable("connection refused")]
    reader = await shop().open()
    assert await read(reader, 0, 3 * SLOT_SIZE) == place.data[: 3 * SLOT_SIZE]
    assert [r.ranges for r in place.log] == [
        ((0, 3 * SLOT_SIZE),),
        ((SLOT_SIZE, 3 * SLOT_SIZE),),
        ((SLOT_SIZE, 3 * SLOT_SIZE),),
    ]
    await reader.aclose()


async def test_a_place_that_stays_away_is_an_error_within_the_patience(shop, place, autojump_clock):
    place.script = [Unreachable("no route")] * 1000
    reader = await shop(patience=30.0).open()
    before = trio.current_time()
    with pytest.raises(Unreachable, match="no route"):
        await read(reader, 0, 10)
    assert trio.current_time() - before < 40
    place.script.clear()
    assert await read(reader, 0, 10) == place.data[:10]  # and nothing of it sticks
    await reader.aclose()


async def test_what_the_place_asks_to_wait_is_waited(shop, place, autojump_clock):
    place.script = [Unreachable("busy", retry_after=17.0)]
    reader = await shop().open()
    before = trio.current_time()
    await read(reader, 0, 10)
    assert 17 <= trio.current_time() - before < 18
    await reader.aclose()


@pytest.mark.parametrize("failure", [Missing("gone"), FetcherDied("died twice")])
async def test_what_trying_again_cannot_mend_fails_at_once(shop, place, failure):
    place.script = [failure]
    reader = await shop().open()
    with pytest.raises(type(failure)):
        await read(reader, 0, 10)
    assert len(place.log) == 1
    await reader.aclose()


async def test_a_bug_in_a_layer_costs_the_read_and_not_the_mount(shop, place):
    place.script = [ZeroDivisionError("a bug")]
    reader = await shop().open()
    with pytest.raises(NebfsError, match="an error in nebfs"):
        await read(reader, 0, 10)
    assert await read(reader, 0, 10) == place.data[:10]
    await reader.aclose()


async def test_another_version_is_stale_for_good_and_reported_once(shop, place):
    s = shop()
    reader = await s.open()
    first = await read(reader, 0, 10)
    old, place.etag = place.etag, '"2"'
    for _ in range(3):
        with pytest.raises(Changed):
            await read(reader, MIB, 10)
    place.etag = old  # undone: but who knows what was between
    with pytest.raises(Changed):
        await read(reader, MIB, 10)
    assert len(s.changed) == 1
    assert await read(reader, 0, 10) == first  # what is here is still that version
    await reader.aclose()


async def test_versions_never_share_blocks(shop, place):
    s = shop()
    reader = await s.open()
    await read(reader, 0, 10)
    place.data, place.etag = place.data[::-1], '"2"'
    fresh = await s.open()
    assert await read(fresh, 0, 10) == place.data[:10]
    await reader.aclose()
    await fresh.aclose()


async def test_blocks_survive_a_restart(shop, place):
    reader = await shop().open()
    await read(reader, 0, len(place.data))
    await reader.aclose()
    place.log.clear()
    reader = await shop().open()
    assert await read(reader, 0, len(place.data)) == place.data
    assert place.log == []
    await reader.aclose()


async def test_a_place_without_ranges_is_read_in_one_pass(shop, place):
    place.ranges = False
    reader = await shop().open()
    assert await read(reader, 2 * MIB, 10) == place.data[2 * MIB : 2 * MIB + 10]
    assert await read(reader, 0, len(place.data)) == place.data
    assert len(place.log) == 1
    await reader.aclose()


async def test_reading_follows_a_sequence_and_not_a_jump(shop, place):
    place.data = bytes(range(256)) * (32 * MIB // 256)
    reader = await shop(turns=4).open()
    await read(reader, 16 * MIB, MIB)
    await read(reader, 17 * MIB, MIB)
    await trio.testing.wait_all_tasks_blocked()
    assert place.fetched <= 3 * MIB  # a look at the middle, and as the kernel reads 1 MiB of it
    for at in range(18, 22):
        await read(reader, at * MIB, MIB)
        await trio.testing.wait_all_tasks_blocked()
    assert place.fetched >= 8 * MIB  # a stream
    await reader.aclose()


async def test_a_demand_overtakes_read_ahead(shop, place, autojump_clock):
    place.data = bytes(range(256)) * (64 * MIB // 256)
    place.latency = 10.0
    reader = await shop(turns=2).open()
    for at in range(4):
        await read(reader, at * MIB, MIB)
    await trio.testing.wait_all_tasks_blocked()
    before = trio.current_time()
    await read(reader, 60 * MIB, 4096)
    assert trio.current_time() - before <= 10.0  # its own latency, and no queue
    await reader.aclose()


async def test_at_most_so_many_requests_at_one_place(shop, place, autojump_clock):
    place.latency = 1.0
    s = shop(turns=3)
    readers = [await s.open(url=f"http://host/{n}") for n in range(10)]
    async with trio.open_nursery() as nursery:
        for reader in readers:
            nursery.start_soon(read, reader, 0, 10)
    assert place.most == 6  # so many again, as somebody waits for each of them
    for reader in readers:
        await reader.aclose()


async def test_a_reader_who_goes_away_leaves_others_their_blocks(shop, place, autojump_clock):
    place.latency = 5.0
    reader = await shop().open()
    async with trio.open_nursery() as nursery:

        async def impatient():
            with trio.move_on_after(1):
                await read(reader, 0, 10)

        async def patient():
            await trio.sleep(0.5)
            assert await read(reader, 0, 10) == place.data[:10]

        nursery.start_soon(impatient)
        nursery.start_soon(patient)
    assert len(place.log) == 1
    await reader.aclose()


# --- the cache can only make things faster ------------------------------------------------------


async def test_a_cache_disk_that_refuses_is_bypassed(shop, place):
    s = shop()
    place.disk_full = True
    reader = await s.open()
    assert await read(reader, 0, len(place.data)) == place.data
    assert reader.facts().where == "memory"
    assert s.store.statistics().faults == 1
    await reader.aclose()
    assert s.memory.used == 0


async def test_a_cache_smaller_than_an_image_still_reads_all_of_it(place, tmp_path, nursery, kinds):
    from nebfs.blocks import DiskStore

    store = DiskStore.prepare(tmp_path / "small", 8 * MIB, 0)
    await store.measure()
    place.data = random.Random(3).randbytes(40 * MIB)
    reader = await kinds.Shop(place, store, nursery).open()
    for at in range(0, 40 * MIB, MIB):
        assert await read(reader, at, MIB) == place.data[at : at + MIB]
        assert store.used <= 8 * MIB
    assert reader.facts().where == "disk"
    await reader.aclose()
    store.unlock()


async def test_memory_alone_still_reads_an_image_larger_than_it(place, nursery, kinds):
    store = MemoryStore(8 * MIB)
    place.data = random.Random(3).randbytes(30 * MIB)
    reader = await kinds.Shop(place, store, nursery).open()
    for at in range(0, 30 * MIB, MIB):
        assert await read(reader, at, MIB) == place.data[at : at + MIB]
        assert store.used <= 8 * MIB
    await reader.aclose()


async def test_a_block_that_leaves_before_its_neighbour_comes_is_brought_again(
    shop, place, patient_clock
):
    place.per_slot = 1.0
    reader = await shop().open()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def evict():
            await trio.sleep(1.5)
            await reader._cached.file.drop(0, 1)

        with trio.fail_after(30):
            assert await read(reader, 0, 2 * SLOT_SIZE) == place.data[: 2 * SLOT_SIZE]
    assert sum(start == 0 for request in place.log for start, _ in request.ranges) == 2
    await reader.aclose()


async def test_a_flipped_bit_in_the_cache_is_fetched_again(shop, place):
    s = shop()
    reader = await s.open()
    await read(reader, 0, MIB)
    await reader.aclose()
    data_file = next((s.store.directory / "objects").rglob("*.dat"))
    with data_file.open("r+b") as file:
        file.seek(300_000)
        file.write(b"\0\0\0\0\0\0\0\0")
    reader = await s.open()
    assert await read(reader, 0, MIB) == place.data[:MIB]
    assert reader.facts().corrupt_blocks == 1
    await reader.aclose()


async def test_a_truncated_data_file_is_fetched_again(shop, place):
    s = shop()
    reader = await s.open()
    await read(reader, 0, MIB)
    await trio.testing.wait_all_tasks_blocked()  # what is written later would make the file longer
    data_file = next((s.store.directory / "objects").rglob("*.dat"))
    os.truncate(data_file, 1000)
    assert await read(reader, 0, MIB) == place.data[:MIB]
    await reader.aclose()


# --- published checksums ------------------------------------------------------------------------


def sums(data):
    return (
        Checksum("md5", hashlib.md5(data).hexdigest()),
        Checksum("sha256", hashlib.sha256(data).hexdigest()),
    )


async def test_a_whole_object_is_verified(shop, place):
    s = shop()
    reader = await s.open(*sums(place.data))
    await read(reader, 0, 10)
    assert reader.facts().verified == "no"
    assert await read(reader, 0, len(place.data)) == place.data
    assert reader.facts().verified == "yes"
    assert reader.warm(0, 10) is not None
    await reader.aclose()
    place.log.clear()
    reader = await s.open(*sums(place.data))
    assert reader.facts().verified == "yes"  # remembered
    await reader.aclose()


async def test_the_read_that_completes_a_damaged_object_fails(shop, place):
    s = shop()
    published = sums(place.data)
    place.corrupt = True
    reader = await s.open(*published)
    with pytest.raises(Damaged, match="published sha256"):
        for at in range(0, len(place.data), MIB):
            await read(reader, at, min(MIB, len(place.data) - at))
    assert reader.facts().verified == "mismatch"
    assert len(s.damaged) == 1
    for at in (0, MIB):
        assert reader.warm(at, 10) is None
        with pytest.raises(Damaged):
            await reader.pread(at, 10)
    await reader.aclose()


async def test_a_damaged_object_stays_in_quarantine_over_a_restart(shop, place):
    published = sums(place.data)
    place.corrupt = True
    reader = await shop().open(*published)
    with pytest.raises(Damaged):
        await read(reader, 0, len(place.data))
    await reader.aclose()
    place.log.clear()
    reader = await shop().open(*published)
    with pytest.raises(Damaged):
        await read(reader, 0, 10)
    assert place.log == []
    await reader.aclose()


async def test_quarantine_ends_and_the_object_is_fetched_afresh(shop, place, monkeypatch):
    published = sums(place.data)
    place.corrupt = True
    reader = await shop().open(*published)
    with pytest.raises(Damaged):
        await read(reader, 0, len(place.data))
    await reader.aclose()
    place.corrupt = False
    monkeypatch.setattr("nebfs.content.layers.verified.QUARANTINE", 0.0)
    reader = await shop().open(*published)
    assert await read(reader, 0, len(place.data)) == place.data
    assert reader.facts().verified == "yes"
    await reader.aclose()


async def test_rot_in_the_cache_is_not_taken_for_a_mismatch(shop, place):
    s = shop()
    reader = await s.open()
    await read(reader, 0, len(place.data))
    await reader.aclose()
    published = sums(place.data)
    reader = await s.open(*published)  # other facts about the same bytes: another object
    half = len(place.data) // 2
    await read(reader, 0, half)
    await reader.aclose()
    for data_file in (s.store.directory / "objects").rglob("*.dat"):
        with data_file.open("r+b") as file:
            file.seek(200_000)
            file.write(b"rot")
    reader = await s.open(*published)
    assert await read(reader, 0, len(place.data)) == place.data
    assert reader.facts().verified == "yes"
    await reader.aclose()


async def test_closing_ends_every_task_of_the_object(shop, place, nursery, autojump_clock):
    place.latency = 100.0
    s = shop()
    reader = await s.open(*sums(place.data))
    with trio.move_on_after(1):
        await read(reader, 0, 10)
    await reader.aclose()
    assert place.running == 0
    assert s.store.reserved == 0
    assert s.library.open_objects == 0


async def test_a_bad_answer_is_retried_then_an_error(shop, place, autojump_clock):
    place.script = [BadAnswer("wrong Content-Range")] * 500
    reader = await shop(patience=20.0).open()
    with pytest.raises(BadAnswer):
        await read(reader, 0, 10)
    assert len(place.log) > 2
    await reader.aclose()


async def test_read_ahead_does_not_drive_an_object_off_a_small_disk(
    place, tmp_path, nursery, kinds, autojump_clock
):
    from nebfs.blocks import DiskStore

    store = DiskStore.prepare(tmp_path / "small", 8 * MIB, 0)
    await store.measure()
    place.data = random.Random(3).randbytes(40 * MIB)
    place.latency = 0.5  # so that orders pile up
    readers = []
    shop = kinds.Shop(place, store, nursery)
    for number in range(3):
        readers.append(await shop.open(url=f"http://host/{number}"))

    async def stream(reader):
        for at in range(0, 20 * MIB, MIB):
            assert await read(reader, at, MIB) == place.data[at : at + MIB]

    async with trio.open_nursery() as streams:
        for reader in readers:
            streams.start_soon(stream, reader)
    assert {reader.facts().where for reader in readers} == {"disk"}
    for reader in readers:
        await reader.aclose()
    assert store.reserved == 0
    store.unlock()


async def test_orders_that_wait_while_the_disk_is_left_do_no_harm(shop, place, autojump_clock):
    place.data = random.Random(3).randbytes(16 * MIB)
    place.latency = 1.0
    s = shop(turns=2)
    reader = await s.open()
    for at in range(0, 4 * MIB, MIB):
        await read(reader, at, MIB)
    place.disk_full = True
    for at in range(4 * MIB, 16 * MIB, MIB):
        assert await read(reader, at, MIB) == place.data[at : at + MIB]
    await reader.aclose()
    assert s.store.reserved == 0
    assert s.memory.reserved == 0
