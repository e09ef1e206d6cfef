"""A cache that has room for one of two and not for both: the orders of two places, or what comes
out of a block of a compressed image and what is packed in it.
"""

from __future__ import annotations

import trio
import trio.testing

from tests.content.decoding import noise, pack
from tests.content.test_decoded import MIB, PACKED, Kept, World, read

LIMIT = 1_800_000
"""Bytes: a block of a million that does not compress takes eight slots, and again when packed."""


async def test_a_place_that_stands_still_keeps_no_reader_of_another_waiting_for_room(
    place, store, shop, monkeypatch
):
    monkeypatch.setattr("nebfs.blocks.store.PATIENCE", 0.2)
    made, goes_on = shop(read_ahead=0), trio.Event()
    place.script = [goes_on]
    stands = await made.open(url="http://stands/image")
    works = await made.open(url="http://works/image")
    store.limit = store.used + 3 * MIB // 2
    async with trio.open_nursery() as waiting:
        waiting.start_soon(read, stands, 0, MIB)
        await trio.testing.wait_all_tasks_blocked()
        assert store.reserved == MIB
        with trio.fail_after(20):
            assert await read(works, 0, MIB) == place.data[:MIB]
        assert store.reserved == MIB, "it did not stand still"
        goes_on.set()
    await works.aclose()
    await stands.aclose()
    await nothing_is_kept(store)


async def test_a_cache_too_small_for_a_block_and_what_is_packed_in_it_stops_no_read(
    place, store, nursery, monkeypatch
):
    monkeypatch.setattr("nebfs.blocks.store.PATIENCE", 0.2)
    store.limit = LIMIT
    whole = noise(2 * MIB)
    place.data = pack(whole, *PACKED["blocks.xz"])
    world = World(place, store, Kept(), nursery, read_ahead=0)
    reader = await world.open()
    with trio.fail_after(20):
        assert await read(reader, MIB, 70_000) == whole[MIB:][:70_000]
    await reader.aclose()
    await nothing_is_kept(store)


async def test_a_block_that_is_decoded_ahead_gives_its_room_back_where_there_is_none_for_both(
    place, store, nursery, monkeypatch
):
    monkeypatch.setattr("nebfs.blocks.store.PATIENCE", 0.2)
    place.data = pack(noise(2 * MIB), *PACKED["blocks.xz"])
    world = World(place, store, Kept(), nursery, read_ahead=0)
    reader = await world.open()
    await read(reader, 0, 70_000)
    store.limit = LIMIT  # as if something had been pinned since
    await reader.aclose()
    await nothing_is_kept(store)


async def nothing_is_kept(store):
    """Wait for orders that nobody waits for any more."""
    with trio.move_on_after(20):
        while store.reserved or store.open_files():  # noqa: ASYNC110 - nobody is told
            await trio.sleep(0.01)
    assert store.reserved == 0, "a reservation was not given back"
    assert store.open_files() == []
