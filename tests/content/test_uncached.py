"""What others may write to: each read asks, and nothing is kept."""

from __future__ import annotations

import os

import pytest
import trio

from nebfs.content.layers.uncached import Uncached
from nebfs.errors import BadAnswer, Changed, Refused, Unreachable
from nebfs.model import Content, Locator

PATIENCE = 60.0


@pytest.fixture
def reader(place):
    return Uncached(place, Locator("http", "http://host/image"), place.revision, PATIENCE)


async def test_a_read_brings_what_it_needs_and_no_more(reader, place):
    assert await reader.pread(1_000_001, 10) == place.data[1_000_001:1_000_011]
    assert place.fetched == 4096
    end = len(place.data)
    assert await reader.pread(end - 5000, 5000) == place.data[-5000:]


async def test_each_read_sees_what_is_there_now(reader, place):
    assert await reader.pread(0, 4) == place.data[:4]
    place.data = b"new!" + place.data[4:]
    assert await reader.pread(0, 4) == b"new!"


async def test_zeros_that_were_not_written_read_as_zeros(reader, place):
    place.data = bytes(len(place.data))
    assert await reader.pread(5, 9000) == bytes(9000)


async def test_what_is_temporary_is_tried_again(reader, place, autojump_clock):
    place.script = [Unreachable("gone"), Unreachable("gone"), 1]
    assert await reader.pread(0, 8192) == place.data[:8192]
    assert len(place.log) == 4
    assert reader.facts().last_error


async def test_a_place_that_stays_away_is_an_error_in_time(reader, place, autojump_clock):
    place.script = [Unreachable("gone")] * 1000
    with pytest.raises(Unreachable):
        await reader.pread(0, 1)
    assert trio.current_time() <= PATIENCE


@pytest.mark.parametrize("failure", [Refused("no"), Changed("another")])
async def test_what_will_not_get_better_is_not_tried_again(reader, place, failure):
    place.script = [failure]
    with pytest.raises(type(failure)):
        await reader.pread(0, 1)
    assert len(place.log) == 1


async def test_a_length_that_has_changed_is_another_version(reader, place):
    place.data += b"more"
    with pytest.raises(Changed):
        await reader.pread(0, 1)


async def test_bytes_that_did_not_come_are_no_zeros(place, autojump_clock):
    class Silent:
        async def fetch(self, request, fd, progress, early=None):
            return place.revision

    reader = Uncached(Silent(), Locator("http", "http://host/x"), place.revision, 1.0)
    with pytest.raises(BadAnswer):
        await reader.pread(0, 1)


async def test_no_descriptor_is_left(reader, place, autojump_clock):
    before = len(os.listdir("/proc/self/fd"))
    place.script = [Unreachable("gone")] * 100
    with pytest.raises(Unreachable):
        await reader.pread(0, 1)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_the_library_keeps_nothing_of_it(shop, place):
    shop = shop()
    content = Content(Locator("http", "http://host/image"), volatile=True)
    reader = await shop.library.open(content, place.revision)
    for _ in range(2):
        assert await reader.pread(0, 4096) == place.data[:4096]
    await reader.aclose()
    assert len(place.log) == 2
    assert shop.library.open_objects == 0
