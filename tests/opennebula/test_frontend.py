from __future__ import annotations

import math
import xmlrpc.client

import pytest
import structlog
import trio

from nebfs.errors import BadAnswer, Refused
from nebfs.fetcher.messages import CallAnswer
from nebfs.model import App, Image
from nebfs.opennebula import NotAuthenticated, app_homes, image_homes
from nebfs.opennebula.ranges import PAGE

USERS = {"oneadmin": "opennebula", "alice": "alicepass", "carol": "carolpass"}
LISTS = (
    "system.version",
    "zonepool.info",
    "marketpool.info",
    "marketapppool.info",
    "datastorepool.info",
    "imagepool.info",
    "user.info-self",
)


def recorded(kit, user):
    server = kit.Recorded(*(f"{name}-{user}" for name in LISTS))
    return server, kit.front_end(server, user, USERS[user])


@pytest.mark.parametrize("user", USERS)
async def test_every_listing_makes_the_very_call_that_was_recorded(kit, user):
    # The recording front-end knows no other calls: a different parameter would be a KeyError.
    server, front_end = recorded(kit, user)
    assert await front_end.version() == "7.4.0"
    assert (await front_end.user()).name == user
    assert [zone.id for zone in await front_end.zones()] == [0]
    markets = await front_end.marketplaces()
    stores = await front_end.datastores()
    apps = await front_end.apps(app_homes(markets))
    images = await front_end.images(image_homes(stores))
    assert len(server.calls) == 7
    for listing in (markets, stores, apps, images):
        assert [one.id for one in listing] == sorted(one.id for one in listing)
    counts = {"oneadmin": (4, 36, 7, 51), "alice": (4, 36, 7, None), "carol": (2, 29, 0, 3)}[user]
    assert (len(markets), len(apps), len(stores)) == counts[:3]
    assert counts[3] in {None, len(images)}


async def test_apps_and_images_whose_place_is_invisible_still_name_it(kit):
    _, front_end = recorded(kit, "carol")
    markets = {market.id for market in await front_end.marketplaces()}
    hidden = [app for app in await front_end.apps() if app.marketplace_id not in markets]
    assert hidden
    assert {app.marketplace_id for app in hidden} <= {100, 101}
    assert all(app.marketplace for app in hidden)
    images = await front_end.images()
    assert await front_end.datastores() == ()
    assert images
    assert all(image.datastore and image.datastore_id >= 0 for image in images)


async def test_a_refused_login_is_its_own_error(kit):
    server = kit.Recorded("error-version-bad-password")
    with pytest.raises(NotAuthenticated) as caught:
        await kit.front_end(server, "oneadmin", "wrong").version()
    assert isinstance(caught.value, Refused)
    assert caught.value.login_refused


@pytest.mark.parametrize(
    ("source", "tag", "range_", "recording"),
    [
        ("imagepool.info-oneadmin", "IMAGE", (0, 3), "imagepool.info-range-0-3"),
        ("imagepool.info-oneadmin", "IMAGE", (900000, 900010), "imagepool.info-range-beyond"),
        (
            "marketapppool.info-range-around-bad-app",
            "MARKETPLACEAPP",
            (0, 36),
            "marketapppool.info-range-around-bad-app",
        ),
        (
            "marketapppool.info-oneadmin",
            "MARKETPLACEAPP",
            (900000, 900010),
            "marketapppool.info-range-beyond",
        ),
    ],
)
def test_the_fake_pool_answers_ranges_as_the_real_one_did(kit, source, tag, range_, recording):
    answer = xmlrpc.client.loads((kit.oned / f"{recording}.response.xml").read_bytes())
    assert xmlrpc.client.loads(kit.Pool(source, tag).body(*range_)) == answer


async def test_one_emoji_in_an_app_does_not_hide_the_marketplace(kit):
    pool = kit.Pool("marketapppool.info-range-around-bad-app", "MARKETPLACEAPP", bad=(37,))
    homes = dict.fromkeys([*pool.objects, 37], 0)
    with structlog.testing.capture_logs() as logs:
        front_end = kit.front_end(pool)
        apps = await front_end.apps(homes)
        await front_end.apps(homes)
    assert [app.id for app in apps] == sorted(homes)
    (unreadable,) = [app for app in apps if app.unreadable]
    assert unreadable == App(
        37, "unreadable-37", marketplace_id=0, unreadable=unreadable.unreadable
    )
    assert "emoji" in unreadable.unreadable
    assert "UTF-8" in unreadable.unreadable
    assert len(pool.calls) / 2 <= 2 * (math.ceil(math.log2(len(homes))) + 2) + 1
    (told,) = [entry for entry in logs if entry["event"] == "pool.unreadable"]
    assert told["ids"] == [37]  # once, not at every refresh


async def test_an_unreadable_image_keeps_its_datastore(kit):
    pool = kit.Pool("imagepool.info-oneadmin", "IMAGE", bad=(5, 6, 400))
    homes = dict.fromkeys(pool.objects, 1)
    images = {image.id: image for image in await kit.front_end(pool).images(homes)}
    unreadable = {number: image for number, image in images.items() if image.unreadable}
    assert set(unreadable) == {5, 6, 400}
    assert unreadable[5] == Image(
        5, "unreadable-5", datastore_id=1, unreadable=unreadable[5].unreadable
    )
    assert unreadable[400].datastore_id == -1  # nobody told us where it belongs
    assert set(images) == set(pool.objects) | {400}


async def test_without_known_ids_the_bad_app_is_found_all_the_same(kit):
    pool = kit.Pool("marketapppool.info-oneadmin", "MARKETPLACEAPP", bad=(20,))
    apps = await kit.front_end(pool).apps()
    assert [app.id for app in apps if app.unreadable] == [20]
    assert {app.id for app in apps} == set(pool.objects)


async def test_a_big_pool_is_asked_for_in_ranges_and_nothing_new_is_missed(kit):
    known = range(0, 3 * (2 * PAGE + 1), 3)
    newer = known[-1] + 50
    pool = kit.Pool("imagepool.info-oneadmin", "IMAGE").cloned([*known, 1, newer])
    images = await kit.front_end(pool).images(dict.fromkeys(known, 1))
    assert [image.id for image in images] == sorted([*known, 1, newer])
    assert sorted(pool.calls) == [
        (0, known[PAGE - 1]),
        (known[PAGE - 1] + 1, known[2 * PAGE - 1]),
        (known[2 * PAGE - 1] + 1, -1),
    ]


async def test_bisecting_two_pools_at_once_stays_within_two_connections(kit):
    now = most = 0
    apps = kit.Pool("marketapppool.info-oneadmin", "MARKETPLACEAPP", bad=(3, 30))
    images = kit.Pool("imagepool.info-oneadmin", "IMAGE", bad=(9, 70))

    async def call(request):
        nonlocal now, most
        now += 1
        most = max(most, now)
        await trio.lowlevel.checkpoint()
        now -= 1
        return await (apps if b"marketapppool" in request.body else images)(request)

    front_end = kit.front_end(call)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(front_end.apps)
        nursery.start_soon(front_end.images)
        nursery.start_soon(front_end.apps)
    assert most == 2


async def test_a_number_where_a_document_belongs_is_a_bad_answer(kit, autojump_clock):
    async def call(request):
        return CallAnswer(200, (), kit.success("x").replace(b"<string>x</string>", b"<i4>7</i4>"))

    with pytest.raises(BadAnswer, match="number"):
        await kit.front_end(call).datastores()
