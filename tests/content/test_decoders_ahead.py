"""Parts of an image that are decoded at the same time: their order, their bounds, their end."""

from __future__ import annotations

import random
import threading
import time

import pytest

from nebfs.content.decoders import ahead as ahead_module
from nebfs.content.decoders.ahead import Ahead
from nebfs.errors import Busy, Damaged, Unsupported


@pytest.fixture
def ahead():
    made = Ahead(2)
    yield made
    made.close()
    assert [one for one in threading.enumerate() if one.name == "nebfs-decode"] == []


def copy(inputs):
    yield from inputs


def all_of(ahead, unit):
    pieces = []
    while (piece := ahead.take(unit, wait=True)) is not None:
        pieces.append(piece)
    return pieces


def until(condition):
    """Wait for what another thread is about to do."""
    for _ in range(5000):
        if condition():
            return
        time.sleep(0.001)
    raise AssertionError("it did not happen")


def test_output_that_comes_between_two_looks_is_not_lost(ahead):
    go = threading.Event()

    def late(inputs):
        go.wait()
        yield from inputs

    unit = ahead.start(late)
    ahead.give(unit, b"all", last=True)
    assert ahead.take(unit, wait=False) is None
    go.set()
    until(lambda: unit.ended)
    assert not unit.over
    assert ahead.take(unit, wait=False) == b"all"
    assert ahead.take(unit, wait=False) is None
    assert unit.over
    assert unit.failure is None


def test_no_bytes_are_no_input(ahead):
    def strict(inputs):
        for data in inputs:
            assert data
            yield data

    unit = ahead.start(strict)
    for data in (b"", b"a", b"", b"b"):
        ahead.give(unit, data)
    ahead.give(unit, b"", last=True)
    assert all_of(ahead, unit) == [b"a", b"b"]
    assert unit.failure is None


def test_units_keep_their_order_whichever_is_done_first(ahead):
    chance = random.Random(5)
    plan = [[bytes((n, m)) for m in range(chance.randrange(20))] for n in range(60)]

    def slow(inputs):
        for data in inputs:
            time.sleep(data[1] % 3 / 2000)
            yield data

    units, seen = [], []
    for parts in plan:
        unit = ahead.start(slow)
        units.append(unit)
        for data in parts:
            ahead.give(unit, data)
        ahead.give(unit, b"", last=True)
        while ahead.full:
            seen.append(all_of(ahead, units.pop(0)))
    seen += [all_of(ahead, unit) for unit in units]
    assert seen == plan


def test_what_is_decoded_too_early_waits(ahead, monkeypatch):
    monkeypatch.setattr(ahead_module, "_AHEAD", 50)
    first, second = ahead.start(copy), ahead.start(copy)
    for number in range(100):
        ahead.give(second, bytes((number,)) * 10)
    ahead.give(second, b"", last=True)
    until(lambda: second.held == 50)
    assert ahead.take(first, wait=False) is None
    # The head goes on all the same.
    for _ in range(20):
        ahead.give(first, b"0123456789")
        assert ahead.take(first, wait=True) == b"0123456789"
    assert second.held == 50
    ahead.give(first, b"", last=True)
    assert ahead.take(first, wait=True) is None
    assert len(all_of(ahead, second)) == 100


def test_a_failure_comes_behind_what_was_right(ahead):
    def failing(inputs):
        yield next(inputs)
        raise Unsupported("so far")

    def breaking(inputs):
        yield next(inputs)
        raise ZeroDivisionError

    for job, kind in ((failing, Unsupported), (breaking, Damaged)):
        unit = ahead.start(job)
        for _ in range(3):
            ahead.give(unit, b"right")
        assert all_of(ahead, unit) == [b"right"]
        assert isinstance(unit.failure, kind)
        ahead.give(unit, b"more", last=True)
    assert not ahead.full


def test_what_waits_for_a_worker_is_counted_until_it_is_taken_or_dropped(ahead, monkeypatch):
    monkeypatch.setattr(ahead_module, "_BACKLOG", 50)
    go = threading.Event()

    def stuck(inputs):
        go.wait()
        yield from inputs

    units = [ahead.start(stuck) for _ in range(3)]
    for unit in units:
        ahead.give(unit, bytes(30), last=True)
    assert ahead.full
    ahead.drop(units[2])
    assert ahead.full
    ahead.drop(units[1])
    assert not ahead.full
    go.set()
    assert all_of(ahead, units[0]) == [bytes(30)]


@pytest.mark.parametrize("state", ["nothing", "waiting for input", "waiting for room"])
def test_closing_ends_threads_whatever_they_wait_for(state, monkeypatch):
    monkeypatch.setattr(ahead_module, "_AHEAD", 5)
    made = Ahead(2)
    if state != "nothing":
        units = [made.start(copy) for _ in range(5)]
    if state == "waiting for room":
        for unit in units:
            made.give(unit, bytes(10))
            made.give(unit, bytes(10))
        until(lambda: units[0].held == 10)
    made.close()
    assert [one for one in threading.enumerate() if one.name == "nebfs-decode"] == []


def test_closing_ends_the_wait_of_another_thread():
    made = Ahead(1)
    first, second = made.start(copy), made.start(copy)
    failures = []

    def wait(unit):
        try:
            made.take(unit, wait=True)
        except Busy as exc:
            failures.append(exc)

    waiting = [threading.Thread(target=wait, args=[unit]) for unit in (first, second)]
    for thread in waiting:
        thread.start()
    made.close()
    for thread in waiting:
        thread.join(10)
        assert not thread.is_alive()
    assert len(failures) == 2


def test_without_a_thread_it_is_busy_and_with_one_it_goes_on(monkeypatch):
    made = Ahead(2)
    start = threading.Thread.start
    left = [0]

    def limited(thread):
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with pytest.raises(Busy):
        made.start(copy)
    made.close()
    made, left[0] = Ahead(2), 1
    units = [made.start(copy) for _ in range(3)]
    for unit in units:
        made.give(unit, b"x", last=True)
    assert [all_of(made, unit) for unit in units] == [[b"x"]] * 3
    made.close()
