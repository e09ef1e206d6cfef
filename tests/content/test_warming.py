"""Whole objects are brought: once, within a rate, through failures, and never for ever."""

import hashlib
import math

import pytest
import trio

from nebfs.blocks import DiskStore
from nebfs.content.filling import Budget
from nebfs.content.warming import Warming
from nebfs.errors import CacheFault, Damaged, Refused, Unreachable
from nebfs.model import Checksum, Content, Locator
from nebfs.units import MIB


def content(*checksums, url="http://host/image"):
    return Content(Locator("http", url), checksums=checksums)


def published(place):
    return Checksum("sha256", hashlib.sha256(place.data).hexdigest())


async def warm(shop, place, *checksums, **settings):
    async with shop.library.held(content(*checksums), place.revision) as held:
        wanted = {"turns": held.turns, "patience": held.patience, **settings}
        await Warming(held.cached, held.verified, **wanted).run()
        assert held.cached.file.complete
        return held


async def test_all_of_it_is_here_and_compared(shop, place):
    shop = shop()
    held = await warm(shop, place, published(place))
    assert held.verified.facts().verified == "yes"
    assert place.fetched == len(place.data)
    await warm(shop, place, published(place))
    assert place.fetched == len(place.data), "what was here was fetched again"
    assert shop.library.open_objects == 0


async def test_what_readers_have_brought_is_not_fetched_again(shop, place):
    shop = shop(read_ahead=0)
    reader = await shop.open()
    await reader.pread(MIB, 10)
    await warm(shop, place)
    assert place.fetched == len(place.data)
    assert bytes(await reader.pread(0, 1000)) == place.data[:1000]
    await reader.aclose()


async def test_a_place_without_ranges_is_read_once(shop, place):
    place.ranges = False
    await warm(shop(), place)
    assert len(place.log) == 1


async def test_broken_off_it_goes_on_from_there(shop, place, nursery):
    place.per_slot = 0.01
    shop = shop()
    with trio.move_on_after(0.1):
        await warm(shop, place)
    before = place.fetched
    place.log.clear()
    await warm(shop, place)
    assert 0 < place.fetched < len(place.data)
    assert before


async def test_a_failing_place_is_asked_again(shop, place, autojump_clock):
    place.script = [Unreachable("no"), 3, Unreachable("no")]
    await warm(shop(), place)
    assert trio.current_time() < 5


async def test_patience_ends(shop, place, autojump_clock):
    place.script = [Unreachable("no")] * 1000
    with pytest.raises(Unreachable):
        await warm(shop(patience=30), place)
    assert 30 < trio.current_time() < 40


async def test_a_refusal_ends_it(shop, place):
    place.script = [Refused("no")] * 4
    with pytest.raises(Refused):
        await warm(shop(), place)


async def test_bytes_that_are_not_as_published_fail(shop, place):
    with pytest.raises(Damaged):
        await warm(shop(), place, Checksum("sha256", "0" * 64))


async def test_the_rate_is_kept(shop, place, autojump_clock):
    began = trio.current_time()
    await warm(shop(), place, budget=Budget(MIB))
    took = trio.current_time() - began
    assert took == pytest.approx(len(place.data) / MIB, rel=0.15)
    assert not math.isinf(took)


async def test_a_cache_without_room_is_told(shop, place, tmp_path, nursery, kinds, autojump_clock):
    store = DiskStore.prepare(tmp_path / "small", MIB, 0)
    await store.measure()
    try:
        with pytest.raises(CacheFault):
            await warm(kinds.Shop(place, store, nursery), place)
        assert store.reserved == 0
        assert store.used <= MIB
    finally:
        store.unlock()
