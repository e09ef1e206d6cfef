"""READ requests that are answered before libfuse sees them: in which order."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from nebfs.fuse import direct
from nebfs.fuse.shares import MOST, RECENT, SHORT, WEIGHT, Shares
from tests.fuse.kernel import HEAD, INTERRUPT, LOOKUP, READ, Kernel, read_in, served

MIB = 1 << 20


def ask(kernel, *requests):
    """Ask for reads: each is a number, and how many bytes."""
    for unique, size in requests:
        kernel.send(READ, unique, read_in(0, size))


async def answered(kernel, count):
    """Return whose requests were answered, in that order."""
    return [(await kernel.answer())[1] for _ in range(count)]


class Clock:
    """As the module `time`, where time passes only for reads."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    thread_time = perf_counter


class Reads:
    """Takes a millisecond for a MiB, and 20 us for what is short."""

    unit = 4096

    def __init__(self, clock):
        self.clock = clock

    def read_warm(self, fh, offset, size):
        self.clock.now += 0.001 if size > SHORT else 20e-6
        return b"x"

    async def capacity(self, inode, uid):
        return 1, 1, 1, 255


@pytest.fixture
def kernel():
    made = Kernel()
    yield made
    made.close()


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(direct, "time", made)
    return made


async def test_short_reads_go_before_those_of_a_stream_that_had_its_turn(kernel, clock):
    ask(kernel, (1, 4096), (2, MIB), (3, MIB), (4, 4096), (5, 4096))
    async with served(kernel, Reads(clock)):
        assert await answered(kernel, 5) == [1, 2, 4, 5, 3]


async def test_a_stream_alone_is_answered_as_it_asks(kernel, clock):
    ask(kernel, *((number, MIB) for number in range(1, 9)))
    async with served(kernel, Reads(clock)):
        assert await answered(kernel, 8) == list(range(1, 9))


async def test_a_stream_gets_its_turns_while_short_reads_go_on(kernel, clock):
    """A MiB takes a millisecond, so it is worked off by a hundred short reads."""
    short = [(number, 4096) for number in range(1000, 1150)]
    ask(kernel, short[0], (1, MIB), (2, MIB), *short[1:])
    async with served(kernel, Reads(clock)):
        order = await answered(kernel, 152)
    assert order.index(1) == 1
    assert 95 <= order.index(2) <= 110


async def test_the_interruption_of_a_read_that_waits_is_not_for_libfuse(kernel, clock):
    """libfuse would keep it, for a request that it never gets."""
    ask(kernel, (1, 4096), (2, MIB), (3, MIB))
    kernel.send(INTERRUPT, 7, struct.pack("<Q", 3))
    kernel.send(LOOKUP, 8, b"name\0")
    async with served(kernel, Reads(clock)):
        assert await answered(kernel, 3) == [1, 2, 3]
        passed_on = os.read(kernel.device.fileno(), 4096)
        assert HEAD.unpack_from(passed_on)[1:3] == (LOOKUP, 8)
        os.set_blocking(kernel.device.fileno(), False)
        with pytest.raises(BlockingIOError) as nothing:
            os.read(kernel.device.fileno(), 4096)
    assert nothing.value.errno == errno.EAGAIN


def test_other_work_is_worked_off_by_short_reads():
    shares = Shares()
    shares.short(0.0, 0.001)
    shares.other(0.001, 0.002)
    assert shares.owed == pytest.approx(0.001 * WEIGHT)
    shares.short(0.002, 0.003)
    assert shares.owed == pytest.approx(0.001 * WEIGHT - 0.001)
    shares.short(0.003, 0.004)
    assert shares.owed == 0


def test_nothing_is_owed_to_somebody_who_is_gone():
    shares = Shares()
    shares.short(0.0, 0.001)
    shares.other(0.001, 0.001 + RECENT * 3)
    assert shares.owed == 0


def test_what_is_owed_has_an_end():
    shares = Shares()
    shares.short(0.0, 0.001)
    shares.other(10.0, 10.001)
    assert shares.owed == MOST
