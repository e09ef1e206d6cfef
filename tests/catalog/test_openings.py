"""The files of deferred offers: asked for once, kept, and shown while their place is away."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from nebfs.catalog import CloudSnapshot, Keeping, MarketplaceListing, Openings
from nebfs.errors import Missing, NebfsError, TimedOut, Unreachable
from nebfs.model import App, Content, Locator, Marketplace, Offer

MARKET = Marketplace(7, "Registry", driver="docker_registry")
APP = App(1, "alpine", marketplace_id=7, source="docker://host/alpine")
OFFER = Offer(APP, deferred=True)
FILES = (Content(Locator("oci", "https://host/v2/alpine/blobs/sha256:1")),)
SNAPSHOT = CloudSnapshot("x", 1.0, "7.4.0", marketplaces=(MarketplaceListing(MARKET, (OFFER,)),))


class Driver:
    def __init__(self):
        self.asked = []
        self.answer = FILES
        self.takes = 1.0

    async def __call__(self, marketplace, app, version):
        self.asked.append((marketplace, app, version))
        await trio.sleep(self.takes)
        if isinstance(self.answer, NebfsError):
            raise self.answer
        return self.answer


@pytest.fixture
def driver():
    return Driver()


@pytest.fixture
def openings(driver, shelf):
    return make(driver, shelf)


def make(driver, shelf, snapshot=SNAPSHOT):
    return Openings(
        driver,
        lambda: snapshot,
        Keeping(shelf, "openings", timeout=20.0, max_age=600.0, now=trio.current_time),
    )


async def test_an_offer_that_is_not_deferred_has_its_own_files(openings, driver, autojump_clock):
    assert await openings.contents(Offer(APP, FILES)) == FILES
    assert driver.asked == []


async def test_it_is_asked_once_and_again_when_the_answer_is_old(openings, driver, autojump_clock):
    for _ in range(3):
        assert await openings.contents(OFFER) == FILES
    assert driver.asked == [(MARKET, APP, "7.4.0")]
    await trio.sleep(601)
    driver.answer = ()
    assert await openings.contents(OFFER) == ()


async def test_another_version_of_the_app_is_another_question(openings, driver, autojump_clock):
    await openings.contents(OFFER)
    await openings.contents(replace(OFFER, app=replace(APP, version="2")))
    assert len(driver.asked) == 2


async def test_a_failure_is_raised_and_not_repeated_at_once(openings, driver, autojump_clock):
    driver.answer = Unreachable("no answer", url="https://host")
    for _ in range(3):
        with pytest.raises(Unreachable, match="no answer"):
            await openings.contents(OFFER)
    assert len(driver.asked) == 1
    await trio.sleep(11)
    driver.answer = FILES
    assert await openings.contents(OFFER) == FILES


async def test_what_was_known_is_shown_while_the_place_is_away(openings, driver, autojump_clock):
    await openings.contents(OFFER)
    await trio.sleep(601)
    driver.answer = Unreachable("no answer")
    assert await openings.contents(OFFER) == FILES
    await trio.sleep(11)
    driver.answer = Missing("it was removed")
    with pytest.raises(Missing):
        await openings.contents(OFFER)


async def test_a_place_that_hangs_is_given_up(openings, driver, autojump_clock):
    driver.takes = 3600
    with pytest.raises(TimedOut):
        await openings.contents(OFFER)
    assert trio.current_time() == pytest.approx(20)


async def test_a_marketplace_that_is_gone(driver, shelf, autojump_clock):
    openings = make(driver, shelf, replace(SNAPSHOT, marketplaces=()))
    with pytest.raises(NebfsError, match="marketplace is not there"):
        await openings.contents(OFFER)


async def test_it_is_kept_for_the_next_start(openings, driver, shelf, autojump_clock):
    await openings.contents(OFFER)
    await openings.save()
    again = make(driver, shelf)
    await again.load()
    assert await again.contents(OFFER) == FILES
    assert len(driver.asked) == 1


@pytest.mark.parametrize("kept", [b"", b"[]", b"{", b'{"x": 1}'])
async def test_what_was_kept_and_is_damaged_is_forgotten(driver, shelf, kept, autojump_clock):
    shelf.kept["openings"] = kept
    openings = make(driver, shelf)
    await openings.load()
    assert await openings.contents(OFFER) == FILES
