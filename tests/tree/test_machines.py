"""The inside of a system datastore: a directory for each VM at rest."""

from __future__ import annotations

import errno
from dataclasses import replace

from nebfs.catalog.snapshot import CloudSnapshot, DatastoreListing
from nebfs.model import (
    Content,
    Datastore,
    Locator,
    MachineDisk,
    Parked,
    Part,
    Revision,
    Trouble,
    VirtualMachine,
)
from tests.tree.test_tree import World


def content(path, **facts):
    return Content(Locator("file", path), revision=Revision(5, "1:2", "3"), volatile=True, **facts)


def parked(number=33, name="db", size=5):
    disks = (
        MachineDisk(0, "FILE", "raw"),
        MachineDisk(1, "CDROM", "raw"),
        MachineDisk(2, "FILE", "qcow2"),
        MachineDisk(3, "FILE", "qcow2"),
    )
    return Parked(
        VirtualMachine(number, name, disks=disks, host="node1"),
        (
            Part("disk.0", replace(content("/0"), revision=Revision(size, "1:2", "3"))),
            Part("disk.1", content("/1", media="cdrom")),
            Part("disk.2", content("/2", format="qcow2", view="raw")),
            Part("disk.3", trouble=Trouble(errno.EIO, "not here")),
        ),
    )


def snapshot(*machines):
    place = Datastore(id=0, name="system", driver="-")
    return CloudSnapshot("src", 1.0, datastores=(DatastoreListing(place, (), 1.0, "", machines),))


async def test_a_vm_is_a_directory_of_its_disks(nursery):
    world = World(nursery, snapshot(parked()))
    assert await world.names("datastores/system") == ["33-db"]
    assert await world.names("datastores/system/33-db") == [
        "disk.0.raw",
        "disk.1.iso",
        "disk.2.raw",
        "disk.3.qcow2",
    ]
    disk = await world.at("datastores/system/33-db/disk.0.raw")
    assert (disk.size, disk.content.volatile) == (5, True)
    assert (await world.at("datastores/system/33-db/disk.2.raw")).size == 1000  # it was asked
    lost = await world.at("datastores/system/33-db/disk.3.qcow2")
    assert (lost.size, lost.mode & 0o777, lost.trouble.reason) == (0, 0, "not here")
    directory = await world.at("datastores/system/33-db")
    assert directory.attributes()["user.one.HOSTNAME"] == "node1"


async def test_names_of_vms_are_safe_and_distinct(nursery):
    world = World(
        nursery,
        snapshot(parked(1, "../x"), parked(2, "a/b\n"), parked(3, "é" * 200), parked(4, "")),
    )
    names = await world.names("datastores/system")
    assert len(set(names)) == 4
    assert all("/" not in name and len(name.encode()) <= 255 for name in names)
    assert "1-..%2Fx" in names


async def test_a_vm_that_starts_takes_its_directory_along(nursery):
    world = World(nursery, snapshot(parked(33), parked(34, "web")))
    kept = await world.at("datastores/system/34-web/disk.0.raw")
    await world.at("datastores/system/33-db/disk.0.raw")
    world.become(snapshot(parked(34, "web")))
    assert await world.names("datastores/system") == ["34-web"]
    assert (await world.at("datastores/system/34-web/disk.0.raw")).ino == kept.ino
    assert any(one.name == "33-db" for one in world.told)


async def test_a_disk_that_changed_is_another_file(nursery):
    world = World(nursery, snapshot(parked(33)))
    before = await world.at("datastores/system/33-db/disk.0.raw")
    world.become(snapshot(parked(33, size=9)))
    after = await world.at("datastores/system/33-db/disk.0.raw")
    assert (after.size, after.ino != before.ino) == (9, True)
