"""The raw face: the same directories again, every disk in them a plain raw disk."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
import trio

from nebfs.content import Format, Probed
from nebfs.content.disks import Inside
from nebfs.errors import NebfsError, Unreachable, Unready, Unsupported
from nebfs.model import Revision
from nebfs.tree import ContentFile
from tests.tree.test_images import DISKS, SNAPSHOTS, backup, chained
from tests.tree.test_tree import Asked, World, holding, offer, snapshot


class Faces(Asked):
    """A prober that also tells formats (by address), and what is inside qcow2 images."""

    def __init__(self):
        super().__init__()
        self.formats = {}
        self.viewed = []
        self.inside = Revision(5000, "inside")

    async def ask(self, content, max_age=float("inf")):
        probed = await super().ask(content, max_age)
        kind = self.formats.get(content.locator.address, Format("raw"))
        self.memory[content.identity] = replace(probed, format=kind)
        return self.memory[content.identity]

    def view(self, content):
        self.viewed.append(content)
        if isinstance(self.inside, NebfsError):
            raise self.inside
        return Probed(self.inside, Format("raw"), 0.0)


@pytest.fixture
def make(nursery, monkeypatch):
    def make(**facts):
        monkeypatch.setattr("tests.tree.test_tree.Asked", Faces)
        return World(nursery, snapshot(**facts))

    return make


async def test_the_top_has_both_faces(make):
    world = make(offers=[offer(1, "Alpine")], holdings=[holding(1, "disk")])
    assert await world.names("") == ["marketplaces", "datastores", "raw"]
    assert await world.names("raw") == ["marketplaces", "datastores"]
    assert await world.names("raw/marketplaces") == ["M"]
    assert await world.names("raw/marketplaces/M") == ["Alpine"]


async def test_of_an_app_there_is_the_disk_and_no_document(make):
    world = make(offers=[offer(1, "Alpine")])
    world.prober.formats["http://h/1"] = Format("qcow2")
    assert "Alpine.qcow2" in await world.names("marketplaces/M/Alpine")
    assert await world.names("raw/marketplaces/M/Alpine") == ["Alpine.raw"]
    published = await world.at("marketplaces/M/Alpine/Alpine.qcow2")
    disk = await world.at("raw/marketplaces/M/Alpine/Alpine.raw")
    assert (published.size, disk.size) == (1000, 5000)
    assert published.ino != disk.ino
    assert (disk.content.view, disk.content.locator) == ("raw", published.content.locator)
    assert disk.attributes()["user.one.ID"] == "1"
    assert world.prober.log == ["http://h/1"]


@pytest.mark.parametrize("kind", ["raw", "iso", "squashfs"])
async def test_what_is_a_block_image_already_is_shown_as_it_is(make, kind):
    world = make(offers=[offer(1, "Alpine")])
    world.prober.formats["http://h/1"] = Format(kind)
    disk = await world.at(f"raw/marketplaces/M/Alpine/Alpine.{kind}")
    assert (disk.size, disk.content.view) == (1000, "")


@pytest.mark.parametrize("kind", [Format("parallels"), Format("qed")])
async def test_what_cannot_be_shown_as_a_disk_says_so(make, kind):
    world = make(offers=[offer(1, "Alpine")])
    world.prober.formats["http://h/1"] = kind
    disk = await world.at("raw/marketplaces/M/Alpine/Alpine.raw")
    assert (disk.size, disk.mode & 0o777, disk.trouble.errno) == (0, 0, errno.EOPNOTSUPP)
    assert kind.extension in disk.trouble.reason


async def test_an_image_that_has_no_disk_of_its_own_says_so(make):
    world = make(offers=[offer(1, "Alpine")])
    world.prober.formats["http://h/1"] = Format("qcow2")
    world.prober.inside = Unsupported("it is encrypted")
    disk = await world.at("raw/marketplaces/M/Alpine/Alpine.raw")
    assert (disk.size, disk.trouble.reason) == (0, "it is encrypted")


async def test_images_their_snapshots_and_backups_are_there_too(make):
    one = replace(holding(1, "disk"), snapshots=SNAPSHOTS)
    world = make(holdings=[one, chained(2), backup(disks=DISKS)])
    names = ["33 10-Oct", "chained.raw", "disk.raw", "disk.snapshots"]
    assert await world.names("raw/datastores/D") == names
    assert await world.names("raw/datastores/D/disk.snapshots") == ["0-install.raw", "1.raw"]
    lost = await world.at("raw/datastores/D/disk.snapshots/1.raw")
    assert (lost.mode & 0o777, lost.trouble.reason) == (0, "its file is missing")
    assert "disk.0.0.raw" in await world.names("raw/datastores/D/33 10-Oct")


async def test_two_images_that_have_one_name_without_extension_are_told_apart(make):
    first, second = holding(1, "disk"), holding(2, "disk")
    second = replace(second, image=replace(second.image, format="qcow2"))
    world = make(holdings=[first, second])
    world.prober.formats["/d/2"] = Format("qcow2")
    assert await world.names("datastores/D") == ["disk.qcow2", "disk.raw"]
    disks = await world.names("raw/datastores/D")
    assert len(disks) == 2
    assert "disk.raw" in disks


async def test_a_look_at_what_is_known_asks_nobody_and_makes_nothing_anew(make):
    world = make(holdings=[holding(n, f"d{n}") for n in range(20)])
    directory = await world.at("raw/datastores/D")
    first = await world.tree.children(directory)
    asked = len(world.prober.log)
    assert await world.tree.children(directory) is first
    assert len(world.prober.log) == asked


async def test_a_refresh_reaches_both_faces(make):
    world = make(holdings=[holding(1, "a")])
    before = await world.at("raw/datastores/D/a.raw")
    world.become(snapshot(holdings=[holding(1, "a", size=200), holding(2, "b")]))
    assert any(item.name == "a.raw" for item in world.told)
    assert await world.names("raw/datastores/D") == ["a.raw", "b.raw"]
    after = await world.at("raw/datastores/D/a.raw")
    assert (before.size, after.size) == (100, 200)
    assert after.ino != before.ino
    world.become(snapshot(holdings=[]))
    assert await world.names("raw/datastores/D") == []


async def test_a_refresh_that_changes_nothing_here_leaves_the_raw_face_alone(make):
    world = make(offers=[offer(1, "Alpine")], holdings=[holding(1, "a")])
    disk = await world.at("raw/datastores/D/a.raw")
    app = await world.at("raw/marketplaces/M/Alpine/Alpine.raw")
    first = world.lists.current
    (store,) = first.datastores
    fuller = replace(store, datastore=replace(store.datastore, free_mb=7))
    world.told.clear()
    world.become(replace(first, datastores=(fuller,)))
    assert not [item for item in world.told if item.name]
    assert (await world.at("raw/datastores/D/a.raw")).ino == disk.ino
    assert (await world.at("raw/marketplaces/M/Alpine/Alpine.raw")).ino == app.ino
    assert not [item for item in world.told if item.name]


async def test_a_raw_face_that_is_outdated_is_asked_about_again(make):
    world = make(offers=[offer(1, "Alpine")])
    world.prober.formats["http://h/1"] = Format("qcow2")
    before = await world.at("raw/marketplaces/M/Alpine/Alpine.raw")
    world.prober.inside = Revision(7000, "other")
    world.prober.answers["http://h/1"] = Revision(1001, '"f"')
    world.tree.outdated(before)
    world.prober.memory.clear()
    after = await world.at("raw/marketplaces/M/Alpine/Alpine.raw")
    assert (after.size, after.content.locator) == (7000, before.content.locator)
    assert (await world.at("marketplaces/M/Alpine/Alpine.qcow2")).size == 1001


async def test_a_place_that_does_not_answer_is_an_error_on_this_side_too(make):
    world = make(offers=[offer(1, "Alpine")])
    world.prober.answers["http://h/1"] = Unreachable("down")
    disk = await world.at("raw/marketplaces/M/Alpine/Alpine.raw")
    assert isinstance(disk, ContentFile)
    assert (disk.size, disk.mode & 0o777) == (0, 0)
    assert disk.trouble is not None


async def test_many_who_look_at_once_ask_once(make, autojump_clock):
    world = make(offers=[offer(1, "Alpine")])
    world.prober.latency = 1.0
    async with trio.open_nursery() as readers:
        for _ in range(10):
            readers.start_soon(world.names, "raw/marketplaces/M/Alpine")
    assert world.prober.log == ["http://h/1"]


def seen(world, inside, seconds=1):
    """Have what is looked into contain `inside`, or fail with it. Returns who was looked into."""
    looked = []

    async def look(content):
        looked.append(content.locator.address)
        await trio.sleep(seconds)
        if isinstance(inside, NebfsError):
            raise inside
        known = world.prober.memory[content.identity]
        world.prober.memory[content.identity] = replace(known, inside=inside)

    world.tree._look = look
    return looked


@pytest.mark.parametrize("kind", [Format("qcow2", "gz"), Format("raw", "xz"), Format("iso", "bz2")])
async def test_what_is_compressed_is_looked_into_and_shown_decompressed(make, kind, autojump_clock):
    world = make(offers=[offer(1, "Alpine")])
    world.prober.formats["http://h/1"] = kind
    looked = seen(world, Inside(kind.name, 5000))
    extension = "iso" if kind.name == "iso" else "raw"
    disk = await world.at(f"raw/marketplaces/M/Alpine/Alpine.{extension}")
    assert (disk.size, disk.content.view, disk.mode & 0o777) == (5000, "raw", 0o444)
    assert looked == ["http://h/1"]
    await world.names("raw/marketplaces/M/Alpine")
    assert looked == ["http://h/1"]


async def test_a_file_that_cannot_be_looked_into_is_in_trouble_alone(make, autojump_clock):
    world = make(holdings=[holding(1, "a"), holding(2, "b")])
    world.prober.formats["/d/2"] = Format("raw", "xz")
    looked = seen(world, Unreachable("down"))
    assert await world.names("raw/datastores/D") == ["a.raw", "b.raw"]
    sizes = [(await world.at(f"raw/datastores/D/{name}.raw")).size for name in "ab"]
    assert sizes == [100, 0]
    assert looked == ["/d/2"]


async def test_looking_ends_with_the_time_for_a_listing(make, autojump_clock):
    world = make(offers=[offer(1, "Alpine")])
    world.prober.formats["http://h/1"] = Format("raw", "xz")
    seen(world, Inside("raw", 5000), seconds=30)
    disk = await world.at("raw/marketplaces/M/Alpine/Alpine.raw")
    assert (disk.size, disk.mode & 0o777) == (0, 0)
    assert "too long" in disk.trouble.reason


async def test_what_must_be_decompressed_for_its_length_is_unready_until_it_was(
    make, autojump_clock
):
    world = make(offers=[offer(1, "Alpine")])
    world.prober.formats["http://h/1"] = Format("raw", "gz")
    seen(world, Inside("raw", None))
    length, world.prober.inside = world.prober.inside, Unready("it takes long")
    before = await world.at("raw/marketplaces/M/Alpine/Alpine.raw")
    assert (before.size, before.mode & 0o777, before.trouble.errno) == (0, 0, errno.EAGAIN)
    # Whoever opens it must see the length that it has then.
    assert (before.unready, before.timeout) == (True, 0.0)
    world.told.clear()
    world.prober.inside = length
    world.tree.became_ready(before.content)
    assert [item.name for item in world.told] == ["Alpine.raw"]
    after = await world.tree.readied(before)
    assert (after.ino, after.size, after.mode & 0o777) == (before.ino, 5000, 0o444)
    assert (after.unready, after.trouble) == (False, None)
    world.told.clear()
    world.tree.became_ready(before.content)
    assert not world.told


async def test_what_was_found_damaged_while_it_was_decompressed_says_so(make, autojump_clock):
    world = make(offers=[offer(1, "Alpine")])
    world.prober.formats["http://h/1"] = Format("raw", "gz")
    seen(world, Inside("raw", None))
    world.prober.inside = Unready("it takes long")
    before = await world.at("raw/marketplaces/M/Alpine/Alpine.raw")
    world.prober.inside = Unsupported("it is cut off")
    world.tree.became_ready(before.content)
    after = await world.at("raw/marketplaces/M/Alpine/Alpine.raw")
    assert (after.unready, after.trouble.reason) == (False, "it is cut off")
