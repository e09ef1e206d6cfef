"""What one user sees of the tree: as much as his own mount would show, and nothing beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from nebfs.catalog.snapshot import CloudSnapshot, DatastoreListing, MarketplaceListing
from nebfs.catalog.usable import Usable, usable_by
from nebfs.content import Format, Probed
from nebfs.errors import NebfsError, Unreachable
from nebfs.model import (
    App,
    AppType,
    Datastore,
    Image,
    Marketplace,
    Offer,
    Parked,
    Part,
    Revision,
    Template,
    VirtualMachine,
)
from nebfs.tree import ContentFile, Directory, Link
from nebfs.tree.hostdir import HostRoot, Spot
from nebfs.tree.nodes import AppLink, StatusDocument
from nebfs.tree.rights import RESTRICTED, item_of, key_of
from nebfs.tree.sight import Sight
from tests.catalog.test_recorded_cloud import Recorded, survey
from tests.tree.test_tree import World, holding, offer, snapshot


def usable(*items, homes=(), newest=0):
    """What somebody may use: the items, who enter their places, and `homes` without using them."""
    kinds = (Marketplace, App, Datastore, Image, VirtualMachine)
    used = {kind: frozenset(x.id for x in items if isinstance(x, kind)) for kind in kinds}
    places = {kind: dict.fromkeys(used[kind], newest) for kind in (Marketplace, Datastore)}
    for place in homes:
        places[type(place)][place.id] = newest
    return Usable(used, places, 1.0)


MARKET, STORE = Marketplace(0, "M", driver="one"), Datastore(1, "D", driver="fs")
IMAGE, APP = Image(7, "x"), App(3, "x")


async def everything(world, sight=None):
    """All nodes that a walk finds, by every way there is; through `sight` only what it shows."""
    world.prober.view = lambda content: Probed(Revision(5), Format("raw"), 0.0)
    found, ahead = [], [world.tree.root, world.tree.root.hidden[".nebfs"]]
    while ahead:
        node = ahead.pop()
        found.append(node)
        if not isinstance(node, Directory) or isinstance(node, HostRoot):
            continue
        try:
            entries = await world.tree.listing(node)
        except NebfsError:
            continue
        if sight is not None:
            shown = sight.among(entries)
            assert [n for _, n in shown] == [n for _, n in entries if sight.shows(n)]
            entries = shown
        ahead += [child for _, child in entries]
    return found


async def test_what_may_not_be_used_is_nowhere(nursery):
    parked = Parked(VirtualMachine(33, "db"), (Part("disk.0", holding(1, "x").content),))
    first = snapshot(
        [offer(3, "Alpine"), offer(4, "Debian")],
        [
            replace(holding(7, "hers"), snapshots=(Part("1", holding(7, "x").content),)),
            holding(8, "his"),
        ],
    )
    store = replace(first.datastores[0], parked=(parked,))
    world = World(nursery, replace(first, datastores=(store,)))
    whole = await everything(world)
    sight = Sight(usable(MARKET, STORE, App(3, ""), Image(8, "")))
    seen = await everything(world, sight)
    items = [item_of(node) for node in seen]
    assert {key_of(i) for i in items if isinstance(i, RESTRICTED)} == {(App, 3), (Image, 8)}
    names = {node.name for node in seen}
    assert {"Alpine", "Alpine.qcow2", "app.json", "his.raw", "3", "8"} <= names
    hidden = [node for node in whole if node.key not in {node.key for node in seen}]
    assert {n.name for n in hidden} >= {"Debian", "hers.raw", "hers.snapshots", "4", "7", "33-db"}
    assert any(isinstance(node, StatusDocument) for node in hidden)
    assert not any(sight.shows(node) for node in hidden)
    # Both faces, and by id.
    assert sum(n.name == "his.raw" for n in seen) == 2
    assert [n.name for n in seen if isinstance(n, Link)] == ["8", "3"]


async def test_nobody_without_rights_sees_more_than_the_fixed_directories(nursery):
    world = World(nursery, snapshot([offer(3, "Alpine")], [holding(7, "hers")]))
    whole = await everything(world)
    sight = Sight(usable())
    seen = {node.name for node in await everything(world, sight)}
    assert seen == {"", "marketplaces", "datastores", "raw", ".nebfs", "by-id", "apps", "images"}
    assert not any(isinstance(node, ContentFile) and sight.shows(node) for node in whole)


async def test_what_left_the_tree_is_judged_as_when_it_was_in_it(nursery):
    world = World(nursery, snapshot([offer(3, "Alpine")], [holding(7, "hers")]))
    disk = await world.at("marketplaces/M/Alpine/Alpine.qcow2")
    world.become(snapshot())
    assert Sight(usable(MARKET, APP)).shows(disk)
    assert not Sight(usable(MARKET)).shows(disk)


async def test_what_is_in_a_shared_directory_belongs_to_its_image(nursery):
    world = World(nursery, snapshot([], [holding(7, "hers")]))
    store = await world.at("datastores/D")
    shown = (await world.at("datastores/D/hers.raw")).attributes
    root = HostRoot(name="d", key="d", spot=Spot("d", "/d"), parent=store, attributes=shown)
    inside = HostRoot(name="e", key="e", spot=Spot("d", "/d/e"), parent=root)
    assert Sight(usable(STORE, IMAGE)).shows(inside)
    assert not Sight(usable(STORE)).shows(inside)
    assert not Sight(usable(IMAGE)).shows(inside), "a place that may not be entered"


async def test_a_node_that_nobody_put_into_the_tree_is_not_shown():
    from nebfs.tree.nodes import Document

    loose = Document(name="x", key="x", data=b"x")
    assert not Sight(usable(MARKET, STORE, IMAGE, APP)).shows(loose)


async def test_of_a_place_that_is_only_entered_no_more_than_its_name_is_known(nursery):
    world = World(nursery, snapshot([offer(3, "Alpine")], [holding(7, "hers")]))
    place = await world.at("marketplaces/M")
    uses, enters = Sight(usable(MARKET, APP)), Sight(usable(APP, homes=[MARKET], newest=77))
    assert uses.shows(place)
    assert enters.shows(place)
    assert uses.knows(place)
    assert not enters.knows(place)
    assert enters.dated(place) == 77.0
    assert place.mtime == 1000.0
    for path in ("marketplaces/M/Alpine", "raw/marketplaces/M/Alpine"):
        assert enters.knows(await world.at(path))


def appliance(number, wanted):
    disks = Template((("DISK", Template((("APP", wanted),))),))
    made = offer(number, f"Appliance {number}", template=disks)
    return Offer(replace(made.app, type=AppType.VMTEMPLATE))


async def test_a_template_leads_to_an_app_that_its_reader_may_use(nursery):
    mine, hers, elsewhere = offer(3, "Alpine"), offer(9, "Alpine"), offer(50, "Alpine")
    listing = snapshot([mine, hers, appliance(20, "Alpine")]).marketplaces[0]
    other = Marketplace(5, "Secret", driver="one")
    elsewhere = replace(elsewhere, app=replace(elsewhere.app, marketplace_id=5))
    both = (listing, MarketplaceListing(other, (elsewhere,), 1.0))
    world = World(nursery, CloudSnapshot("src", 1.0, marketplaces=both))
    for face in ("", "raw/"):
        link = await world.at(f"{face}marketplaces/M/Appliance 20/Alpine")
        assert isinstance(link, AppLink)
        assert link.target == "../Alpine~9"
        for apps, target in (
            ([9], "../Alpine~9"),
            ([3], "../Alpine"),
            ([50], "../../Secret/Alpine"),
            ([], "../Alpine"),
        ):
            sight = Sight(usable(*(App(number, "") for number in apps)))
            assert world.tree.target_for(link, sight.may_use) == target


async def test_df_is_of_the_datastores_that_may_be_used(nursery):
    stores = [Datastore(n, f"D{n}", driver="fs", total_mb=n, free_mb=n) for n in (1, 2, 4)]
    listings = tuple(DatastoreListing(store, (), 1.0) for store in stores)
    world = World(nursery, CloudSnapshot("src", 1.0, datastores=listings))
    sight = Sight(usable(stores[0], stores[2]))
    assert world.tree.capacity() == (7 << 20, 7 << 20)
    assert world.tree.capacity(usable=sight.may_use) == (5 << 20, 5 << 20)
    two = (await world.at("datastores/D2")).ino
    assert world.tree.capacity(two) == (2 << 20, 2 << 20)


@pytest.mark.parametrize("who", ["alice", "carol"])
async def test_of_a_real_cloud_each_sees_what_his_own_mount_would_show(nursery, who):
    """alice is in the default VDC, carol in none: what they see was recorded from one oned."""

    def shown(nodes):
        found = {key_of(item) for item in map(item_of, nodes) if item is not None}
        return found | {node.name for node in nodes if isinstance(node, Link)}

    async def of(snapshot, sight=None):
        world = World(nursery, snapshot)
        world.prober.ask = away
        with capture_logs():
            return shown(await everything(world, sight))

    async def away(content, max_age=0.0):
        raise Unreachable("no answer")

    superset, own = await survey("oneadmin"), await survey(who)
    sight = Sight(await usable_by(Recorded(who), None, machines=False, now=1.0))
    theirs, all_of_it = await of(own), await of(superset)
    assert await of(superset, sight) == theirs
    assert theirs < all_of_it
