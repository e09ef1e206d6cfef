"""Work that tells how far it is, and ends when nobody listens."""

import math

import pytest
import trio

from nebfs.daemon.jobs import done
from nebfs.errors import NebfsError, Unreachable


async def test_the_news_come_while_it_goes_on_and_after_it(nursery, autojump_clock):
    steps = [0]

    async def work():
        for _ in range(3):
            await trio.sleep(1)
            steps[0] += 1

    told = [one["step"] async for one in done(nursery, work, lambda: [{"step": steps[0]}], 0.5)]
    assert told[0] == 0
    assert told[-1] == 3
    assert 6 <= len(told) <= 8


async def test_it_ends_when_nobody_listens(nursery, autojump_clock):
    ended = trio.Event()

    async def work():
        try:
            await trio.sleep(math.inf)
        finally:
            ended.set()

    answer = done(nursery, work, lambda: [{}])
    await anext(answer)
    await anext(answer)
    await answer.aclose()
    assert ended.is_set()


async def test_it_ends_when_the_listener_is_cancelled(nursery, autojump_clock):
    ended = trio.Event()

    async def work():
        try:
            await trio.sleep(math.inf)
        finally:
            ended.set()

    with trio.move_on_after(3):
        async for _ in done(nursery, work, lambda: [{}]):
            pass
    assert ended.is_set()


@pytest.mark.parametrize(
    ("failure", "kind"), [(Unreachable("gone"), Unreachable), (ValueError("bug"), NebfsError)]
)
async def test_what_it_raises_comes_after_the_last_news(nursery, failure, kind):
    async def work():
        raise failure

    told = []
    with pytest.raises(kind):
        async for one in done(nursery, work, lambda: [{"last": True}]):
            told.append(one)
    assert told[-1] == {"last": True}
