from __future__ import annotations

import errno
from dataclasses import replace

import pytest
import trio
from structlog.testing import capture_logs

from nebfs.catalog import changed_places
from nebfs.catalog.homes import marketplaces_at
from nebfs.catalog.lists import FrontEnd
from nebfs.datastores import DatastoreDrivers
from nebfs.errors import Refused, Unreachable
from nebfs.marketplaces import driver_for
from nebfs.model import AppState, AppType, DatastoreType, ImageState, Permissions
from nebfs.opennebula import FrontEnd as RealFrontEnd


def market(snapshot, number):
    return next(m for m in snapshot.marketplaces if m.marketplace.id == number)


def store(snapshot, number):
    return next(d for d in snapshot.datastores if d.datastore.id == number)


def ids(listing):
    if hasattr(listing, "offers"):
        return [offer.app.id for offer in listing.offers]
    return [holding.image.id for holding in listing.holdings]


def test_the_real_front_end_is_what_a_survey_needs():
    def accept(front_end: FrontEnd) -> None: ...

    asked = [name for name in vars(FrontEnd) if not name.startswith("_")]
    assert [name for name in asked if not callable(getattr(RealFrontEnd, name, None))] == []


async def test_everything_is_in_its_place_in_ascending_order(world):
    snapshot = await world.survey()
    assert snapshot.source == "http://one.example.org/RPC2"
    assert snapshot.version == "7.4.0"
    assert snapshot.user.name == "alice"
    assert [zone.name for zone in snapshot.zones] == ["OpenNebula"]
    assert [m.marketplace.id for m in snapshot.marketplaces] == [0, 1]
    assert ids(market(snapshot, 0)) == [1, 2]
    assert ids(market(snapshot, 1)) == [101, 102]
    assert ids(store(snapshot, 1)) == [100, 101]
    assert snapshot.taken > market(snapshot, 0).as_of > 0
    assert snapshot.trouble == market(snapshot, 0).trouble == ""
    assert world.versions == {"7.4.0"}


async def test_the_pools_are_asked_at_once_with_the_ids_they_should_hold(world, autojump_clock):
    world.cloud.takes = 1.0
    world.cloud._datastores = [replace(world.cloud._datastores[0], image_ids=(100, 101))]
    before = trio.current_time()
    await world.survey()
    assert trio.current_time() - before == pytest.approx(2.0)
    assert world.cloud.most_parallel == 5
    assert {1: 0, 2: 0, 101: 1, 102: 1} in world.cloud.known_ids
    assert {100: 1, 101: 1} in world.cloud.known_ids


@pytest.mark.parametrize("error", [Refused("who?"), Unreachable("no answer")])
async def test_when_a_list_fails_the_survey_fails_with_that_very_error(world, error):
    world.cloud.error = error
    with pytest.raises(type(error)) as caught:
        await world.survey()
    assert caught.value is error


async def test_a_refused_session_is_the_reason_when_several_lists_fail(world, monkeypatch):
    async def refuse():
        raise Refused("who?")

    world.cloud.error = Unreachable("no answer")
    monkeypatch.setattr(world.cloud, "datastores", refuse)
    with pytest.raises(Refused):
        await world.survey()


async def test_objects_whose_place_is_invisible_get_a_place(world, make):
    cloud = world.cloud
    cloud._marketplaces, cloud._datastores = [make.marketplace(0)], []
    cloud._apps = [make.app(1), make.app(101), make.app(102, marketplace="", unreadable="emoji")]
    cloud._images = [
        make.image(100),
        make.image(700, datastore=""),
        make.image(5, datastore_id=-1, datastore=""),
    ]
    snapshot = await world.survey()
    hidden = market(snapshot, 1).marketplace
    assert (hidden.name, hidden.driver) == ("market 1", "")
    assert ids(market(snapshot, 1)) == [101, 102]
    stores = [(d.datastore.id, d.datastore.name) for d in snapshot.datastores]
    assert stores == [(-1, "unknown datastore"), (1, "store 1"), (7, "datastore 7")]


async def test_with_real_drivers_an_invisible_place_means_trouble_for_its_objects(world, make):
    world.cloud._marketplaces = world.cloud._datastores = []

    async def call(_):
        raise AssertionError("nobody is to be asked")

    surveyor = replace(
        world.surveyor,
        marketplace_driver=lambda name, version: driver_for(name, call=call, version=version),
        datastore_driver=DatastoreDrivers(),
    )
    snapshot = await surveyor.cloud(world.cloud, "http://one", None)
    for offer in market(snapshot, 0).offers:
        assert offer.trouble.errno == errno.EOPNOTSUPP
    for holding in store(snapshot, 1).holdings:
        assert holding.trouble.errno == errno.EOPNOTSUPP


async def test_a_disabled_marketplace_is_listed_and_its_driver_not_asked(world, make):
    world.cloud._marketplaces = [make.marketplace(0, enabled=False, driver="off")]
    world.cloud._apps = [make.app(1), make.app(2, type=AppType.VMTEMPLATE)]
    listing = market(await world.survey(), 0)
    assert world.driver("off").asked == 0
    assert "disabled" in listing.trouble
    assert listing.as_of > 0
    assert listing.offers[0].trouble.errno == errno.EACCES
    assert listing.offers[1].trouble is None


async def test_a_hanging_place_keeps_its_listing_and_delays_nobody_beyond_its_deadline(
    world, make, autojump_clock
):
    world.cloud._marketplaces = [make.marketplace(0), make.marketplace(1, driver="slow")]
    first = await world.survey()
    world.driver("slow").hangs = True
    before = trio.current_time()
    with capture_logs() as lines:
        second = await world.survey(first)
        third = await world.survey(second)
    assert trio.current_time() - before == pytest.approx(20.0)
    assert market(second, 1).offers == market(first, 1).offers
    assert market(second, 1).as_of == market(first, 1).as_of
    assert market(second, 1).trouble == "no answer within 10 s"
    assert market(second, 0).as_of > market(first, 0).as_of
    assert market(second, 0).trouble == ""
    assert changed_places(first, second) == {("marketplace", 1)}
    assert changed_places(second, third) == frozenset()
    assert [line["event"] for line in lines] == ["place.failed"]
    world.driver("slow").hangs = False
    with capture_logs() as lines:
        assert market(await world.survey(third), 1).trouble == ""
    assert [line["event"] for line in lines] == ["place.answers_again"]


async def test_a_bug_in_one_driver_is_that_places_trouble(world, make):
    world.cloud._datastores = [make.datastore(1), make.datastore(2, driver="buggy")]
    world.cloud._images = [make.image(100), make.image(200)]
    first = await world.survey()
    world.driver("buggy").error = ZeroDivisionError("secret detail")
    with capture_logs() as lines:
        second = await world.survey(first)
    assert store(second, 2).holdings == store(first, 2).holdings
    assert "ZeroDivisionError" in store(second, 2).trouble
    assert "secret" not in store(second, 2).trouble
    assert store(second, 1).trouble == ""
    assert "place.bug" in [line["event"] for line in lines]


async def test_a_place_that_never_answered_has_no_date_and_its_objects_say_why(world):
    world.driver("fs").error = Unreachable("the disk is away")
    listing = store(await world.survey(), 1)
    assert (listing.as_of, listing.trouble) == (0.0, "the disk is away")
    assert ids(listing) == [100, 101]
    for holding in listing.holdings:
        assert holding.trouble.errno == errno.EIO
        assert "the disk is away" in holding.trouble.reason


async def test_a_right_that_was_lost_is_lost_also_while_the_place_is_down(world, make):
    first = await world.survey()
    world.driver("one").error = Unreachable("no answer")
    world.driver("fs").error = Unreachable("no answer")
    world.cloud._apps = [make.app(2, state=AppState.DISABLED), make.app(101)]
    world.cloud._images = [make.image(101, state=ImageState.LOCKED)]
    second = await world.survey(first)
    assert ids(market(second, 0)) == [2]
    assert market(second, 0).offers[0].contents == ()
    assert market(second, 0).offers[0].trouble.errno == errno.EACCES
    assert market(second, 1).offers[0].contents == market(first, 1).offers[0].contents
    (holding,) = store(second, 1).holdings
    assert holding.trouble.errno == errno.EBUSY


async def test_while_a_place_is_down_only_unchanged_records_keep_their_bytes(world, make):
    first = await world.survey()
    world.driver("one").error = Unreachable("no answer")
    world.driver("fs").error = Unreachable("no answer")
    chmod = Permissions(6, 4, 0)
    world.cloud._apps = [make.app(1, permissions=chmod), make.app(2, version="2"), make.app(3)]
    world.cloud._images = [make.image(100, state=ImageState.USED), make.image(101, modtime=9)]
    second = await world.survey(first)
    same, changed, new = market(second, 0).offers
    assert (same.app.permissions, same.contents) == (chmod, market(first, 0).offers[0].contents)
    for offer in (changed, new):
        assert offer.trouble.errno == errno.EIO
        assert "no answer" in offer.trouble.reason
    same, changed = store(second, 1).holdings
    assert same.content is not None
    assert changed.trouble.errno == errno.EIO


async def test_a_place_that_is_gone_is_gone(world, make):
    first = await world.survey()
    world.cloud._marketplaces = [make.marketplace(1)]
    world.cloud._apps = [make.app(101)]
    second = await world.survey(first)
    assert [m.marketplace.id for m in second.marketplaces] == [1]
    assert ("marketplace", 0) in changed_places(first, second)


async def test_another_clouds_snapshot_is_not_used(world):
    first = replace(await world.survey(), source="http://another.example.org/RPC2")
    world.driver("one").error = Unreachable("no answer")
    assert market(await world.survey(first), 0).as_of == 0.0


async def test_a_system_datastore_is_there_and_empty(world, make):
    world.cloud._datastores = [make.datastore(0, type=DatastoreType.SYSTEM)]
    world.cloud._images = []
    surveyor = replace(world.surveyor, datastore_driver=DatastoreDrivers())
    listing = store(await surveyor.cloud(world.cloud, "http://one", None), 0)
    assert (listing.holdings, listing.trouble) == ((), "")


async def test_public_marketplaces_need_no_front_end(world):
    urls = [
        "https://bob:canary@a.example.org/",
        "http://b.example.org/x",
        "http://b.example.org/x/",
    ]
    first = await world.surveyor.marketplaces(urls, None)
    assert first.source == "https://a.example.org/ http://b.example.org/x http://b.example.org/x/"
    assert "canary" not in repr(first)
    names = {m.marketplace.name: m.marketplace for m in first.marketplaces}
    assert sorted(names) == ["a.example.org", "b.example.org/x"]
    assert names["a.example.org"].template.get("ENDPOINT") == "https://bob:canary@a.example.org"
    assert all(m.marketplace.driver == "one" and m.offers for m in first.marketplaces)
    assert (first.user, first.version, first.datastores) == (None, "", ())
    assert world.versions == {""}

    again = await world.surveyor.marketplaces(urls[::-1], None)
    assert [m.marketplace.id for m in again.marketplaces] == [
        m.marketplace.id for m in first.marketplaces
    ]
    world.driver("one").error = Unreachable("no answer")
    down = await world.surveyor.marketplaces(urls, first)
    assert [m.offers for m in down.marketplaces] == [m.offers for m in first.marketplaces]
    never = await world.surveyor.marketplaces(urls, None)
    assert [(m.as_of, m.offers) for m in never.marketplaces] == [(0.0, ())] * 2


@pytest.mark.parametrize(
    ("url", "driver", "where", "endpoint", "name"),
    [
        ("https://m.example.org/", "one", "ENDPOINT", "https://m.example.org", "m.example.org"),
        ("http://h/a+b://c", "one", "ENDPOINT", "http://h/a+b://c", "h/a+b://c"),
        ("linuxcontainers+https://i", "linuxcontainers", "ENDPOINT", "https://i", "i"),
        ("docker-registry+http://r:5000", "docker_registry", "BASE_URL", "http://r:5000", "r:5000"),
        ("Dockerhub+https://bob:canary@hub", "dockerhub", "ENDPOINT", None, "hub"),
    ],
)
def test_an_address_may_say_what_type_of_marketplace_it_is(url, driver, where, endpoint, name):
    (found,) = marketplaces_at([url])
    assert (found.driver, found.name) == (driver, name)
    assert found.template.get("MARKET_MAD") == driver
    if endpoint is not None:
        assert found.template.get(where) == endpoint


@pytest.mark.parametrize(("persistent", "mutable"), [(True, True), (False, False)])
async def test_the_bytes_of_a_persistent_image_do_not_stay_as_they_are(
    world, make, persistent, mutable
):
    world.cloud._images = [replace(image, persistent=persistent) for image in world.cloud._images]
    snapshot = await world.survey()
    contents = [h.content for listing in snapshot.datastores for h in listing.holdings if h.content]
    assert contents
    assert {content.mutable for content in contents} == {mutable}
