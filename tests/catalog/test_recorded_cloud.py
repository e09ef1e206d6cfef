"""A survey of a real oned's recorded lists, with the real drivers; the marketplace is away."""

from __future__ import annotations

import errno
import xmlrpc.client
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from nebfs import opennebula
from nebfs.catalog import Surveyor
from nebfs.catalog.saved import pack, unpack
from nebfs.datastores import DatastoreDrivers
from nebfs.errors import Unreachable
from nebfs.marketplaces import driver_for
from nebfs.model import ImageState, User

ONED = Path(__file__).parents[1] / "fixtures" / "oned"


def recorded(name: str) -> str:
    ((_, document, _),), _ = xmlrpc.client.loads((ONED / f"{name}.response.xml").read_bytes())
    return document


class Recorded:
    """The front-end as one user saw it."""

    def __init__(self, who: str) -> None:
        self._who = who

    async def version(self):
        return "7.4.0"

    async def user(self):
        return User(5, self._who, 102)

    async def zones(self):
        return opennebula.decode_zones(recorded(f"zonepool.info-{self._who}"))

    async def marketplaces(self):
        return opennebula.decode_marketplaces(recorded(f"marketpool.info-{self._who}"))

    async def datastores(self):
        return opennebula.decode_datastores(recorded(f"datastorepool.info-{self._who}"))

    async def apps(self, known_ids):
        return opennebula.decode_apps(recorded(f"marketapppool.info-{self._who}"))

    async def images(self, known_ids):
        return opennebula.decode_images(recorded(f"imagepool.info-{self._who}"))


async def nobody_answers(_):
    raise Unreachable("no answer")


async def survey(who):
    surveyor = Surveyor(
        lambda name, version: driver_for(name, call=nobody_answers, version=version),
        DatastoreDrivers(),
        place_timeout=10.0,
        now=lambda: 1.0,
    )
    with capture_logs():
        return await surveyor.cloud(Recorded(who), "http://localhost:2633/RPC2", None)


@pytest.mark.parametrize("who", ["oneadmin", "alice", "carol"])
async def test_every_recorded_object_is_in_exactly_one_place(who):
    snapshot = await survey(who)
    apps = await Recorded(who).apps({})
    images = await Recorded(who).images({})
    listed = [offer.app.id for market in snapshot.marketplaces for offer in market.offers]
    held = [holding.image.id for store in snapshot.datastores for holding in store.holdings]
    assert sorted(listed) == sorted(app.id for app in apps)
    kept = [image.id for image in images if image.state is not ImageState.DELETE]
    assert sorted(held) == sorted(kept)
    assert unpack(pack(snapshot)) == snapshot


async def test_an_administrators_marketplaces_are_as_they_answered():
    markets = {m.marketplace.name: m for m in (await survey("oneadmin")).marketplaces}
    assert (markets["OpenNebula Public"].as_of, markets["OpenNebula Public"].trouble) == (
        0.0,
        "no answer",
    )
    private = markets["Private HTTP"]
    assert private.as_of == 1.0
    by_name = {offer.app.name: offer for offer in private.offers}
    assert by_name["disabled app"].trouble.errno == errno.EACCES
    assert any(offer.contents for offer in private.offers)


async def test_carol_sees_her_objects_though_their_places_are_invisible():
    snapshot = await survey("carol")
    assert {m.marketplace.id for m in snapshot.marketplaces} >= {0, 1, 100}
    hidden = next(m for m in snapshot.marketplaces if m.marketplace.id == 100)
    assert (hidden.marketplace.name, hidden.marketplace.driver) == ("Private HTTP", "")
    assert all(o.trouble or o.app.type > 1 for o in hidden.offers)
    assert [d.datastore.name for d in snapshot.datastores] == ["default", "files"]
    held = [holding for store in snapshot.datastores for holding in store.holdings]
    assert len(held) == 3
    for holding in held:
        assert "may not see" in holding.trouble.reason
