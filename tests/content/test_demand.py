"""What a reader waits for: early, first, and of a place far away with what is around it."""

from __future__ import annotations

import hashlib
import random

import pytest
import trio
import trio.testing

from nebfs.content.pace import PAUSE
from nebfs.errors import BadAnswer, Damaged
from nebfs.model import Checksum
from nebfs.units import KIB, MIB
from tests.content.reading import read


@pytest.fixture
def eager(kinds):
    """A place that hands over what is wanted at once, and the slots when `slots` is set."""

    class Eager(kinds.Place):
        async def fetch(self, request, fd, progress, early=None):
            if request.wanted is not None:
                start, stop = request.wanted
                early(start, self.data[start:stop])
                early(start, self.data[start:stop])  # as it may, when it is asked for twice
            await self.slots.wait()
            return await super().fetch(request, fd, progress)

    place = Eager(random.Random(3).randbytes(3 * MIB))
    place.slots = trio.Event()
    return place


async def test_a_small_read_is_answered_before_its_slot_is_here(eager, store, nursery, kinds):
    reader = await kinds.Shop(eager, store, nursery).open()
    assert await read(reader, 200_000, 4096) == eager.data[200_000:204_096]
    assert reader.facts().cached == 0
    eager.slots.set()
    await trio.testing.wait_all_tasks_blocked()
    assert reader.facts().cached == 128 * KIB
    assert await read(reader, 131_072, 128 * KIB) == eager.data[131_072:262_144]
    await reader.aclose()


async def test_a_read_beside_it_waits_for_the_slot(eager, store, nursery, kinds, autojump_clock):
    reader = await kinds.Shop(eager, store, nursery).open()
    await read(reader, 200_000, 4096)
    with trio.move_on_after(5) as waiting:
        await read(reader, 210_000, 4096)
    assert waiting.cancelled_caught
    eager.slots.set()
    assert await read(reader, 210_000, 4096) == eager.data[210_000:214_096]
    assert len(eager.log) == 1
    await reader.aclose()


def published(place):
    return Checksum("md5", hashlib.md5(place.data).hexdigest())


async def test_a_read_that_completes_the_object_waits_for_the_verdict_though_its_bytes_are_here(
    eager, store, nursery, kinds, patient_clock
):
    """What is answered before its block must not be the end of a copy that was never compared."""
    eager.data = eager.data[: 128 * KIB + 3000]
    eager.corrupt = True
    reader = await kinds.Shop(eager, store, nursery).open(published(eager))
    assert await read(reader, 0, 4096) == eager.data[:4096]  # early: the other slot is missing
    with trio.move_on_after(5) as waiting:
        await read(reader, 128 * KIB, 3000)
    assert waiting.cancelled_caught
    eager.slots.set()
    with pytest.raises(Damaged):
        await read(reader, 128 * KIB, 3000)
    await reader.aclose()


async def test_a_block_that_is_here_waits_too_when_only_promised_ones_are_missing(
    eager, store, nursery, kinds, patient_clock
):
    eager.data = eager.data[: 256 * KIB]
    eager.slots.set()
    gate = trio.Event()
    eager.script = [gate]
    reader = await kinds.Shop(eager, store, nursery).open(published(eager))
    assert await read(reader, 200_000, 4096) == eager.data[200_000:204_096]
    for _ in range(2):  # once when it comes, once when it is here
        with trio.move_on_after(5) as waiting:
            await read(reader, 0, 128 * KIB)
        assert waiting.cancelled_caught
    assert reader.facts().cached == 128 * KIB
    gate.set()
    assert await read(reader, 0, 128 * KIB) == eager.data[: 128 * KIB]
    assert reader.facts().verified == "yes"
    await reader.aclose()


async def test_a_promised_block_that_fails_to_come_is_asked_for_again(
    eager, store, nursery, kinds, patient_clock
):
    eager.data = eager.data[:3000]
    eager.script = [BadAnswer("nonsense")]
    eager.slots.set()
    reader = await kinds.Shop(eager, store, nursery).open(published(eager))
    assert await read(reader, 0, 3000) == eager.data
    assert reader.facts().verified == "yes"
    assert len(eager.log) == 2
    await reader.aclose()


async def test_a_read_of_two_slots_is_never_early(eager, store, nursery, kinds):
    reader = await kinds.Shop(eager, store, nursery).open()
    eager.slots.set()
    at = 128 * KIB - 100
    assert await read(reader, at, 200) == eager.data[at : at + 200]
    assert all(request.wanted is None for request in eager.log)
    await reader.aclose()


async def asked_around(shop, place, *reads):
    """Return what a place far away is asked for at the last of these reads: the demand, and what
    else, in order and joined.
    """
    place.data = bytes(range(256)) * (16 * MIB // 256)
    place.latency = 0.02
    reader = await shop().open()
    await read(reader, 0, 10)  # shows how far away it is
    await trio.testing.wait_all_tasks_blocked()
    for offset, length in reads:
        before = len(place.log)
        await read(reader, offset, length)
        await trio.sleep(1)
    await reader.aclose()
    demand, *others = (request.ranges for request in place.log[before:])
    joined = []
    for start, stop in sorted(span for ranges in others for span in ranges):
        touches = bool(joined) and joined[-1][1] == start
        joined.append((joined.pop()[0] if touches else start, stop))
    return demand, joined


async def test_of_a_place_far_away_half_a_mebibyte_comes_with_a_small_read(
    shop, place, autojump_clock
):
    demand, others = await asked_around(shop, place, (5 * MIB + 300 * KIB, 10))
    assert demand == ((5 * MIB + 256 * KIB, 5 * MIB + 384 * KIB),)
    assert others == [
        (5 * MIB + 128 * KIB, 5 * MIB + 256 * KIB),
        (5 * MIB + 384 * KIB, 5 * MIB + 640 * KIB),
    ]


async def test_more_comes_with_what_a_guest_reads_of_a_file(shop, place, autojump_clock):
    demand, others = await asked_around(shop, place, (5 * MIB + 128 * KIB, 16 * KIB))
    assert demand == ((5 * MIB + 128 * KIB, 5 * MIB + 256 * KIB),)
    assert others == [
        (3 * MIB + 896 * KIB, 5 * MIB + 128 * KIB),
        (5 * MIB + 256 * KIB, 6 * MIB + 640 * KIB),
    ]


async def test_what_is_here_is_not_brought_again(shop, place, autojump_clock):
    first = 5 * MIB + 128 * KIB, 16 * KIB  # as above
    _, others = await asked_around(shop, place, first, (7 * MIB, 16 * KIB))
    assert others == [(6 * MIB + 640 * KIB, 7 * MIB), (7 * MIB + 128 * KIB, 8 * MIB + 512 * KIB)]


async def test_nothing_is_asked_for_before_the_beginning(shop, place, autojump_clock):
    _, others = await asked_around(shop, place, (MIB, 16 * KIB))
    assert others == [(128 * KIB, MIB), (MIB + 128 * KIB, 2 * MIB + 512 * KIB)]


async def test_nothing_is_asked_for_beyond_the_end(shop, place, autojump_clock):
    _, others = await asked_around(shop, place, (15 * MIB + 512 * KIB, 16 * KIB))
    assert others == [
        (14 * MIB + 256 * KIB, 15 * MIB + 512 * KIB),
        (15 * MIB + 640 * KIB, 16 * MIB),
    ]


async def test_at_the_end_what_would_be_beyond_it_is_brought_from_before_it(
    shop, place, autojump_clock
):
    """Where a guest's kernel looks for one thing after the other, the last one first."""
    _, others = await asked_around(shop, place, (16 * MIB - 64 * KIB, 10))
    assert others == [(15 * MIB + 512 * KIB, 16 * MIB - 128 * KIB)]


async def test_what_reads_more_than_a_guest_gets_the_block_that_it_is_in(
    shop, place, autojump_clock
):
    demand, others = await asked_around(shop, place, (5 * MIB + 256 * KIB, 256 * KIB))
    assert demand == ((5 * MIB + 256 * KIB, 5 * MIB + 512 * KIB),)
    assert others == [(5 * MIB, 5 * MIB + 256 * KIB), (5 * MIB + 512 * KIB, 6 * MIB)]


async def test_near_a_miss_twice_as_much_comes(shop, place, autojump_clock):
    at = 5 * MIB + 640 * KIB
    _, others = await asked_around(shop, place, (5 * MIB + 300 * KIB, 10), (at, 10))
    assert others == [(at + 128 * KIB, at + 640 * KIB)]  # and before it all is here


async def test_so_it_does_near_what_came_with_a_miss_and_was_read(shop, place, autojump_clock):
    at = 5 * MIB + 640 * KIB
    reads = (5 * MIB + 100 * KIB, 10), (5 * MIB + 300 * KIB, 10)
    _, others = await asked_around(shop, place, *reads, (at, 10))
    assert others == [(at - 256 * KIB, at), (at + 128 * KIB, at + 640 * KIB)]


async def test_near_is_not_any_distance(shop, place, autojump_clock):
    at = 5 * MIB + 896 * KIB
    _, others = await asked_around(shop, place, (5 * MIB + 300 * KIB, 10), (at, 10))
    assert others == [(at - 128 * KIB, at), (at + 128 * KIB, at + 384 * KIB)]


async def test_what_comes_with_a_block_comes_one_after_the_other(
    store, nursery, kinds, autojump_clock
):
    """Side by side they would share the way, and what is wanted first be there last."""

    class Timed(kinds.Place):
        async def fetch(self, request, fd, progress, early=None):
            times[request.ranges[0][0]] = trio.current_time()
            return await super().fetch(request, fd, progress, early)

    times = {}
    place = Timed(bytes(16 * MIB), latency=0.02)
    shop = kinds.Shop(place, store, nursery, turns=12)
    reader = await shop.open()
    await read(reader, 0, 10)
    await trio.sleep(1)
    (pace,) = shop.library.paces().values()
    for at, length, own in ((5 * MIB, 10, 0), (10 * MIB, 128 * KIB, 128 * KIB)):
        times.clear()
        rate = pace.rate
        await read(reader, at, length)
        await trio.sleep(1)
        after = at + 128 * KIB
        others = 256 * KIB if length == 10 else MIB + 384 * KIB
        assert times[after] - times[at] == pytest.approx(own / rate)
        assert times[min(times)] - times[after] == pytest.approx(others / rate)
    await reader.aclose()


async def test_a_mebibyte_at_random_is_no_reason_to_bring_another(shop, place, autojump_clock):
    demand, others = await asked_around(shop, place, (5 * MIB, MIB))
    assert demand == ((5 * MIB, 5 * MIB + 256 * KIB),)
    assert others == [(5 * MIB + 256 * KIB, 6 * MIB)]


async def test_while_connections_are_narrow_several_share_what_is_asked_for(
    shop, place, autojump_clock
):
    place.data = bytes(range(256)) * (64 * MIB // 256)
    place.latency = 0.02
    reader = await shop(turns=8).open()

    async def sizes(offset, length):
        before = len(place.log)
        await read(reader, offset, length)
        await trio.testing.wait_all_tasks_blocked()
        return [stop - start for request in place.log[before:] for start, stop in request.ranges]

    await read(reader, 0, 10)  # shows how far away it is
    await trio.sleep(0.1)
    assert max(await sizes(8 * MIB, 16 * KIB)) == 256 * KIB
    for at in (16, 24, 32):  # 4 MiB in all
        await read(reader, at * MIB, MIB)
        await trio.sleep(0.1)
    assert await sizes(40 * MIB, MIB) == [MIB]
    await trio.sleep(PAUSE + 0.1)
    assert await sizes(48 * MIB, MIB) == [256 * KIB] * 4
    await reader.aclose()


async def test_what_a_reader_waits_for_leaves_before_what_is_ordered_ahead_of_it(
    shop, place, autojump_clock
):
    place.data = bytes(range(256)) * (64 * MIB // 256)
    reader = await shop(turns=8).open()
    # Many times, as trio runs the tasks of a turn in any order.
    for at in range(4 * MIB, 60 * MIB, 3 * MIB):
        place.log.clear()
        async with trio.open_nursery() as tasks:
            # As for the kernel: what is not here is read in a task of its own.
            assert reader.warm(at, MIB) is None
            tasks.start_soon(reader.pread, at, MIB)
        await trio.sleep(1)
        first, *others = (request.ranges[0][0] for request in place.log)
        assert others
        assert first == at
    await reader.aclose()


async def test_orders_leave_in_the_order_they_were_started(shop, place, autojump_clock):
    place.data = bytes(range(256)) * (32 * MIB // 256)
    place.latency = 0.0001
    reader = await shop(turns=8).open()
    await read(reader, 0, MIB)
    await trio.sleep(1)
    starts = [request.ranges[0][0] for request in place.log]
    assert len(starts) > 2
    assert starts == sorted(starts)
    await reader.aclose()


async def test_a_stream_from_far_away_is_asked_for_one_order_after_the_other(
    shop, place, autojump_clock
):
    place.data = bytes(MIB) * 64
    place.latency, place.per_slot = 0.02, 0.001
    reader = await shop().open()
    for at in range(0, 48 * MIB, MIB):
        assert await read(reader, at, MIB) == bytes(MIB)
    assert place.most <= 6  # four parts of a demand, an order of the stream and the next one
    await reader.aclose()


async def test_several_sequences_in_one_file_are_followed(shop, place):
    place.data = bytes(range(256)) * (64 * MIB // 256)
    reader = await shop().open()
    for step in range(8):
        for run in range(3):
            await read(reader, run * 20 * MIB + step * 256 * KIB, 256 * KIB)
            await trio.testing.wait_all_tasks_blocked()
    asked = place.fetched
    for run in range(3):  # each goes on in what was ordered ahead of it
        await read(reader, run * 20 * MIB + 2 * MIB, 256 * KIB)
    assert all(reader.warm(run * 20 * MIB + 2 * MIB, 256 * KIB) is not None for run in range(3))
    assert asked >= 3 * (2 * MIB + 512 * KIB)
    await reader.aclose()
