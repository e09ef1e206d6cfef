"""What was waited for in vain, and is asked for again."""

from __future__ import annotations

import pytest
import trio

from nebfs.errors import Changed, NebfsError, TimedOut, Unreachable
from nebfs.fuse.given_up import MOMENT, MOST, GivenUp

HANDLE, PAGE = 7, 4096


async def give_up(given_up, after=2.0, failure=None, handle=HANDLE):
    with pytest.raises((NebfsError, trio.TooSlowError)), given_up.waiting(handle, 10 * PAGE, PAGE):
        await trio.sleep(after)
        raise failure or trio.TooSlowError


def asks(given_up, offset=10 * PAGE, size=PAGE, handle=HANDLE):
    with given_up.waiting(handle, offset, size):
        return "asked"


@pytest.mark.parametrize(
    ("offset", "size"), [(10 * PAGE, PAGE), (0, 20 * PAGE), (11 * PAGE - 1, 1)]
)
async def test_the_same_bytes_are_the_same_error_once(autojump_clock, offset, size):
    given_up = GivenUp()
    await give_up(given_up)
    assert asks(given_up, 11 * PAGE) == asks(given_up, 0, 10 * PAGE) == "asked"
    assert asks(given_up, handle=HANDLE + 1) == "asked"
    with pytest.raises(TimedOut):
        asks(given_up, offset, size)
    assert asks(given_up, offset, size) == "asked"


async def test_after_a_moment_they_are_asked_for_again(autojump_clock):
    given_up = GivenUp()
    await give_up(given_up)
    await trio.sleep(MOMENT + 0.01)
    assert asks(given_up) == "asked"
    assert not given_up._reads


async def test_a_failure_keeps_its_kind(autojump_clock):
    given_up = GivenUp()
    await give_up(given_up, failure=Unreachable("nobody there"))
    with pytest.raises(Unreachable, match="nobody there"):
        asks(given_up)


async def test_what_failed_at_once_is_asked_for_again(autojump_clock):
    given_up = GivenUp()
    await give_up(given_up, after=MOMENT / 2, failure=Unreachable("nobody there"))
    await give_up(given_up, failure=Changed("another version"))
    assert asks(given_up) == "asked"


async def test_it_does_not_remember_without_an_end(autojump_clock):
    given_up = GivenUp()
    async with trio.open_nursery() as nursery:
        for handle in range(MOST + 10):
            nursery.start_soon(lambda handle=handle: give_up(given_up, handle=handle))
    assert len(given_up._reads) == MOST
