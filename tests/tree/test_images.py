"""The inside of a datastore's directory: what is asked, snapshots beside images, backups."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
import trio

from nebfs.errors import Missing, Unreachable
from nebfs.model import Content, Holding, Image, ImageType, Locator, Part, Revision, Trouble
from nebfs.tree import ContentFile, Directory
from tests.tree.test_tree import World, holding, snapshot


def far(number, name="device", **facts):
    """An image whose length is not known from the list."""
    image = Image(number, name, datastore_id=1, format="raw", regtime=5)
    return Holding(image, Content(Locator("far", f"far://host/{number}"), **facts))


def chained(number, name="chained"):
    """An image whose disk is inside a file on this machine."""
    image = Image(number, name, datastore_id=1, format="qcow2", regtime=5)
    file = Content(
        Locator("file", f"/d/{number}"),
        format="qcow2",
        revision=Revision(200, "1:3", "1700000000000000000"),
        view="raw",
    )
    return Holding(image, file)


async def test_what_the_list_tells_is_not_asked(nursery):
    world = World(nursery, snapshot(holdings=[holding(n, f"image {n}") for n in range(100)]))
    assert len(await world.names("datastores/D")) == 100
    assert world.prober.log == []


async def test_what_it_does_not_tell_is_asked_once_for_all_in_parallel(nursery, autojump_clock):
    world = World(nursery, snapshot(holdings=[far(n, f"d{n}") for n in range(50)]))
    world.prober.latency = 1.0
    async with trio.open_nursery() as readers:
        for _ in range(3):
            readers.start_soon(world.names, "datastores/D")
    assert trio.current_time() < 1.5
    assert len(world.prober.log) == 50
    file = await world.at("datastores/D/d7.raw")
    assert (file.size, file.trouble) == (1000, None)


async def test_one_that_cannot_be_asked_is_shown_without_permissions_and_asked_again(
    nursery, autojump_clock
):
    world = World(nursery, snapshot(holdings=[far(1, "a"), far(2, "b")]), retry_after=10.0)
    world.prober.answers["far://host/1"] = Missing("no such target")
    first = await world.at("datastores/D/a.raw")
    assert (first.size, first.mode & 0o777, first.trouble.errno) == (0, 0, errno.EIO)
    assert (await world.at("datastores/D/b.raw")).size == 1000
    world.prober.answers["far://host/1"] = Revision(7)
    assert (await world.at("datastores/D/a.raw")).size == 0
    await trio.sleep(11)
    again = await world.at("datastores/D/a.raw")
    assert (again.size, again.trouble) == (7, None)
    assert again.ino != first.ino


async def test_a_raw_view_is_named_for_what_it_shows_and_has_the_disk_s_length(nursery):
    world = World(nursery, snapshot(holdings=[chained(1)]))
    assert await world.names("datastores/D") == ["chained.raw"]
    assert (await world.at("datastores/D/chained.raw")).size == 1000


async def test_a_refresh_keeps_what_was_asked_and_asks_what_is_new(nursery):
    world = World(nursery, snapshot(holdings=[far(1, "a")]))
    before = await world.at("datastores/D/a.raw")
    world.become(snapshot(holdings=[far(1, "a"), far(2, "b")]))
    assert world.prober.log == ["far://host/1"]
    assert (await world.at("datastores/D/b.raw")).size == 1000
    assert (await world.at("datastores/D/a.raw")).ino == before.ino
    assert world.prober.log == ["far://host/1", "far://host/2"]


async def test_a_file_that_has_changed_is_asked_about_before_the_next_refresh(nursery):
    world = World(nursery, snapshot(holdings=[holding(1, "a"), holding(2, "b")]))
    before = await world.at("datastores/D/a.raw")
    other = await world.at("datastores/D/b.raw")
    world.prober.answers["/d/1"] = Revision(7, "1:2", "1800000000000000000")
    world.tree.outdated(before)
    assert any(item.name == "a.raw" for item in world.told)
    after = await world.at("datastores/D/a.raw")
    assert (after.size, after.mtime) == (7, 1_800_000_000)
    assert after.ino != before.ino
    assert (await world.at("datastores/D/b.raw")).ino == other.ino
    assert world.prober.log == ["/d/1"]


async def test_links_by_id_ask_nobody(nursery):
    world = World(nursery, snapshot(holdings=[far(1, "a"), chained(2)]))
    assert await world.names(".nebfs/by-id/images") == ["1", "2"]
    assert (await world.at(".nebfs/by-id/images/2")).target == "../../../datastores/D/chained.raw"
    assert world.prober.log == []


SNAPSHOTS = (
    Part("0-install", Content(Locator("file", "/d/1.snap/0"), revision=Revision(5, "1:9", "7"))),
    Part("1", trouble=Trouble(errno.EIO, "its file is missing"), date=77),
)


async def test_snapshots_are_in_a_directory_beside_the_image(nursery):
    one = replace(holding(1, "disk"), snapshots=SNAPSHOTS)
    world = World(nursery, snapshot(holdings=[one, holding(2, "other")]))
    assert await world.names("datastores/D") == ["disk.raw", "disk.snapshots", "other.raw"]
    assert isinstance(await world.at("datastores/D/disk.snapshots"), Directory)
    assert await world.names("datastores/D/disk.snapshots") == ["0-install.raw", "1.raw"]
    frozen = await world.at("datastores/D/disk.snapshots/0-install.raw")
    assert (frozen.size, frozen.attributes()["user.one.ID"]) == (5, "1")
    lost = await world.at("datastores/D/disk.snapshots/1.raw")
    assert (lost.size, lost.mode & 0o777, lost.trouble.reason) == (0, 0, "its file is missing")


async def test_an_image_that_is_called_like_the_snapshots_keeps_its_name(nursery):
    one = replace(holding(1, "disk"), snapshots=SNAPSHOTS)
    kernel = holding(2, "disk.snapshots")
    kernel = replace(kernel, image=replace(kernel.image, type=ImageType.KERNEL))
    world = World(nursery, snapshot(holdings=[one, kernel]))
    assert isinstance(await world.at("datastores/D/disk.snapshots"), ContentFile)
    assert isinstance(await world.at("datastores/D/disk~1.snapshots"), Directory)


async def test_new_snapshots_are_seen_after_a_refresh_and_old_ones_leave(nursery):
    one = replace(holding(1, "disk"), snapshots=SNAPSHOTS)
    world = World(nursery, snapshot(holdings=[one]))
    assert len(await world.names("datastores/D/disk.snapshots")) == 2
    world.become(snapshot(holdings=[replace(one, snapshots=SNAPSHOTS[:1])]))
    assert await world.names("datastores/D/disk.snapshots") == ["0-install.raw"]
    world.become(snapshot(holdings=[replace(one, snapshots=())]))
    assert await world.names("datastores/D") == ["disk.raw"]


def backup(**facts):
    image = Image(71, "33 10-Oct", datastore_id=1, type=ImageType.BACKUP, format="raw")
    return Holding(image, **facts)


DISKS = (
    Part("disk.0.0", Content(Locator("far", "far://host/d0"), format="raw"), date=10),
    Part("disk.0.1", Content(Locator("far", "far://host/d1"), format="qcow2", view="raw")),
    Part("vm", Content(Locator("far", "far://host/vm"), format="xml")),
)


class Repository:
    """Tells the disks of backups as a driver would."""

    max_age = 600.0

    def __init__(self):
        self.asked = 0
        self.answer = DISKS

    async def disks(self, holding):
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def test_a_backup_is_a_directory_of_its_disks(nursery):
    world = World(nursery, snapshot(holdings=[backup(disks=DISKS)]))
    assert await world.names("datastores/D") == ["33 10-Oct"]
    names = ["disk.0.0.raw", "disk.0.1.raw", "vm.xml"]
    assert await world.names("datastores/D/33 10-Oct") == names
    assert (await world.at("datastores/D/33 10-Oct/disk.0.0.raw")).mtime == 10.0


async def test_a_deferred_backup_is_asked_when_it_is_opened(nursery, autojump_clock):
    repository = Repository()
    world = World(nursery, snapshot(holdings=[backup(deferred=True)]), backups=repository)
    assert await world.names("datastores/D") == ["33 10-Oct"]
    assert repository.asked == 0
    for _ in range(3):
        assert len(await world.names("datastores/D/33 10-Oct")) == 3
    assert repository.asked == 1
    repository.answer = DISKS[:1]
    await trio.sleep(601)
    assert await world.names("datastores/D/33 10-Oct") == ["disk.0.0.raw"]


async def test_a_backup_that_cannot_be_asked_is_an_error_and_not_an_empty_directory(nursery):
    repository = Repository()
    repository.answer = Unreachable("no answer")
    world = World(nursery, snapshot(holdings=[backup(deferred=True)]), backups=repository)
    with pytest.raises(Unreachable):
        await world.names("datastores/D/33 10-Oct")
    repository.answer = DISKS
    assert len(await world.names("datastores/D/33 10-Oct")) == 3


async def test_capacity_is_that_of_the_datastore_one_is_in(nursery):
    first = snapshot(holdings=[replace(holding(1, "disk"), snapshots=SNAPSHOTS)])
    (listing,) = first.datastores
    limited = replace(listing.datastore, total_mb=100, free_mb=60, used_mb=40)
    other = replace(listing, datastore=replace(limited, id=2, name="E", total_mb=7, free_mb=1))
    world = World(nursery, replace(first, datastores=(replace(listing, datastore=limited), other)))
    deep = await world.at("datastores/D/disk.snapshots/0-install.raw")
    assert world.tree.capacity(deep.ino) == (100 << 20, 60 << 20)
    assert world.tree.capacity((await world.at("datastores/E")).ino) == (7 << 20, 1 << 20)
    assert world.tree.capacity() == (107 << 20, 61 << 20)


@pytest.mark.parametrize(
    ("limit", "free"), [("70", 30), ("30", 0), ("999", 60), ("", 60), ("x", 60)]
)
async def test_an_administrator_s_limit_counts_as_free_space(nursery, limit, free):
    from nebfs.model import Template

    first = snapshot(holdings=[])
    (listing,) = first.datastores
    store = replace(
        listing.datastore,
        total_mb=100,
        free_mb=60,
        used_mb=40,
        template=Template((("LIMIT_MB", limit),)),
    )
    world = World(nursery, replace(first, datastores=(replace(listing, datastore=store),)))
    assert world.tree.capacity() == (100 << 20, free << 20)
