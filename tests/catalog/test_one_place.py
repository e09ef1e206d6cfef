"""A refresh of one place: it alone is asked, and the others stay as they are, and as old."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from structlog.testing import capture_logs

from nebfs.catalog import Catalog, Changes, changes
from nebfs.errors import Refused, Unreachable
from nebfs.model import DatastoreType
from tests.catalog.test_parked import machine, system  # noqa: F401 - a fixture

MARKET, STORE = ("marketplace", 0), ("datastore", 1)


@pytest.fixture
async def catalog(world, shelf):
    made = Catalog(world.survey, shelf, interval=300.0, deadline=20.0, now=world.clock)
    await made.start()
    return made


class Asked:
    """Which lists of the front-end were asked for since."""

    def __init__(self, cloud, monkeypatch):
        self.names = []
        for name in ("version", "user", "zones", "marketplaces", "apps", "datastores", "images"):
            monkeypatch.setattr(cloud, name, self._noting(name, getattr(cloud, name)))

    def _noting(self, name, ask):
        async def noted(*words):
            self.names.append(name)
            return await ask(*words)

        return noted


async def test_one_marketplace_is_asked_and_all_else_stays(world, make, monkeypatch, catalog):
    world.cloud._marketplaces = [make.marketplace(0), make.marketplace(1, driver="other")]
    await catalog.refresh()
    first = catalog.current
    world.cloud._apps = [make.app(1, version="2"), make.app(3), make.app(101), make.app(109)]
    world.cloud._images = []
    others, asked = world.driver("other").asked, Asked(world.cloud, monkeypatch)
    assert await catalog.refresh(MARKET) is None
    second = catalog.current
    assert sorted(asked.names) == ["apps", "marketplaces"]
    assert (world.driver("other").asked, world.driver("fs").asked) == (others, 2)
    assert second.marketplaces[0].as_of > first.taken
    assert [o.app.id for o in second.marketplaces[0].offers] == [1, 3]
    assert second == replace(first, marketplaces=(second.marketplaces[0], first.marketplaces[1])), (
        "the other places, or the date of the whole, are not what they were"
    )
    assert changes(first, second)[MARKET] == Changes(
        added=((3, "app 3"),), removed=((2, "app 2"),), changed=((1, "app 1"),)
    )
    assert changes(first, second)[STORE] == Changes()


async def test_one_datastore_is_asked_and_all_else_stays(world, make, monkeypatch, catalog):
    world.cloud._datastores = [make.datastore(1), make.datastore(2, driver="other")]
    world.cloud._images.append(make.image(200))
    await catalog.refresh()
    first = catalog.current
    world.cloud._images = [make.image(100), make.image(102)]
    world.cloud._apps = []
    others, asked = world.driver("other").asked, Asked(world.cloud, monkeypatch)
    assert await catalog.refresh(STORE) is None
    second = catalog.current
    assert sorted(asked.names) == ["datastores", "images"]
    assert world.driver("other").asked == others
    assert second == replace(first, datastores=(second.datastores[0], first.datastores[1]))
    assert changes(first, second)[STORE] == Changes(((102, "image 102"),), ((101, "image 101"),))


async def test_a_system_datastore_asks_for_vms_too(world, make, catalog, system):  # noqa: F811
    await catalog.refresh()
    first = catalog.current
    world.cloud.told = (machine(34),)
    system.asked.clear()
    assert await catalog.refresh(("datastore", 0)) is None
    ((number, machines, images),) = system.asked
    assert (number, machines, images) == (0, [34], [100, 101])
    found = changes(first, catalog.current)[("datastore", 0)]
    assert (found.added, found.removed) == (((34, "vm 34"),), ((33, "vm 33"),))
    system.asked.clear()
    await catalog.refresh(STORE)
    assert system.asked == [], "another datastore's VMs were looked for"
    assert catalog.current.datastores[0].datastore.type is DatastoreType.SYSTEM


async def test_a_place_that_does_not_answer_keeps_its_list_and_says_so(world, catalog):
    first = catalog.current
    world.driver("fs").error = Unreachable("no answer")
    with capture_logs():
        assert await catalog.refresh(STORE) is None
    (store,) = catalog.current.datastores
    assert store == replace(first.datastores[0], trouble="no answer")
    assert catalog.current.trouble == ""


async def test_a_place_that_is_gone_from_the_front_end_goes(world, make, catalog):
    first = catalog.current
    world.cloud._marketplaces = [make.marketplace(1)]
    world.cloud._apps = [make.app(101)]
    assert await catalog.refresh(MARKET) is None
    assert catalog.current == replace(first, marketplaces=first.marketplaces[1:])
    assert [name for _, name in changes(first, catalog.current)[MARKET].removed] == [
        "app 1",
        "app 2",
    ]


async def test_what_is_new_is_told_and_saved(world, make, catalog, shelf):
    told = []
    catalog.subscribe(lambda old, new: told.append((old, new)))
    saves = shelf.saves
    await catalog.refresh(STORE)
    assert (told, shelf.saves) == ([], saves), "nothing was new"
    world.cloud._images = [make.image(100)]
    first = catalog.current
    await catalog.refresh(STORE)
    assert told == [(first, catalog.current)]
    assert shelf.saves == saves + 1


@pytest.mark.parametrize("failure", [Unreachable("no answer"), Refused("the password changed")])
async def test_a_front_end_that_fails_is_a_trouble_of_the_whole_and_then_all_is_asked(
    world, catalog, failure
):
    first = catalog.current
    world.cloud.error = failure
    with capture_logs():
        assert await catalog.refresh(STORE) is failure
    assert catalog.current == replace(first, trouble=str(failure))
    world.cloud.error = None
    with capture_logs():
        assert await catalog.refresh(STORE) is None
    assert (catalog.current.trouble, catalog.denied) == ("", "")
    assert catalog.current.taken > first.taken, "not all of it was asked"


async def test_who_comes_during_a_survey_shares_it_only_if_it_asks_what_he_wants(
    world, catalog, autojump_clock
):
    world.cloud.takes = 1.0
    only = []

    async def noted(previous, one=None, *, patience):
        only.append(one)
        return await world.survey(previous, one)

    catalog._survey = noted
    async with trio.open_nursery() as nursery:
        nursery.start_soon(catalog.refresh, STORE)
        await trio.sleep(0.1)
        nursery.start_soon(catalog.refresh, STORE)  # shares it
        nursery.start_soon(catalog.refresh)  # needs one of its own,
        await trio.sleep(0.1)
        nursery.start_soon(catalog.refresh, MARKET)  # and this shares that, or makes its own
    assert only[0] == STORE
    assert only.count(STORE) == 1
    assert only.count(None) == 1
    assert len(only) <= 3


async def test_one_public_marketplace_without_a_front_end(world):
    urls = ["http://a.example.org", "http://b.example.org"]
    first = await world.surveyor.marketplaces(urls, None)
    asked = world.driver("one").asked
    number = first.marketplaces[1].marketplace.id
    second = await world.surveyor.marketplaces(urls, first, ("marketplace", number))
    assert world.driver("one").asked == asked + 1
    assert second.marketplaces[0] == first.marketplaces[0]
    assert second.marketplaces[1].as_of > first.marketplaces[1].as_of
    assert second.taken == first.taken
