"""Connections of our own: heads as strict as need be, and what somebody waits for comes early."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebfs.errors import BadAnswer, Unreachable
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports.http import Http
from nebfs.fetcher.transports.http_pool import FAR, RangePool
from nebfs.fetcher.transports.http_ranges import (
    BURST,
    FIRST_READ,
    HEAD_LIMIT,
    RangeConnection,
    parse_head,
)

SETTINGS = FetcherSettings(stall_timeout=15, connect_timeout=10, trust_env=False)
SLOT = 128 << 10


class Listener:
    def __init__(self) -> None:
        self.slots = []
        self.glimpses = []

    def found(self, revision):
        pass

    def filled(self, slots):
        self.slots += [one.slot for one in slots]

    def early(self, offset, data):
        self.glimpses.append((offset, data, list(self.slots)))


def fetch(*requests, fd):
    """Run fetches one after the other through one transport; return what the last one told."""

    async def run():
        http = Http(SETTINGS)
        try:
            for request in requests:
                listener = Listener()
                await http.fetch(request, fd, listener)
            return listener
        finally:
            await http.aclose()

    return asyncio.run(run())


# --- heads ---


def test_a_head_is_read():
    head = parse_head(b'HTTP/1.1 206 Partial Content\r\nETag: "x"\r\ncontent-length:  12 \r\nX:')
    assert (head.status, head.length, head.persistent) == (206, 12, True)
    assert head.headers["etag"] == '"x"'
    assert head.headers["x"] == ""


@pytest.mark.parametrize(
    ("raw", "persistent"),
    [
        (b"HTTP/1.1 200", True),
        (b"HTTP/1.0 200 OK", False),
        (b"HTTP/1.1 200 OK\r\nConnection: Close", False),
        (b"HTTP/1.1 200 OK\r\nConnection: keep-alive", True),
    ],
)
def test_whether_a_connection_stands(raw, persistent):
    assert parse_head(raw).persistent is persistent


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/2 200 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 0200 OK",
        b"http/1.1 200 OK",
        b"HTTP/1.1 200 OK\r\nno colon",
        b"HTTP/1.1 200 OK\r\nName : space before the colon",
        b"HTTP/1.1 200 OK\r\nA: 1\r\n folded",
        b"HTTP/1.1 200 OK\r\nA: 1\x00",
        b"HTTP/1.1 200 OK\r\nA: 1\n\nB: 2",
        b"HTTP/1.1 200 OK\r\n: no name",
    ],
)
def test_what_is_no_head_is_refused(raw):
    with pytest.raises(BadAnswer):
        parse_head(raw)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_head_or_refused(raw):
    for text in (raw, b"HTTP/1.1 206 X\r\n" + raw):
        with contextlib.suppress(BadAnswer):
            parse_head(text)


@pytest.mark.parametrize("length", ["12x", "-1", "", "1e3", "9" * 30])
def test_a_length_that_is_none(length):
    assert parse_head(f"HTTP/1.1 206 X\r\nContent-Length: {length}".encode()).length is None


def test_a_head_without_end_is_given_up(serve, target):
    line = b"X: " + b"y" * 1000 + b"\r\n"
    server = serve(lambda r: iter([b"HTTP/1.1 206 X\r\n" + line * (HEAD_LIMIT // 1000 + 2)]))
    with pytest.raises(BadAnswer, match="not HTTP"):
        fetch(target.request(server.url + "/d", (0, 1), expected=None), fd=target.fd)


def test_interim_answers_are_passed_over(serve, origin, target):
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    server = serve(lambda request: hints + origin(request))
    listener = fetch(
        target.request(server.url + "/d", (0, 10), expected=origin.revision), fd=target.fd
    )
    assert listener.slots == list(range(10))


def test_a_head_in_pieces_of_one_byte(serve, origin, target):
    def script(request):
        whole = origin(request)
        for at in range(60):
            yield whole[at : at + 1]
        yield whole[60:]

    request = target.request(serve(script).url + "/d", (3, 5), expected=origin.revision)
    assert fetch(request, fd=target.fd).slots == [3, 4]


def test_more_than_announced_is_refused(serve, origin, target):
    server = serve(lambda request: origin(request) + b"more")
    with pytest.raises(BadAnswer, match="more than it announced"):
        fetch(target.request(server.url + "/d", (0, 1), expected=origin.revision), fd=target.fd)


def test_a_kept_connection_that_was_closed_is_replaced(serve, origin, target):
    served = []

    def script(request):
        served.append(request)
        yield origin(request)
        if len(served) == 1:
            yield b""  # hangs up, after an answer that promised to stand

    server = serve(script)
    requests = [
        target.request(server.url + "/d", (n, n + 1), expected=origin.revision) for n in range(3)
    ]
    assert fetch(*requests, fd=target.fd).slots == [2]


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


def test_an_idle_connection_whose_first_read_was_full_ends_without_a_traceback():
    """asyncio asks for room to read the end into; without any it logs a fatal error."""

    async def run():
        connection = RangeConnection(15.0, lambda _: None)
        connection.connection_made(Wire())
        raw = b"HTTP/1.1 206 X\r\nContent-Length: %d\r\n\r\n" % (2 * FIRST_READ)
        raw += bytes(2 * FIRST_READ)
        asked = asyncio.create_task(connection.ask(b"", lambda _: Body(2 * FIRST_READ)))
        await asyncio.sleep(0)
        while raw:
            room = connection.get_buffer(-1)
            count = min(len(room), len(raw))
            room[:count] = raw[:count]
            raw = raw[count:]
            connection.buffer_updated(count)
        assert (await asked).status == 206
        assert connection.usable
        assert len(connection.get_buffer(-1))

    asyncio.run(run())


def test_a_fresh_connection_that_is_closed_is_a_failure(serve, origin, target):
    server = serve(lambda request: iter([b""]))
    with pytest.raises(Unreachable, match="without an answer"):
        fetch(target.request(server.url + "/d", (0, 1), expected=origin.revision), fd=target.fd)
    assert len(server.requests) == 1


# --- what somebody waits for ---


@pytest.fixture
def big(origin, make_target):
    """A content of five slots of 128 KiB, and its target."""
    origin.data = os.urandom(5 * SLOT - 100)
    return make_target(origin.data, SLOT)


def wanting(big, url, origin, start, stop):
    slot = start // SLOT
    request = big.request(url + "/d", (slot, slot + 1), expected=origin.revision)
    return dataclasses.replace(request, wanted=(start, stop), awaited=True)


@pytest.mark.parametrize("start", [0, SLOT + 4096, 2 * SLOT - 4096, 4 * SLOT + 70_000])
def test_it_comes_before_its_slot(serve, origin, big, start):
    server = serve(origin)
    listener = fetch(wanting(big, server.url, origin, start, start + 4096), fd=big.fd)
    ((offset, data, filled),) = listener.glimpses
    assert (offset, data, filled) == (start, origin.data[start : start + 4096], [])
    assert listener.slots == [start // SLOT]
    assert len(server.requests) == 1


def far(origin):
    """A place so far away that an answer takes longer than FAR to begin."""

    def script(request):
        time.sleep(5 * FAR)
        return origin(request)

    return script


def test_of_a_place_far_away_it_is_asked_for_by_itself(serve, origin, big):
    server = serve(far(origin))
    start = 3 * SLOT + 50_000
    probe = big.request(server.url + "/d", expected=None)
    listener = fetch(
        probe, wanting(big, server.url, origin, start, start + BURST + 4000), fd=big.fd
    )
    asked = [request.range for request in server.requests[1:]]
    asked.remove((3 * SLOT, 4 * SLOT))
    # The second part needs a connection of its own, and is dropped if the slot is sooner.
    first, *second = sorted(asked)
    assert first[0] == start
    assert first[1] - start >= (BURST + 4000) // 2
    assert second in ([], [(first[1], start + BURST + 4000)])
    assert all(data == origin.data[at : at + len(data)] for at, data, _ in listener.glimpses)
    assert listener.glimpses
    assert listener.slots == [3]


def test_a_glimpse_of_another_version_is_not_taken(serve, origin, big):
    old = origin.revision

    def script(request):
        time.sleep(5 * FAR)
        if request.range is not None and request.range[1] - request.range[0] == 4096:
            return dataclasses.replace(origin, etag='"v2"')(request)
        return origin(request)

    server = serve(script)
    start = SLOT + 90_000
    probe = big.request(server.url + "/d", expected=None)
    wanted = wanting(big, server.url, origin, start, start + 4096)
    listener = fetch(probe, dataclasses.replace(wanted, expected=old), fd=big.fd)
    assert [data for _, data, _ in listener.glimpses] == [origin.data[start : start + 4096]]


def test_it_gets_its_connections_before_what_nobody_waits_for(serve, origin, big, monkeypatch):
    server = serve(far(origin))
    start = SLOT + 50_000
    wanted = wanting(big, server.url, origin, start, start + BURST + 4000)
    others = [
        big.request(server.url + "/d", (slot, slot + 1), expected=origin.revision)
        for slot in (2, 3, 0)
    ]
    order = []
    ask = RangePool.ask

    async def noted(pool, target, asked, accept, *, urgent):
        order.append(asked)
        return await ask(pool, target, asked, accept, urgent=urgent)

    async def run():
        http = Http(SETTINGS)
        try:
            await http.fetch(big.request(server.url + "/d", expected=None), big.fd, Listener())
            monkeypatch.setattr(RangePool, "ask", noted)
            async with asyncio.TaskGroup() as group:
                for request in (wanted, *others):  # all in one turn, as the daemon sends them
                    group.create_task(http.fetch(request, big.fd, Listener()))
        finally:
            await http.aclose()

    asyncio.run(run())
    *parts, last = sorted(order[:3], key=lambda asked: asked[1])
    assert last == (SLOT, 2 * SLOT)
    assert (parts[0][0], parts[1][1]) == (start, start + BURST + 4000)
    assert parts[0][1] == parts[1][0]
    assert len(order) == 6


def test_connections_to_a_place_far_away_stand_before_they_are_needed(serve, origin, big):
    server = serve(far(origin))
    probe = big.request(server.url + "/d", expected=None)

    async def run():
        http = Http(SETTINGS)
        try:
            await http.fetch(probe, big.fd, Listener())
            for _ in range(500):
                if len(server._threads) >= 4:
                    return
                await asyncio.sleep(0.01)
        finally:
            await http.aclose()

    asyncio.run(run())
    assert 4 <= len(server._threads) <= SETTINGS.connections_per_host


def test_what_is_asked_for_while_they_are_opened_waits_for_them(serve, origin, big):
    server = serve(far(origin))
    probe = big.request(server.url + "/d", expected=None)
    starts = [slot * SLOT + 4096 for slot in range(5)] * 8

    async def run():
        http = Http(SETTINGS)
        try:
            await http.fetch(probe, big.fd, Listener())
            listeners = [Listener() for _ in starts]
            async with asyncio.TaskGroup() as group:
                for start, listener in zip(starts, listeners, strict=True):
                    wanted = wanting(big, server.url, origin, start, start + 4096)
                    group.create_task(http.fetch(wanted, big.fd, listener))
            return [listener.slots for listener in listeners]
        finally:
            await http.aclose()

    assert asyncio.run(run()) == [[start // SLOT] for start in starts]
    assert len(server._threads) <= SETTINGS.connections_per_host
