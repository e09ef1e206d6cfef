"""Which connection carries what: how wide each is, who gets one first, and what comes in parts."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import threading
import time

import aiohappyeyeballs
import pytest

from nebfs.errors import Unreachable
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports.http import Http
from nebfs.fetcher.transports.http_connections import first_target
from nebfs.fetcher.transports.http_pool import FAR, RangePool, _Host
from nebfs.fetcher.transports.http_ranges import BURST, PAUSE, RangeConnection
from tests.faults.web import answer

SETTINGS = FetcherSettings(stall_timeout=15, connect_timeout=10, trust_env=False)
SLOT = 128 << 10


# --- how wide a connection is ---


class Clock:
    """The loop's clock, which a test turns."""

    def __init__(self):
        self.now = 0.0

    def time(self):
        return self.now


class Wire(asyncio.Transport):
    """Sends nothing."""

    def write(self, data):
        pass

    def is_closing(self):
        return False


class Body:
    """Takes so many bytes."""

    def __init__(self, missing):
        self.missing = missing

    def space(self):
        return memoryview(bytearray(self.missing))

    def advance(self, count):
        self.missing -= count


def test_a_connection_gives_more_the_more_it_has_carried_and_begins_again_after_a_pause():
    async def run():
        connection = RangeConnection(1.0, lambda _: None)
        clock = connection._loop = Clock()
        connection.connection_made(Wire())
        assert connection.window == BURST
        connection._answer = asyncio.get_running_loop().create_future()
        connection._accept = lambda head: None
        for _ in range(3):
            connection._raw[:9] = b"HTTP/1.1 "
            connection.buffer_updated(5000)
        connection._answer = None
        assert connection.window == BURST + 15_000
        clock.now += PAUSE - 0.01
        assert connection.window == BURST + 15_000
        clock.now += 0.02
        assert connection.window == BURST
        connection.first_byte = 0.1  # a pause is that much longer
        assert connection.window == BURST + 15_000

    asyncio.run(run())


@dataclasses.dataclass
class Idle:
    window: int
    usable: bool = True


@pytest.mark.parametrize(
    ("size", "chosen"),
    [(4096, 20_000), (20_000, 20_000), (20_001, 300_000), (1 << 20, 900_000)],
)
def test_the_narrowest_that_gives_it_in_a_round_trip_is_taken_or_the_widest(size, chosen):
    async def run():
        host = _Host(first_target("http://host/"), None, 8)
        host.first_byte = 10 * FAR
        host.idle = [Idle(window) for window in (300_000, 900_000, 20_000)]
        host.idle.append(Idle(400_000, usable=False))
        assert host.kept(size).window == chosen
        assert chosen not in {one.window for one in host.idle}

    asyncio.run(run())


def test_nearby_the_one_used_last_is_taken():
    async def run():
        host = _Host(first_target("http://host/"), None, 8)
        host.first_byte = FAR / 2
        host.idle = [Idle(window) for window in (300_000, 900_000, 20_000)]
        assert host.kept(1 << 20).window == 20_000

    asyncio.run(run())


# --- who gets one first ---


async def until(true):
    """Wait for what another thread, or a connection to it, brings about."""
    for _ in range(10_000):
        if true():
            return
        await asyncio.sleep(0.001)
    pytest.fail("it does not happen")


@contextlib.asynccontextmanager
async def pooled(server, most=1):
    """Give a pool of at most so many connections to a host, and a place on the server."""
    pool = RangePool(dataclasses.replace(SETTINGS, connections_per_host=most), tls=None)
    try:
        yield pool, first_target(server.url + "/d")
    finally:
        await pool.aclose()


def test_who_is_waited_for_gets_a_connection_before_the_others(serve, origin):
    first = threading.Event()

    def script(request):
        if request.range == (0, 1):
            assert first.wait(10)
        return origin(request)

    server = serve(script)

    async def run():
        async with pooled(server) as (pool, place), asyncio.TaskGroup() as group:

            def ask(at, urgent):
                asked = pool.ask(place, (at, at + 1), lambda head: None, urgent=urgent)
                group.create_task(asked)

            ask(0, urgent=False)
            await until(lambda: server.requests)
            for at, urgent in enumerate((False, True, False, True), start=1):
                ask(at, urgent)
            await asyncio.sleep(0)
            first.set()

    asyncio.run(run())
    assert [request.range[0] for request in server.requests] == [0, 2, 4, 1, 3]


def test_a_connection_for_somebody_who_has_gone_is_given_to_the_next(serve, origin):
    server = serve(origin)

    async def run():
        async with pooled(server) as (pool, place):
            host = pool._host(place)
            held = await pool._connection(host, 1, urgent=False)
            waiting = [
                asyncio.create_task(pool._connection(host, 1, urgent=False)) for _ in range(4)
            ]
            await asyncio.sleep(0)
            waiting[0].cancel()  # while it waits
            await asyncio.sleep(0)
            waiting[1].cancel()  # while it waits, and it does not know it yet when it is served
            pool._keep(host, held, spare=False)
            waiting[2].cancel()  # when it was served, and does not know it yet
            assert await asyncio.wait_for(waiting[3], 10) is held
            assert host.waiting == []

    asyncio.run(run())


@pytest.mark.parametrize("end", ["breaks off", "says close"])
def test_who_waits_gets_another_connection_when_the_only_one_ends(serve, origin, end):
    def script(request):
        if request.range == (0, 1):
            if end == "breaks off":
                yield origin(request)[:-1]
                yield b""
            yield dataclasses.replace(origin, extra={"connection": "close"})(request)
            yield b""
        yield origin(request)

    server = serve(script)

    async def run():
        async with pooled(server) as (pool, place):

            async def ask(at):
                await pool.ask(place, (at, at + 1), lambda head: Body(1))

            return await asyncio.gather(*map(ask, range(3)), return_exceptions=True)

    first, *others = asyncio.run(asyncio.wait_for(run(), 20))
    assert others == [None, None]
    assert (first is None) is (end == "says close")


def test_who_waits_gets_another_one_when_his_own_went_to_somebody_before_him(serve, origin):
    """As each who is urgent takes what was opened for the one who is not, and ends it."""

    def script(request):
        if request.range[0]:
            yield dataclasses.replace(origin, extra={"connection": "close"})(request)
            yield b""
        yield origin(request)

    server = serve(script)

    async def run():
        async with pooled(server) as (pool, place), asyncio.TaskGroup() as group:
            for at in range(4):
                asked = pool.ask(place, (at, at + 1), lambda head: Body(1), urgent=at > 0)
                group.create_task(asked)

    asyncio.run(asyncio.wait_for(run(), 20))
    assert [request.range[0] for request in server.requests] == [1, 2, 3, 0]


def test_a_connection_that_cannot_be_opened_is_a_failure_of_who_needs_it(serve, origin):
    server = serve(origin)

    async def run():
        async with pooled(server, SETTINGS.connections_per_host) as (pool, place):
            server.close()
            asked = [pool.ask(place, (n, n + 1), lambda head: None) for n in range(12)]
            return await asyncio.gather(*asked, return_exceptions=True)

    failures = asyncio.run(asyncio.wait_for(run(), 20))
    assert [type(failure) for failure in failures] == [Unreachable] * 12


def test_of_a_place_that_is_slow_to_connect_others_stand_before_the_first_answer(
    serve, origin, monkeypatch
):
    answering = threading.Event()

    def script(request):
        assert answering.wait(10)
        return origin(request)

    connect = aiohappyeyeballs.start_connection

    async def slow(*args, **kwargs):
        await asyncio.sleep(2 * FAR)
        return await connect(*args, **kwargs)

    monkeypatch.setattr(aiohappyeyeballs, "start_connection", slow)
    server = serve(script)

    async def run():
        async with pooled(server, SETTINGS.connections_per_host) as (pool, place):
            asked = asyncio.create_task(pool.ask(place, (0, 1), lambda head: Body(1)))
            host = pool._host(place)
            try:
                await until(lambda: len(host.idle) >= 4)
            finally:
                answering.set()
                await asked

    asyncio.run(asyncio.wait_for(run(), 30))


# --- in parts ---


@pytest.fixture
def big(make_target, origin):
    """A content of five slots of 128 KiB, and its target."""
    origin.data = os.urandom(5 * SLOT - 100)
    return make_target(origin.data, SLOT)


def far(origin):
    """A place so far away that an answer takes longer than FAR to begin."""

    def script(request):
        time.sleep(5 * FAR)
        return origin(request)

    return script


def fetch(server, target, *requests, settings=SETTINGS):
    """Look at the place, wait until connections to it stand, then fetch one after the other.
    Return what was asked for after the first look.
    """

    async def run():
        http = Http(settings)
        try:
            await http.fetch(
                target.request(server.url + "/d", expected=None), target.fd, target.listener()
            )
            (host,) = http._pool._hosts.values()
            await until(lambda: len(host.idle) >= 5)
            for request in requests:
                before = len(server.requests)
                await http.fetch(request, target.fd, target.listener())
            return sorted(request.range for request in server.requests[before:])
        finally:
            await http.aclose()

    return asyncio.run(asyncio.wait_for(run(), 30))


def wanting(server, target, origin, slot, start, stop):
    """Ask for a slot of which somebody waits for the bytes from `start` to `stop` in it."""
    request = target.request(server.url + "/d", (slot, slot + 1), expected=origin.revision)
    wanted = slot * SLOT + start, slot * SLOT + stop
    return dataclasses.replace(request, wanted=wanted, awaited=True)


def test_what_somebody_waits_for_comes_over_as_many_connections_as_give_it_at_once(
    serve, origin, big
):
    server = serve(far(origin))
    start = 70_000
    asked = fetch(server, big, wanting(server, big, origin, 1, start, start + 32_000))
    asked.remove((SLOT, 2 * SLOT))
    assert len(asked) == 3
    assert asked[0][0] == SLOT + start
    assert asked[-1][1] == SLOT + start + 32_000
    assert all(one[1] == other[0] for one, other in itertools.pairwise(asked))
    assert max(stop - start for start, stop in asked) <= BURST
    assert big.slots == {1}
    big.check()


def test_a_connection_that_has_carried_enough_brings_all_of_it(serve, origin, big):
    server = serve(far(origin))
    before = big.request(server.url + "/d", (0, 2), expected=origin.revision)
    asked = fetch(server, big, before, wanting(server, big, origin, 3, 50_000, 82_000))
    assert asked == [(3 * SLOT, 4 * SLOT), (3 * SLOT + 50_000, 3 * SLOT + 82_000)]


def test_what_nobody_waits_for_comes_over_one(serve, origin, big):
    server = serve(far(origin))
    request = big.request(server.url + "/d", (1, 2), expected=origin.revision)
    assert fetch(server, big, request) == [(SLOT, 2 * SLOT)]


@pytest.mark.parametrize("wrong", ["refused", "other version", "whole"])
def test_when_a_part_is_not_given_its_slot_comes_nevertheless(serve, origin, big, wrong):
    lies = {
        "refused": lambda request: answer(429),
        "other version": dataclasses.replace(origin, etag='"v2"'),
        "whole": lambda request: origin.whole(),
    }

    def script(request):
        time.sleep(5 * FAR)
        lie = request.range is not None and request.range[0] > SLOT
        return lies[wrong](request) if lie else origin(request)

    server = serve(script)
    asked = fetch(server, big, wanting(server, big, origin, 1, 70_000, 102_000))
    assert (SLOT, 2 * SLOT) in asked
    big.check()
