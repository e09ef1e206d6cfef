"""Frames and records: what goes into the socket comes out of it, and no descriptor is lost."""

from __future__ import annotations

import os
import socket

import pytest

from nebfs.errors import KINDS, BadAnswer, FetcherDied, Unreachable
from nebfs.fetcher import records, wire
from nebfs.fetcher.messages import CallAnswer, CallRequest, FetchRequest, Filled
from nebfs.fetcher.questions import remaining
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports.http_ranges import HungUp
from nebfs.model import Locator, Revision


@pytest.fixture
def pair():
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, two:
        yield one, two


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def post(one, parcel):
    one.sendmsg(*parcel.arguments)
    parcel.close()


def take(two):
    buffer = wire.receive_buffer()
    count, ancillary, flags, _ = two.recvmsg_into([buffer], wire.ANCILLARY_SIZE, wire.RECEIVE_FLAGS)
    return wire.unpack(memoryview(buffer)[:count], ancillary, flags)


@pytest.mark.parametrize("size", [0, 1, 30_000, 32_768, 40_000, 5_000_000])
@pytest.mark.parametrize("with_fd", [False, True])
def test_frames_of_any_size(pair, size, with_fd):
    payload = os.urandom(size)
    before = descriptors()
    fds = [0] if with_fd else []
    post(pair[0], wire.Parcel({"id": 1, "text": "ä\udcff"}, payload, fds))
    frame = take(pair[1])
    assert frame.header == {"id": 1, "text": "ä\udcff"}
    assert frame.payload == payload
    assert len(frame.fds) == len(fds)
    for fd in frame.fds:
        assert os.get_inheritable(fd) is False
    frame.close()
    assert descriptors() == before


def test_big_header(pair):
    header = {"headers": [["X", "y" * 100]] * 5000}
    post(pair[0], wire.Parcel(header, b"body"))
    frame = take(pair[1])
    assert frame.header == header
    assert frame.payload == b"body"


@pytest.mark.parametrize("data", [b"", b"\0\0", b"\0\0\0\0", b"\0\0\0\x05{", b"\0\0\0\x02no"])
def test_malformed_frames_leak_nothing(pair, data):
    before = descriptors()
    if data:
        with open("/dev/null") as null:
            socket.send_fds(pair[0], [data], [null.fileno()])
        with pytest.raises(BadAnswer):
            take(pair[1])
    else:
        with pytest.raises(BadAnswer):
            wire.unpack(memoryview(b""), [], 0)
    assert descriptors() == before


def test_records_come_back_as_they_were():
    fetch = FetchRequest(
        Locator("http", "http://u:p@h/ä", (("header:A", "b"),)),
        ((0, 4096), (8192, 9000)),
        Revision(9000, '"e"', "then", ranges=False),
        4096,
        2**64 - 1,
    )
    assert records.fetch_from_json(records.fetch_to_json(fetch)) == fetch
    call = CallRequest("POST", "http://h/", (("A", "b"),), b"body", 3.5, 7)
    assert records.call_from_json(records.call_to_json(call), b"body") == call
    answer = CallAnswer(200, (("A", "b"), ("A", "c")), b"x")
    assert records.answer_from_json(records.answer_to_json(answer), b"x") == answer
    slots = [Filled(1, 4096, 2**64 - 1, zero=False), Filled(2, 10, 0, zero=True)]
    assert records.filled_from_json(records.filled_to_json(slots)) == slots


@pytest.mark.parametrize("kind", KINDS.values())
def test_errors_come_back_as_their_kind(kind):
    error = kind("what", retry_after=2.5, url="http://h/", status=5, odd=object)
    back = records.error_from_json(records.error_to_json(error))
    assert type(back) is kind
    assert (back.message, back.retry_after) == ("what", 2.5)
    assert back.facts == {"url": "http://h/", "status": 5, "odd": str(object)}


def test_a_failure_of_a_transports_own_kind_stays_as_temporary_as_it_was():
    back = records.error_from_json(records.error_to_json(HungUp("closed")))
    assert type(back) is Unreachable


def test_error_of_an_unknown_kind():
    value = {**records.error_to_json(Unreachable("x")), "kind": "SystemExit"}
    assert type(records.error_from_json(value)) is FetcherDied


def test_settings_come_back_with_an_absolute_path():
    settings = FetcherSettings(ca_file="ca.pem", log_level=10)
    back = FetcherSettings.from_json(settings.to_json())
    assert back.ca_file == os.path.abspath("ca.pem")
    assert back.log_level == 10


def test_remaining_parts():
    ranges = ((0, 40), (60, 75))
    assert remaining(ranges, set(), 10) == ranges
    assert remaining(ranges, {1, 7}, 10) == ((0, 10), (20, 40), (60, 70))
    assert remaining(ranges, {0, 1, 2, 3, 6, 7}, 10) == ()
