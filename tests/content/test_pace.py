"""What a place is like, as its answers show it."""

from __future__ import annotations

from nebfs.content.pace import LARGEST, LONGEST, OPENED, PAUSE, WORTHWHILE, Pace
from nebfs.units import KIB, MIB


def test_nothing_is_guessed_around_what_comes_at_once():
    pace = Pace()
    pace.note(0.0003, 0.001, 4 * MIB)
    assert not pace.far
    assert pace.around == 0
    assert pace.order == LARGEST


def test_around_grows_with_latency_and_rate_up_to_its_limit():
    near, far = Pace(0.004), Pace(0.02)
    assert near.far
    assert 0 < near.around < far.around == WORTHWHILE
    assert far.order == LONGEST


def test_connections_are_narrow_at_first_and_after_each_pause():
    pace = Pace(0.02)
    assert pace.narrow(100.0)
    pace.arrived(OPENED - 1, 100.0)
    assert pace.narrow(100.1)
    pace.arrived(1, 100.1)
    assert not pace.narrow(100.1 + PAUSE)
    assert pace.narrow(100.1 + PAUSE + 0.03)
    pace.arrived(OPENED // 2, 101.0)
    assert pace.narrow(101.0)
    assert pace.bytes == OPENED + OPENED // 2


def test_those_to_a_place_nearby_are_never_narrow():
    assert not Pace(0.0005).narrow(100.0)


def test_the_best_latency_counts_and_is_forgotten_slowly():
    pace = Pace()
    pace.note(0.02, 0.01, 64 * KIB)
    pace.note(0.2, 0.01, 64 * KIB)
    assert 0.02 <= pace.latency < 0.03
    pace.note(0.01, 0.01, 64 * KIB)
    assert pace.latency == 0.01


def test_bytes_that_waited_in_our_own_buffers_are_no_rate():
    pace = Pace(0.02)
    before = pace.rate
    for _ in range(100):
        # A mebibyte that took 40 ms on its way, and was then found whole.
        pace.note(0.06, 0.00001, MIB)
    assert pace.rate < before


def test_small_answers_say_nothing_about_the_rate():
    pace = Pace(0.02)
    before = pace.rate
    pace.note(0.02, 0.00001, 128 * KIB)
    assert pace.rate == before
