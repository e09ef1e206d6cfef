"""The samples of the last hour."""

from dataclasses import replace

import pytest

from nebfs.daemon import history
from nebfs.daemon.history import Counts, History


@pytest.fixture
def counted():
    return [Counts(warm=100, cold=100, served=1000, fetched=500, used=7, open_files=1)]


async def test_rates_are_of_what_happened_since_the_last_sample(counted, autojump_clock, nursery):
    past = History(lambda: counted[0])
    assert past.told()["served"] == []
    nursery.start_soon(past.run)
    import trio

    counted[0] = replace(counted[0], warm=109, cold=101, served=6000, fetched=1500, used=9)
    await trio.sleep(history.EVERY + 0.1)
    await trio.sleep(history.EVERY)
    told = past.told()
    assert told["served"] == [1000.0, 0.0]
    assert told["fetched"] == [200.0, 0.0]
    assert told["hit_rate"] == [0.9, None], "without reads there is no rate"
    assert told["used"] == [9.0, 9.0]
    assert told["open_files"] == [1.0, 1.0]
    nursery.cancel_scope.cancel()


async def test_only_the_last_hour_is_kept_oldest_first(counted):
    past = History(lambda: counted[0], length=4)
    for number in range(11):
        counted[0] = replace(counted[0], used=number)
        past.sample()
        assert past.told()["used"] == [float(n) for n in range(max(0, number - 3), number + 1)]
    assert history.EVERY * history.LENGTH == 3600


async def test_it_can_be_asked(counted):
    past = History(lambda: counted[0])
    past.sample()
    reply = await history.routes(past)["GET", "/v1/history"](None)
    assert b'"every": 5.0' in reply.body
