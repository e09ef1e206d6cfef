"""Images that are directories, in the tree: numbers of what is in them, and what they outlive."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from nebfs.errors import Changed, Missing, Refused
from nebfs.model import Holding, Image, ImageType, Locator
from tests.tree.test_tree import World, snapshot


@pytest.fixture
def share(tmp_path):
    made = tmp_path / "share"
    (made / "sub").mkdir(parents=True)
    for number in range(50):
        (made / f"sub/{number}").write_bytes(b"x" * number)
    os.link(made / "sub/7", made / "seven")
    return made


def holding(share, number=9):
    image = Image(number, "share", datastore_id=1, type=ImageType.FILESYSTEM, format="dir")
    return Holding(image, directory=Locator("file", str(share)))


@pytest.fixture
def world(nursery, share):
    return World(nursery, snapshot(holdings=[holding(share)]))


def forget(world, node, count=1):
    world.tree.inodes.forget(node.ino, count)


async def test_it_is_a_directory_by_the_image_s_name(world):
    assert await world.names("datastores/D") == ["share"]
    assert sorted(await world.names("datastores/D/share")) == ["seven", "sub"]
    file = await world.at("datastores/D/share/sub/42")
    assert (file.size, file.parent.name) == (42, "sub")
    link = await world.at(".nebfs/by-id/images/9")
    assert link.target == "../../../datastores/D/share"


async def test_what_the_kernel_forgets_takes_no_room(world):
    await world.at("datastores/D/share")
    before = len(world.tree.inodes)
    sub = await world.at("datastores/D/share/sub")
    listing = await world.tree.listing(sub)
    assert len(listing) == 50
    assert len(world.tree.inodes) == before + 1
    nodes = []
    for _, node in listing:  # as readdir does it
        world.tree.inodes.enter(node)
        world.tree.inodes.seen(node.ino)
        nodes.append(node)
    assert len(world.tree.inodes) == before + 51
    for node in [*nodes, sub]:
        forget(world, node)
    assert len(world.tree.inodes) == before
    last = listing[-1][1]
    world.tree.inodes.enter(last)  # and there was no room for it in the answer
    world.tree.inodes.leave(last)
    assert len(world.tree.inodes) == before


async def test_a_file_keeps_its_number_under_all_of_its_names(world, share):
    one = await world.at("datastores/D/share/seven")
    again = await world.at("datastores/D/share/sub/7")
    assert one.ino == again.ino
    forget(world, one)
    assert world.tree.inodes.node(again.ino) is again
    (share / "sub/7").rename(share / "sub/new")
    with pytest.raises(Missing):
        await world.at("datastores/D/share/sub/7")
    assert (await world.at("datastores/D/share/sub/new")).ino == again.ino
    with pytest.raises(Changed):
        await world.tree.hosts.refresh(again)


async def test_a_refresh_keeps_it_and_its_end_ends_what_is_in_it(world, share):
    root = await world.at("datastores/D/share")
    file = await world.at("datastores/D/share/sub/7")
    same = holding(share)
    world.become(snapshot(holdings=[replace(same, image=replace(same.image, name="other"))]))
    assert (await world.at("datastores/D/other")).ino == root.ino
    (await world.tree.hosts.open(file)).close()
    world.become(snapshot())
    for asked in (world.tree.hosts.open(file), world.tree.hosts.refresh(file)):
        with pytest.raises(Changed):
            await asked
    with pytest.raises(Changed):
        await world.tree.listing(file.parent)


async def test_another_directory_of_the_same_image_is_another_one(world, share):
    file = await world.at("datastores/D/share/sub/7")
    world.become(snapshot(holdings=[holding(share / "sub")]))
    with pytest.raises(Changed):
        await world.tree.hosts.open(file)
    assert (await world.at("datastores/D/share/7")).size == 7


async def test_who_is_not_let_in_any_more_sees_nothing_in_it(world):
    sub = await world.at("datastores/D/share/sub")
    world.lists.denied = "who are you?"
    for asked in (world.tree.listing(sub), world.tree.lookup(sub, "7"), world.tree.children(sub)):
        with pytest.raises(Refused):
            await asked
