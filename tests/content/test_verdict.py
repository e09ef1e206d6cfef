"""Waiting for the verdict about an object while some of it leaves the cache."""

from __future__ import annotations

import hashlib

import pytest
import trio
import trio.testing

from nebfs.content.layers.verified import hash_threads
from nebfs.model import Checksum
from nebfs.units import MIB
from tests.content.reading import read


@pytest.fixture
async def published(shop, place):
    """Return a reader of 8 MiB that have a published checksum, and their cache file."""
    place.data = bytes(range(256)) * (8 * MIB // 256)
    chosen = shop(read_ahead=0)
    reader = await chosen.open(Checksum("md5", hashlib.md5(place.data).hexdigest()))
    (file,) = chosen.store.open_files()
    yield reader, file
    await reader.aclose()


async def hashed(file, slots):
    """Return when so many slots were hashed: what is hashed next is waited for."""
    with trio.fail_after(10):
        while (slots, slots + 1) not in {waiting[:2] for waiting in file._waiting}:  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_what_has_left_before_it_was_compared_is_not_waited_for(
    published, place, nursery, patient_clock
):
    """Nobody may bring it but whoever waits: a read that completed an object hung for 30 s."""
    reader, file = published
    done = trio.Event()

    async def last():
        assert await read(reader, 6 * MIB, MIB) == place.data[6 * MIB :][:MIB]
        done.set()

    await hash_threads.acquire_on_behalf_of("test")
    try:
        for at in (0, 1, 2, 3, 4, 5, 7):
            await read(reader, at * MIB, MIB)
        nursery.start_soon(last)
        with trio.move_on_after(5):
            await done.wait()
        assert file.complete
        assert not done.is_set()
        await file.drop(file.slots - 4, file.slots)
        with trio.fail_after(5):
            await done.wait()
    finally:
        hash_threads.release_on_behalf_of("test")


async def test_what_has_left_after_it_was_compared_is_not_missed(
    published, place, nursery, patient_clock
):
    reader, file = published
    done = trio.Event()

    async def last():
        await read(reader, 6 * MIB, 2 * MIB)
        done.set()

    await read(reader, 0, 4 * MIB)
    await read(reader, 4 * MIB, 2 * MIB)
    await hashed(file, 48)
    await hash_threads.acquire_on_behalf_of("test")
    try:
        nursery.start_soon(last)
        with trio.move_on_after(5):
            await done.wait()
        await file.drop(0, 8)
        with trio.move_on_after(5):
            await done.wait()
        assert not done.is_set()
    finally:
        hash_threads.release_on_behalf_of("test")
    with trio.fail_after(5):
        await done.wait()
    assert reader.facts().verified == "yes"
