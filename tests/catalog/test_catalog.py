from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import trio
from structlog.testing import capture_logs

from nebfs.catalog import Catalog
from nebfs.catalog.saved import pack
from nebfs.errors import BadAnswer, CacheFault, Refused, TimedOut, Unreachable

INTERVAL = 300.0
DEADLINE = 60.0
PATIENCE = 15.0


@pytest.fixture
def catalog(world, shelf):
    return Catalog(
        world.survey,
        shelf,
        interval=INTERVAL,
        deadline=DEADLINE,
        patience=PATIENCE,
        now=world.clock,
    )


@pytest.fixture
def news(catalog):
    """What subscribers were told, as pairs of snapshots."""
    told = []
    catalog.subscribe(lambda old, new: told.append((old, new)))
    return told


@pytest.fixture
async def saved(world, shelf):
    """A snapshot of an earlier life."""
    snapshot = await world.survey()
    shelf.kept["catalogue"] = pack(snapshot)
    return snapshot


async def test_the_first_start_takes_a_survey_and_keeps_it(catalog, news, shelf):
    await catalog.start()
    assert catalog.current is not None
    assert catalog.denied == ""
    assert news == [(None, catalog.current)]
    assert list(shelf.kept) == ["catalogue"]


@pytest.mark.parametrize(
    "error", [Unreachable("no answer"), BadAnswer("not XML"), Refused("wrong password")]
)
async def test_the_first_start_without_a_front_end_fails_with_its_error(catalog, world, error):
    world.cloud.error = error
    with pytest.raises(type(error)) as caught:
        await catalog.start()
    assert caught.value is error
    assert catalog.current is None


async def test_the_first_start_with_a_hanging_front_end_ends(catalog, world, autojump_clock):
    world.cloud.hangs = True
    with pytest.raises(TimedOut):
        await catalog.start()
    assert trio.current_time() == pytest.approx(DEADLINE)


@pytest.mark.parametrize("error", [Unreachable("no answer"), BadAnswer("not XML")])
async def test_with_a_saved_snapshot_it_starts_while_the_front_end_is_down(
    catalog, news, world, saved, error
):
    world.cloud.error = error
    with capture_logs() as lines:
        await catalog.start()
    assert catalog.current == replace(saved, trouble=str(error))
    assert catalog.denied == ""
    assert news == [(None, saved), (saved, catalog.current)]
    assert [line["age"] for line in lines if line["event"] == "catalog.started_from_saved"]


async def test_with_a_saved_snapshot_a_hanging_front_end_costs_the_deadline_and_shows_the_saved(
    catalog, world, saved, autojump_clock
):
    world.cloud.hangs = True
    shown = trio.Event()
    catalog.subscribe(lambda old, new: shown.set())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(catalog.start)
        await shown.wait()
        assert catalog.current == saved
        assert trio.current_time() == 0
    assert trio.current_time() == pytest.approx(DEADLINE, abs=1)
    assert "in time" in catalog.current.trouble


async def test_a_wrong_password_stops_the_start_in_spite_of_a_saved_snapshot(catalog, world, saved):
    world.cloud.error = Refused("wrong password")
    with pytest.raises(Refused):
        await catalog.start()
    assert catalog.denied == "wrong password"


async def test_an_unchanged_cloud_is_no_news_and_is_not_saved_again(catalog, news, shelf, saved):
    await catalog.start()
    assert news == [(None, saved)]
    await catalog.refresh()
    assert len(news) == 1
    assert shelf.saves == 0
    assert catalog.current.taken > saved.taken


async def test_a_change_is_told_and_saved_once(catalog, news, shelf, world, make):
    await catalog.start()
    before = catalog.current
    world.cloud._apps.append(make.app(3))
    assert await catalog.refresh() is None
    assert news[1:] == [(before, catalog.current)]
    assert shelf.saves == 2
    await catalog.refresh()
    assert (len(news), shelf.saves) == (2, 2)


async def test_unreachable_is_not_deleted(catalog, news, world):
    await catalog.start()
    good = catalog.current
    world.cloud.error = Unreachable("no answer")
    failure = await catalog.refresh()
    assert isinstance(failure, Unreachable)
    assert catalog.current == replace(good, trouble="no answer")
    await catalog.refresh()
    assert len(news) == 2
    world.cloud.error = None
    assert await catalog.refresh() is None
    assert catalog.current.trouble == ""
    assert len(news) == 3


async def test_an_outage_is_not_what_is_saved(catalog, shelf, world):
    await catalog.start()
    kept = dict(shelf.kept)
    world.cloud.error = Unreachable("no answer")
    await catalog.refresh()
    assert shelf.kept == kept


async def test_a_session_that_is_not_accepted_any_more_denies_until_it_is_again(
    catalog, news, world
):
    await catalog.start()
    world.cloud.error = Refused("the password has changed")
    assert isinstance(await catalog.refresh(), Refused)
    assert catalog.denied == "the password has changed"
    # A front-end that cannot be reached has not let us in again.
    world.cloud.error = Unreachable("no answer")
    await catalog.refresh()
    assert catalog.denied == "the password has changed"
    world.cloud.error = None
    await catalog.refresh()
    assert catalog.denied == ""
    assert [new.trouble for _, new in news] == ["", "the password has changed", "no answer", ""]


async def test_concurrent_refreshes_share_one_survey(catalog, world, autojump_clock):
    await catalog.start()
    world.cloud.takes = 1.0
    world.cloud.error = failure = Unreachable("no answer")
    before = world.surveys
    answers = []

    async def refresh():
        answers.append(await catalog.refresh())

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(refresh)
    assert world.surveys == before + 1
    assert answers == [failure] * 10
    await catalog.refresh()
    assert world.surveys == before + 2


async def test_when_the_one_that_surveys_is_cancelled_another_takes_over(
    catalog, world, autojump_clock
):
    await catalog.start()
    world.cloud.takes = 5.0
    before = world.surveys
    answers = []

    async def refresh():
        answers.append(await catalog.refresh())

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(1):
            nursery.start_soon(refresh_later, refresh)
            await catalog.refresh()
    assert answers == [None]
    assert world.surveys == before + 2


async def refresh_later(refresh):
    await trio.sleep(0.5)
    await refresh()


async def test_a_refresh_ends_even_when_the_front_end_hangs(catalog, world, autojump_clock):
    await catalog.start()
    world.cloud.hangs = True
    assert isinstance(await catalog.refresh(), TimedOut)
    assert trio.current_time() <= INTERVAL + 1


@pytest.mark.parametrize("only", [None, ("marketplace", 0), ("datastore", 1)])
async def test_who_waits_for_a_refresh_soon_hears_that_the_front_end_hangs(
    catalog, world, autojump_clock, only
):
    await catalog.start()
    good = catalog.current
    world.cloud.hangs = True
    began = trio.current_time()
    failure = await catalog.refresh(only, awaited=True)
    assert trio.current_time() - began == pytest.approx(PATIENCE)
    assert isinstance(failure, TimedOut)
    assert str(failure) == "the front-end did not answer in time (after=15 s)"
    assert catalog.current == replace(good, trouble=str(failure)), "the last lists stay"


async def test_a_front_end_that_is_slow_in_each_round_and_places_that_hang_are_waited_for(
    catalog, world, autojump_clock
):
    await catalog.start()
    world.cloud.takes = 0.9 * PATIENCE
    world.driver("fs").hangs = True
    began = trio.current_time()
    assert await catalog.refresh(awaited=True) is None
    assert trio.current_time() - began > 2 * world.cloud.takes
    assert [bool(d.trouble) for d in catalog.current.datastores] == [True]


async def test_who_joins_a_survey_that_hangs_does_not_wait_for_its_end(
    catalog, world, autojump_clock
):
    await catalog.start()
    good = catalog.current
    world.cloud.hangs = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(catalog.refresh)
        await trio.sleep(1)
        asked = world.surveys
        began = trio.current_time()
        failure = await catalog.refresh(awaited=True)
        assert trio.current_time() - began == pytest.approx(DEADLINE)
        assert isinstance(failure, TimedOut)
        assert str(failure).startswith("the front-end did not answer in time")
        assert world.surveys == asked
        assert catalog.current == good
        world.cloud.hangs = False
        nursery.cancel_scope.cancel()
    assert await catalog.refresh(awaited=True) is None


async def test_it_refreshes_on_the_interval(catalog, world, autojump_clock):
    # No other timer may be pending here: the clock would jump to it while a thread still works.
    times = []

    async def survey(previous, only=None, *, patience):
        times.append(trio.current_time())
        if len(times) == 11:
            nursery.cancel_scope.cancel()
        return await world.survey(previous)

    catalog._survey = survey
    await catalog.start()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(catalog.run)
    gaps = [later - sooner for sooner, later in pairwise(times)]
    assert len(gaps) == 10
    assert all(0.9 * INTERVAL <= gap <= 1.1 * INTERVAL for gap in gaps)
    assert len(set(gaps)) > 1


async def test_an_outage_is_logged_at_growing_distances(catalog, world):
    await catalog.start()
    world.cloud.error = Unreachable("no answer")
    with capture_logs() as lines:
        for _ in range(20):
            await catalog.refresh()
        world.cloud.error = None
        await catalog.refresh()
        await catalog.refresh()
    assert [(line["event"], line["failures"]) for line in lines] == [
        *(("catalog.refresh_failed", n) for n in (1, 2, 4, 8, 16)),
        ("catalog.refreshed_again", 20),
    ]


async def test_a_bug_in_the_survey_does_not_end_the_mount(catalog, world):
    await catalog.start()
    good = catalog.current
    world.cloud.error = ZeroDivisionError("canary")
    with capture_logs() as lines:
        failure = await catalog.refresh()
    assert failure is not None
    assert catalog.current.marketplaces == good.marketplaces
    assert "canary" not in catalog.current.trouble
    assert "catalog.bug" in [line["event"] for line in lines]


async def test_a_bug_in_one_subscriber_does_not_keep_the_news_from_the_next(catalog, world):
    told = []
    catalog.subscribe(lambda old, new: 1 // 0)
    catalog.subscribe(lambda old, new: told.append(new))
    with capture_logs() as lines:
        await catalog.start()
    assert told == [catalog.current]
    assert "catalog.subscriber_bug" in [line["event"] for line in lines]


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"nebfs-catalogue 99 x\n{}"])
async def test_a_corrupt_saved_file_is_as_none_and_is_replaced(catalog, news, shelf, data):
    shelf.kept["catalogue"] = data
    with capture_logs() as lines:
        await catalog.start()
    assert [line["event"] for line in lines] == ["catalog.saved_ignored"]
    assert news == [(None, catalog.current)]
    assert shelf.kept["catalogue"] != data


async def test_a_corrupt_saved_file_and_no_front_end_is_the_front_ends_error(catalog, shelf, world):
    shelf.kept["catalogue"] = b"corrupt"
    world.cloud.error = Unreachable("no answer")
    with capture_logs(), pytest.raises(Unreachable):
        await catalog.start()


@pytest.mark.parametrize("error", [CacheFault("full"), OSError("full")])
async def test_a_broken_disk_costs_only_the_saved_copy(catalog, shelf, error):
    shelf.broken = error
    with capture_logs() as lines:
        await catalog.start()
    assert catalog.current is not None
    assert [line["event"] for line in lines] == ["catalog.not_loaded", "catalog.not_saved"]
    shelf.broken = None
    await catalog.refresh()
    assert shelf.saves == 1


async def test_a_place_that_hangs_at_the_first_start_does_not_fail_it(
    catalog, world, make, autojump_clock
):
    world.cloud._marketplaces = [make.marketplace(0), make.marketplace(1, driver="slow")]
    world.driver("slow").hangs = True
    with capture_logs():
        await catalog.start()
    good, hung = catalog.current.marketplaces
    assert good.as_of > 0
    assert (hung.as_of, hung.trouble) == (0.0, "no answer within 10 s")


async def test_places_that_were_down_at_the_start_are_shown_as_they_were_saved(
    catalog, world, saved
):
    world.driver("one").error = Unreachable("no answer")
    with capture_logs():
        await catalog.start()
    for old, new in zip(saved.marketplaces, catalog.current.marketplaces, strict=True):
        assert new == replace(old, trouble="no answer")


async def test_another_users_snapshot_is_another_document(world, shelf, saved):
    world.cloud.error = Unreachable("no answer")
    theirs = Catalog(
        world.survey, shelf, interval=INTERVAL, deadline=DEADLINE, document="catalogue-bob"
    )
    with pytest.raises(Unreachable):
        await theirs.start()
