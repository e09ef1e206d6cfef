"""READ requests that are answered before libfuse sees them: in which order."""

from __future__ import annotations

import errno
import os
import socket
import struct
from functools import partial

import pytest
import trio

from nebfs.fuse import direct
from nebfs.fuse.shares import MOST, RECENT, SHORT, WEIGHT, Shares

MIB = 1 << 20
HEADER = struct.Struct("<IIQQ16x")
READ, INTERRUPT, LOOKUP = 15, 36, 1


def message(opcode, unique, body=b""):
    return HEADER.pack(HEADER.size + len(body), opcode, unique, 1) + body


def read(unique, size):
    return message(READ, unique, struct.pack("<QQI20x", 0, 0, size))


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


class Kernel:
    """The other end of /dev/fuse, with which libfuse's descriptor is ours, too."""

    def __init__(self):
        self.end, self.device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def ask(self, *messages):
        for one in messages:
            self.end.send(one)

    async def answered(self, count):
        """Return whose requests were answered, in that order."""
        found = []
        self.end.setblocking(False)
        with trio.fail_after(5):
            while len(found) < count:
                try:
                    found.append(struct.unpack_from("<IiQ", self.end.recv(4096))[2])
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(self.end)
        return found


@pytest.fixture
def kernel():
    made = Kernel()
    yield made
    made.end.close()
    made.device.close()


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(direct, "time", made)
    return made


@pytest.fixture
async def serving(kernel, clock, nursery):
    """Start to answer the kernel, when called."""
    reads = direct.DirectReads(kernel.device.fileno(), Reads(clock))
    yield partial(nursery.start, reads.run)
    reads._theirs.close()  # which otherwise lives as long as libfuse


async def test_short_reads_go_before_those_of_a_stream_that_had_its_turn(kernel, serving):
    kernel.ask(read(1, 4096), read(2, MIB), read(3, MIB), read(4, 4096), read(5, 4096))
    await serving()
    assert await kernel.answered(5) == [1, 2, 4, 5, 3]


async def test_a_stream_alone_is_answered_as_it_asks(kernel, serving):
    kernel.ask(*(read(number, MIB) for number in range(1, 9)))
    await serving()
    assert await kernel.answered(8) == list(range(1, 9))


async def test_a_stream_gets_its_turns_while_short_reads_go_on(kernel, serving):
    """A MiB takes a millisecond, so it is worked off by a hundred short reads."""
    short = [read(number, 4096) for number in range(1000, 1150)]
    kernel.ask(short[0], read(1, MIB), read(2, MIB), *short[1:])
    await serving()
    order = await kernel.answered(152)
    assert order.index(1) == 1
    assert 95 <= order.index(2) <= 110


async def test_the_interruption_of_a_read_that_waits_is_not_for_libfuse(kernel, serving):
    """libfuse would keep it, for a request that it never gets."""
    kernel.ask(
        read(1, 4096),
        read(2, MIB),
        read(3, MIB),
        message(INTERRUPT, 7, struct.pack("<Q", 3)),
        message(LOOKUP, 8, b"name\0"),
    )
    await serving()
    assert await kernel.answered(3) == [1, 2, 3]
    passed_on = os.read(kernel.device.fileno(), 4096)
    assert HEADER.unpack_from(passed_on)[1:3] == (LOOKUP, 8)
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
