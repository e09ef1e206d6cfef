from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebfs.errors import Unreachable
from nebfs.opennebula import CannotSend, MalformedDocument
from nebfs.opennebula.ranges import HOPELESS, LAST, PAGE, Range, plan, split, survey

IDS = st.lists(st.integers(0, 5000), unique=True, max_size=60).map(sorted)
STEADY = settings(derandomize=True, database=None, deadline=None)


class Scripted:
    """Holds `present` ids; a range that includes one of `bad` faults."""

    def __init__(self, present, bad=(), error=None):
        self.present, self.bad = sorted(present), set(bad)
        self.error = error or CannotSend("not valid UTF-8", code=-500)
        self.asked = []

    async def __call__(self, span):
        self.asked.append(span)
        if any(span.first <= number <= span.last for number in self.bad):
            raise self.error
        return [number for number in self.present if span.first <= number <= span.last]


def test_bounds_are_the_parameters_of_a_pool_call():
    assert Range().bounds == (-1, -1)
    assert Range(37).bounds == (37, -1)
    assert Range(0, 36).bounds == (0, 36)


def test_a_small_pool_is_one_call_and_a_big_one_is_ranges_with_an_open_end():
    assert plan(range(PAGE)) == (Range(),)
    assert plan([]) == (Range(),)
    assert plan(range(0, 25, 5), page=2) == (Range(0, 5), Range(6, 15), Range(16))
    assert plan(range(4), page=2) == (Range(0, 1), Range(2, 3), Range(4))


@STEADY
@given(known=IDS, page=st.integers(1, 20))
def test_the_planned_ranges_touch_cover_everything_and_are_bounded(known, page):
    spans = plan(known, page)
    assert (spans[0].first, spans[-1].last) == (0, LAST)
    for left, right in itertools.pairwise(spans):
        assert left.last + 1 == right.first
    assert all(sum(s.first <= n <= s.last for n in known) <= page for s in spans)


@STEADY
@given(known=IDS, first=st.integers(0, 6000), length=st.integers(2, 6000) | st.just(LAST))
def test_splitting_leaves_no_id_out(known, first, length):
    span = Range(first, min(first + length - 1, LAST))
    low, high = split(span, known)
    assert (low.first, high.last) == (span.first, span.last)
    assert low.first <= low.last
    assert low.last + 1 == high.first <= high.last


@STEADY
@given(
    known=IDS,
    extra=st.sets(st.integers(0, 20_000), max_size=8),
    bad=st.sets(st.integers(0, 20_000), max_size=6),
    page=st.integers(1, 50),
)
async def test_everything_but_the_unreadable_is_found_wherever_it_is(known, extra, bad, page):
    present = (set(known) | extra) - bad
    server = Scripted(present, bad)
    result = await survey(server, known, page=page)
    assert sorted(result.found) == sorted(present)
    assert set(result.unreadable) == bad
    assert result.calls == len(server.asked)


@pytest.mark.parametrize("bad", [0, 1, 499, 500, 998, 999])
async def test_one_bad_object_in_a_thousand_costs_two_calls_for_each_halving(bad):
    server = Scripted(range(1000), [bad])
    result = await survey(server, range(1000))
    assert list(result.unreadable) == [bad]
    assert len(result.found) == 999
    assert result.calls <= 2 * (math.ceil(math.log2(1000)) + 2) + 1


async def test_a_bad_object_that_nobody_knew_of_is_found_above_all_known_ids():
    server = Scripted(range(10), [12_345])
    result = await survey(server, range(10))
    assert list(result.unreadable) == [12_345]
    assert result.calls < 70


async def test_many_bad_objects_do_not_make_the_front_end_look_broken():
    bad = set(range(0, 2000, 7))
    result = await survey(Scripted(set(range(2000)) - bad, bad), range(2000))
    assert set(result.unreadable) == bad
    assert len(result.found) == 2000 - len(bad)


async def test_a_pool_of_only_bad_objects_is_only_placeholders():
    result = await survey(Scripted([], range(300)), range(300))
    assert set(result.unreadable) == set(range(300))


async def test_a_front_end_that_faults_at_everything_is_given_up_after_some_calls():
    calls = 0

    async def broken(span):
        nonlocal calls
        calls += 1
        raise CannotSend("the database is gone", code=-500)

    with pytest.raises(CannotSend, match="database"):
        await survey(broken, range(2000))
    assert calls == HOPELESS


async def test_a_document_that_cannot_be_parsed_is_isolated_like_one_that_cannot_be_sent():
    server = Scripted(set(range(50)) - {31}, [31], MalformedDocument("not well-formed"))
    result = await survey(server, range(50))
    assert result.unreadable == {31: "not well-formed"}
    assert len(result.found) == 49


async def test_any_other_failure_ends_the_listing_instead_of_shortening_it():
    server = Scripted(range(50), [31], Unreachable("gone"))
    with pytest.raises(Unreachable):
        await survey(server, range(50), page=10)
