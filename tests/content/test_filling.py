"""Idle fill: what nobody has asked for yet is brought when nobody is in the way, and then only."""

from __future__ import annotations

import hashlib
import itertools
import math
import random

import pytest
import trio

from nebfs.blocks import SLOT_SIZE, DiskStore, MemoryStore
from nebfs.content.layers.limited import Gate
from nebfs.content.layers.noticed import IDLE
from nebfs.content.stack import Priority
from nebfs.errors import Changed, Damaged, Unreachable
from nebfs.model import Checksum
from tests.content.reading import read

MIB = 1 << 20


@pytest.fixture
def large(place):
    place.data = random.Random(7).randbytes(16 * MIB + 12345)
    place.per_slot = 0.001
    return place


def starts(place):
    return [request.ranges[0][0] // SLOT_SIZE for request in place.log]


async def test_only_what_is_read_is_fetched_unless_fill_was_asked_for(shop, place, autojump_clock):
    reader = await shop().open()
    await read(reader, 0, 10)
    await trio.sleep(3600)
    assert place.fetched == SLOT_SIZE
    await reader.aclose()


async def test_an_image_that_was_read_is_complete_after_a_while(shop, large, autojump_clock):
    reader = await shop(fill=math.inf).open()
    await read(reader, 5 * MIB, 10)
    await trio.sleep(IDLE - 0.1)
    assert large.fetched == SLOT_SIZE
    await trio.sleep(3)
    assert reader.facts().cached == len(large.data)
    assert large.fetched == len(large.data)  # each byte once
    assert large.most == 1
    large.log.clear()
    assert await read(reader, 0, len(large.data)) == large.data
    assert large.log == []
    await reader.aclose()


async def test_it_goes_on_behind_the_last_read_and_ends_at_the_beginning(
    shop, large, autojump_clock
):
    reader = await shop(fill=math.inf).open()
    await read(reader, 5 * MIB, 10)
    await trio.sleep(10)
    slots = starts(large)[1:]
    turn = slots.index(0)
    assert slots[:turn] == sorted(slots[:turn])
    assert slots[0] == 41
    assert slots[turn - 1] > 100
    assert slots[turn:-1] == sorted(slots[turn:-1])
    assert slots[-1] == 128  # what is missing last comes last: see Filling
    assert max(stop - start for r in large.log for start, stop in r.ranges) <= MIB
    assert slots[-2] < 40
    await reader.aclose()


async def test_an_image_that_is_merely_open_is_left_alone(shop, place, autojump_clock):
    reader = await shop(fill=math.inf).open()
    await trio.sleep(3600)
    assert place.log == []
    await reader.aclose()


async def test_a_place_that_gives_all_or_nothing_is_left_alone(shop, place, autojump_clock):
    place.ranges = False
    place.script = [1]
    reader = await shop(fill=math.inf, patience=0.01).open()
    with pytest.raises(Unreachable):
        await read(reader, 2 * MIB, 10)
    await trio.sleep(3600)
    assert len(place.log) == 1
    await reader.aclose()


@pytest.mark.parametrize("turns", [1, 4])
async def test_a_read_waits_for_what_is_under_way_at_most(shop, large, turns, autojump_clock):
    s = shop(fill=math.inf, turns=turns)
    large.data = random.Random(7).randbytes(64 * MIB)
    large.latency = 0.02
    filled = await s.open(url="http://host/filled")
    await read(filled, 0, 10)
    own, interrupted = large.latency + large.per_slot, 0
    await trio.sleep(IDLE)
    for number in range(40):
        await trio.sleep(0.1 + 0.003 * number)
        interrupted += large.running
        reader = await s.open(url=f"http://host/{number}")
        before = trio.current_time()
        await read(reader, MIB, 4096)
        took = trio.current_time() - before
        # With one turn there is one request at a time; and an order is for what comes in 20 ms.
        assert took <= own + (0 if turns > 1 else large.latency + 0.02) + 1e-9
        await reader.aclose()
        asked = len(large.log)
        await trio.sleep(IDLE - 0.001)
        assert len(large.log) == asked  # nothing more is ordered for a while
    assert interrupted > 10
    assert filled.facts().cached > 20 * SLOT_SIZE
    await filled.aclose()


async def test_a_read_of_what_is_just_being_filled_waits_for_that(shop, large, autojump_clock):
    reader = await shop(fill=math.inf).open()
    large.latency = 1.0
    await read(reader, 0, 10)
    await trio.sleep(IDLE + 0.5)
    assert large.running == 1
    assert await read(reader, SLOT_SIZE, 10) == large.data[SLOT_SIZE : SLOT_SIZE + 10]
    assert len(large.log) == 2
    await reader.aclose()


async def test_a_read_whose_slots_a_failing_fill_had_claimed_asks_for_them_itself(
    shop, large, autojump_clock
):
    reader = await shop(fill=math.inf).open()
    await read(reader, 0, 10)
    large.latency = 1.0
    large.script = [Unreachable("gone for a moment")]
    await trio.sleep(IDLE + 0.5)
    assert await read(reader, SLOT_SIZE, 10) == large.data[SLOT_SIZE : SLOT_SIZE + 10]
    assert len(large.log) == 3
    await reader.aclose()


async def test_it_goes_on_after_a_read_has_interrupted_it(shop, large, autojump_clock):
    reader = await shop(fill=math.inf).open()
    await read(reader, 0, 10)
    large.latency = 0.02
    await trio.sleep(IDLE + 0.1)
    assert 1 < len(large.log) < 8
    await read(reader, 12 * MIB, 10)
    here = len(large.log)
    await trio.sleep(IDLE + 0.03)
    assert starts(large)[here] in range(12 * 8 + 1, 13 * 8 + 1)
    await trio.sleep(10)
    assert reader.facts().cached == len(large.data)
    await reader.aclose()


async def test_a_warm_read_is_a_read(shop, large, autojump_clock):
    s = shop()
    reader = await s.open()
    await read(reader, 3 * MIB, 10)
    await reader.aclose()
    large.log.clear()
    reader = await shop(fill=math.inf).open()
    assert reader.warm(3 * MIB, 10) is not None
    await trio.sleep(3600)
    assert starts(large)[0] == 25
    assert reader.facts().cached == len(large.data)
    await reader.aclose()


async def test_a_rate_is_kept(shop, large, autojump_clock):
    s = shop(fill=1.0 * MIB)
    # Two places share it.
    readers = [await s.open(url=f"http://host{n}/image") for n in range(2)]
    for reader in readers:
        await read(reader, 0, 10)
    await trio.sleep(IDLE)
    before = large.fetched
    for _ in range(10):
        await trio.sleep(1)
    assert 8 * MIB <= large.fetched - before <= 11 * MIB
    for reader in readers:
        await reader.aclose()


async def test_images_of_one_place_are_filled_one_order_at_a_time(shop, large, autojump_clock):
    s = shop(fill=math.inf)
    readers = [await s.open(url=f"http://host/{n}") for n in range(3)]
    for reader in readers:
        await read(reader, 0, 10)
    large.latency = 0.05
    await trio.sleep(60)
    assert large.most == 1
    for reader in readers:
        assert reader.facts().cached == len(large.data)
        await reader.aclose()


async def test_orders_over_a_slow_place_are_small(shop, large, autojump_clock):
    large.per_slot = 1.0
    reader = await shop(fill=math.inf).open()
    await read(reader, 0, 10)
    await trio.sleep(60)
    assert large.fetched > 20 * SLOT_SIZE
    assert max(stop - start for r in large.log for start, stop in r.ranges) <= 2 * SLOT_SIZE
    await reader.aclose()


async def test_nothing_is_pushed_out(large, tmp_path, nursery, kinds, autojump_clock):
    store = DiskStore.prepare(tmp_path / "small", 20 * MIB, 0)
    await store.measure()
    s = kinds.Shop(large, store, nursery, fill=math.inf, read_ahead=0)
    other = await s.open(url="http://host/other")
    for at in range(0, 8 * MIB, MIB):
        await read(other, at, MIB)
    await other.aclose()
    reader = await s.open()
    await read(reader, 0, 10)
    await trio.sleep(3600)
    assert 17 * MIB < store.used <= 18 * MIB  # a tenth is left for reads
    assert store.evicted == 0
    large.log.clear()
    other = await s.open(url="http://host/other")
    assert await read(other, 0, 8 * MIB) == large.data[: 8 * MIB]
    assert large.log == []
    await reader.aclose()
    await other.aclose()
    store.unlock()


async def test_what_was_filled_and_never_read_leaves_first(
    large, tmp_path, nursery, kinds, autojump_clock
):
    store = DiskStore.prepare(tmp_path / "small", 24 * MIB, 0)
    await store.measure()
    s = kinds.Shop(large, store, nursery, fill=math.inf, read_ahead=0)
    wanted = await s.open(url="http://host/wanted")
    reader = await s.open(url="http://host/filled")
    for at in range(0, 8 * MIB, MIB):
        await read(wanted, at, MIB)
    await read(reader, 0, 10)
    await trio.sleep(3600)  # what was read is old by now
    assert store.used > 20 * MIB
    for at in range(0, 4 * MIB, MIB):
        await read(reader, 12 * MIB + at, MIB)
        await read(wanted, 8 * MIB + at, MIB)
    assert store.evicted > 0
    large.log.clear()
    assert await read(wanted, 0, 8 * MIB) == large.data[: 8 * MIB]
    assert large.log == []
    await reader.aclose()
    await wanted.aclose()
    store.unlock()


async def test_memory_is_for_reads(large, nursery, kinds, autojump_clock):
    reader = await kinds.Shop(large, MemoryStore(64 * MIB), nursery, fill=math.inf).open()
    await read(reader, 0, 10)
    await trio.sleep(3600)
    assert large.fetched == SLOT_SIZE
    await reader.aclose()


async def test_a_cache_disk_that_refuses_is_not_tried_all_the_time(shop, large, autojump_clock):
    s = shop(fill=math.inf)
    reader = await s.open()
    await read(reader, 0, 10)
    large.disk_full = True
    await trio.sleep(600)
    assert len(large.log) < 10
    assert reader.facts().where == "disk"
    assert s.store.reserved == 0
    await reader.aclose()


async def test_closing_ends_it(shop, large, autojump_clock):
    s = shop(fill=math.inf)
    reader = await s.open()
    large.latency = 1.0
    await read(reader, 0, 10)
    await trio.sleep(IDLE + 0.5)
    assert large.running == 1
    await reader.aclose()
    assert large.running == 0
    assert s.store.reserved == 0
    asked = len(large.log)
    await trio.sleep(3600)
    assert len(large.log) == asked


async def test_another_version_ends_it(shop, large, autojump_clock):
    s = shop(fill=math.inf)
    reader = await s.open()
    await read(reader, 0, 10)
    large.etag = '"2"'
    await trio.sleep(3600)
    assert len(large.log) == 2
    assert len(s.changed) == 1
    with pytest.raises(Changed):
        await read(reader, MIB, 10)
    await reader.aclose()


async def test_a_place_that_fails_is_asked_ever_less_often(shop, large, autojump_clock):
    reader = await shop(fill=math.inf).open()
    await read(reader, 0, 10)
    large.script = [Unreachable("no route")] * 1000
    await trio.sleep(3600)
    assert 8 < len(large.log) < 16
    large.script.clear()
    await trio.sleep(3600)
    assert reader.facts().cached == len(large.data)
    await reader.aclose()


# --- published checksums ------------------------------------------------------------------------


def md5(data):
    return Checksum("md5", hashlib.md5(data).hexdigest())


@pytest.fixture
def hashing(monkeypatch):
    """Have 4 MiB hashed per (virtual) second, and no threads, as their time is not virtual."""
    hashed = []

    async def here(function, *args, **_):
        if getattr(function, "__name__", "") == "update":
            hashed.append(len(args[0]))
            await trio.sleep(len(args[0]) / (4 * MIB))
        return function(*args)

    monkeypatch.setattr(trio.to_thread, "run_sync", here)
    return hashed


@pytest.mark.parametrize("at", [0, 5 * MIB, 16 * MIB])
async def test_no_reader_waits_for_the_verdict_of_a_filled_image(
    shop, large, at, hashing, autojump_clock
):
    reader = await shop(fill=math.inf).open(md5(large.data))
    await read(reader, at, 10)
    waits = []
    while reader.facts().verified == "no":
        await trio.sleep(0.1)
        before = trio.current_time()
        await read(reader, at, 10)
        waits.append(trio.current_time() - before)
    assert max(waits) < 0.2
    assert sum(hashing) == len(large.data)
    assert reader.facts().cached == len(large.data)
    await reader.aclose()


async def test_a_damaged_image_is_found_and_not_filled_again(shop, large, hashing, autojump_clock):
    s = shop(fill=math.inf)
    published = md5(large.data)
    large.corrupt = True
    reader = await s.open(published)
    await read(reader, 0, 10)
    await trio.sleep(3600)
    assert large.fetched == len(large.data)
    assert len(s.damaged) == 1
    with pytest.raises(Damaged):
        await read(reader, 0, 10)
    await reader.aclose()


# --- turns --------------------------------------------------------------------------------------


async def test_what_overtakes_is_let_in_before_what_has_waited_longer(autojump_clock):
    gate = Gate(1)
    order = []

    async def take(number, overtakes):
        async with gate.turn(Priority.READ_AHEAD, overtakes=overtakes):
            order.append(number)
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for number, overtakes in enumerate((False, False, True, False, True)):
            nursery.start_soon(take, number, overtakes)
            await trio.sleep(0.1)
    assert order == [0, 4, 2, 1, 3]


async def test_what_waits_for_a_turn_is_let_in_by_its_urgency(autojump_clock):
    gate = Gate(1)
    order = []
    leave = {priority: trio.Event() for priority in Priority}

    async def hold(priority):
        async with gate.turn(priority):
            await leave[priority].wait()

    async def take(priority, number):
        async with gate.turn(priority):
            order.append((priority, number))
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold, Priority.READ_AHEAD)
        nursery.start_soon(hold, Priority.DEMAND)  # beside it: as many again for demands
        await trio.sleep(1)
        for number, priority in itertools.product((1, 2), reversed(Priority)):
            nursery.start_soon(take, priority, number)
            await trio.sleep(0.1)
        leave[Priority.READ_AHEAD].set()
        await trio.sleep(0.1)
        leave[Priority.DEMAND].set()
    # One demand and one that nobody waits for at a time, which trio wakes in any order; what fills
    # is let in when all are gone.
    assert sorted(order[:2]) == [(Priority.DEMAND, 1), (Priority.PROFILE, 1)]
    assert sorted(order[2:4]) == [(Priority.DEMAND, 2), (Priority.PROFILE, 2)]
    assert order[4:6] == [(Priority.READ_AHEAD, 1), (Priority.READ_AHEAD, 2)]
    assert order[6:] == [(Priority.FILL, 1), (Priority.FILL, 2)]
    assert gate.holding == 0


async def test_read_ahead_does_not_wait_for_demands(autojump_clock):
    gate = Gate(1)
    demands = 0

    async def demand():
        nonlocal demands
        while True:  # a reader who always waits for the next piece
            async with gate.turn(Priority.DEMAND):
                await trio.sleep(1)
                demands += 1

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(demand)
        await trio.sleep(10.5)
        with trio.fail_after(0.1):
            async with gate.turn(Priority.READ_AHEAD):
                assert demands == 20
        nursery.cancel_scope.cancel()
    assert gate.holding == 0
