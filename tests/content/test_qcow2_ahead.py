"""Compressed clusters are unpacked ahead of who reads on: not too far, nor for nothing."""

from __future__ import annotations

import itertools
import random
import threading

import pytest
import trio

from nebfs.content.layers import packed, qcow2_clusters, unpacking
from nebfs.content.layers.ahead import AHEAD, PATIENCE, Run
from nebfs.content.layers.unpacking import MOST, MOST_WAITING, Job, Threads
from nebfs.errors import Damaged
from nebfs.units import KIB, MIB
from tests.content.qcow2 import opened, run
from tests.content.reading import read

SIZE = 12 * MIB
DATA = b"".join(random.Random(n).randbytes(2 * KIB) * 32 for n in range(SIZE // (64 * KIB)))


@pytest.fixture(scope="module", params=["zlib", "zstd"])
def image(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("ahead")
    (directory / "raw").write_bytes(DATA)
    words = ("-c", "-o", f"compression_type={request.param}")
    run("qemu-img", "convert", "-O", "qcow2", *words, directory / "raw", directory / "image")
    return directory / "image"


def kept(reader):
    """How many clusters of a reader there are in memory."""
    return sum(number == reader.clusters._number for number, _ in packed._KEPT)


async def quiet(reader):
    """Wait until nothing is being unpacked."""
    clusters = reader.clusters
    while clusters._coming:
        await next(iter(clusters._coming.values())).ended.wait()


async def test_a_reader_finds_what_comes_next_unpacked(image):
    reader = await opened(image)
    warm = 0
    for at in range(0, SIZE, MIB):
        await quiet(reader)
        view = reader.warm(at, MIB)
        warm += view is not None
        data = await reader.pread(at, MIB) if view is None else view
        assert bytes(data) == DATA[at : at + MIB]
        await quiet(reader)
        assert kept(reader) * 64 * KIB <= at + MIB + AHEAD
    assert warm >= 9
    await reader.aclose()
    assert kept(reader) == 0


async def test_several_readers_at_once_get_the_right_bytes(image):
    """As the kernel's read-ahead asks: out of order, and more than one request at a time."""
    reader = await opened(image)
    chance = random.Random(5)
    left = [(at, 128 * KIB) for at in range(0, SIZE, 128 * KIB)]

    async def some():
        while left:
            at, length = left.pop(chance.randrange(min(4, len(left))))
            assert await read(reader, at, length) == DATA[at : at + length]

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(some)
    await reader.aclose()


async def test_for_random_reads_nothing_is_unpacked_ahead(image):
    reader = await opened(image)
    for at in (7 * MIB, 2 * MIB, 10 * MIB, 0, 5 * MIB):
        before = kept(reader)
        assert await read(reader, at, 4096) == DATA[at : at + 4096]
        assert not reader.clusters._ahead
        assert kept(reader) == before + 1
    await reader.aclose()


async def test_closing_in_the_middle_leaves_nothing(image):
    readers = []
    for _ in range(10):
        reader = await opened(image)
        readers.append(reader)
        for at in range(0, 3 * MIB, MIB):
            await read(reader, at, MIB)
        await reader.aclose()
        assert not reader.clusters._coming
    # What threads were at is thrown away when they are through with it.
    while unpacking.threads._working:
        await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()
    assert not any(kept(reader) for reader in readers)


async def test_who_gives_up_takes_nothing_from_who_reads_on(image):
    reader = await opened(image)
    for at in range(0, SIZE, MIB):
        with trio.CancelScope() as scope:
            scope.cancel()
            await reader.pread(at, MIB)
        assert await read(reader, at, MIB) == DATA[at : at + MIB]
    await reader.aclose()


async def test_damage_ahead_is_told_to_who_reads_it_and_to_nobody_else(image, tmp_path):
    reader = await opened(image)
    entry = (await reader._plan(5 * MIB, 1)).packed[0].entry
    place = qcow2_clusters.place_of(entry, 16, reader.file.size)
    await reader.aclose()
    damaged = bytearray(image.read_bytes())
    damaged[place.offset : place.offset + 100] = b"\xff" * 100
    (tmp_path / "damaged").write_bytes(damaged)
    reader = await opened(tmp_path / "damaged")
    for at in range(0, SIZE, MIB):
        if at == 5 * MIB:
            for _ in range(2):
                assert reader.warm(at, MIB) is None
                with pytest.raises(Damaged):
                    await reader.pread(at, MIB)
        else:
            assert await read(reader, at, MIB) == DATA[at : at + MIB]
    after = 5 * MIB + 64 * KIB
    assert await read(reader, after, MIB) == DATA[after : after + MIB]
    await reader.aclose()


# --- the run --------------------------------------------------------------------------------------


def test_a_run_is_followed_once_it_is_long_and_nothing_is_ordered_twice():
    run = Run()
    ordered = []
    for at in range(0, 64 * MIB, 128 * KIB):
        start, stop = run.next(at, 128 * KIB, 64 * MIB)
        if start != stop:
            assert at + 128 * KIB > PATIENCE
            assert at + 128 * KIB <= start < stop <= at + 128 * KIB + AHEAD
            ordered.append((start, stop))
    assert all(one[1] == other[0] for one, other in itertools.pairwise(ordered))
    assert ordered[-1][1] == 64 * MIB
    assert len(ordered) <= 64


def test_a_seek_begins_a_new_run():
    run = Run()
    assert run.next(0, 4 * MIB, 64 * MIB) != (4 * MIB, 4 * MIB)
    start, stop = run.next(32 * MIB, 128 * KIB, 64 * MIB)
    assert start == stop
    start, stop = run.next(0, MIB, 64 * MIB)
    assert start == stop


# --- the threads ----------------------------------------------------------------------------------


async def test_what_waits_is_bounded_in_order_and_can_be_given_up():
    threads, go, order = Threads(), threading.Event(), []

    def unpack(number, data):
        go.wait()
        order.append(bytes(data))
        return b"x"

    told = []

    def job(name):
        return Job(unpack, [(0, memoryview(name))], lambda outcome: told.append((name, outcome)))

    busy = [job(b"busy") for _ in range(MOST)]
    for one in busy:
        assert threads.start(one, urgent=True)
    while threads._urgent:
        await trio.lowlevel.checkpoint()
    others = [job(b"%d" % number) for number in range(MOST_WAITING)]
    for one in others:
        assert threads.start(one, urgent=False)
    assert not threads.start(job(b"too many"), urgent=False)
    threads.hurry(others[7])
    threads.give_up(others[0])
    threads.give_up(busy[0])
    go.set()
    while len(told) < MOST + MOST_WAITING - 2:
        await trio.lowlevel.checkpoint()
    names = [name for name, _ in told]
    assert b"0" not in names
    assert b"too many" not in names
    assert order.index(b"7") <= MOST + MOST
    assert all(outcome == [b"x"] for _, outcome in told)
    while threads._working:
        await trio.lowlevel.checkpoint()


async def test_also_a_bug_is_told_to_who_waits():
    told, came = [], trio.Event()

    def done(outcome):
        told.append(outcome)
        came.set()

    def unpack(number, data):
        raise RuntimeError("a bug")

    Threads().start(Job(unpack, [(0, memoryview(b""))], done), urgent=True)
    await came.wait()
    assert isinstance(told[0], RuntimeError)
