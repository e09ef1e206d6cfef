"""System datastores: the disks of VMs that do not run, made as OpenNebula makes them."""

from __future__ import annotations

import errno
import os
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest

from nebfs.datastores import machine_files
from nebfs.datastores.system import SystemDatastore
from nebfs.errors import Unreachable
from nebfs.model import (
    Content,
    Datastore,
    DatastoreType,
    Holding,
    Image,
    Locator,
    MachineDisk,
    MachineState,
    Revision,
    Trouble,
    VirtualMachine,
)


def qcow2(path, backing=None, size="1M"):
    command = ["qemu-img", "create", "-q", "-f", "qcow2"]
    if backing is not None:
        # -u: the name is written down as it is, and the size is told.
        command += ["-u", "-b", backing, "-F", "qcow2"]
    subprocess.run([*command, path, size], check=True)
    return path


@pytest.fixture
def place(tmp_path):
    """A system datastore and an image datastore on this machine, and who looks at the first."""
    system, images = tmp_path / "0", tmp_path / "1"
    for directory in (system / "33", system / "34", images):
        directory.mkdir(parents=True)
    driver = SystemDatastore(paths={"/var/lib/one/datastores": str(tmp_path)})
    store = Datastore(
        0, "system", base_path="/var/lib/one//datastores/0", type=DatastoreType.SYSTEM
    )
    known = {}

    def image(number, path, *, kind="qcow2", backing=None, trouble=None):
        facts = os.stat(path)
        revision = Revision(facts.st_size, f"{facts.st_dev}:{facts.st_ino}", str(facts.st_mtime_ns))
        content = Content(
            Locator("file", str(path)), format=kind, revision=revision, backing=backing
        )
        content = replace(content, view="raw") if backing else content
        holding = Holding(Image(number, f"image {number}"), content)
        known[number] = replace(holding, content=None, trouble=trouble) if trouble else holding
        return content

    async def disks(*records, **facts):
        machine = VirtualMachine(
            33, "db", state=MachineState.POWEROFF, datastore_id=0, host="node1", disks=records
        )
        (parked,) = await driver.parked(store, [replace(machine, **facts)], known)
        return parked.disks

    return SimpleNamespace(
        vm=system / "33",
        other=system / "34",
        images=images,
        image=image,
        disks=disks,
        driver=driver,
        store=store,
    )


async def test_files_are_read_in_place_and_never_kept(place):
    (place.vm / "disk.0").write_bytes(b"12345")
    qcow2(place.vm / "disk.1")
    (place.vm / "disk.2").write_bytes(b"iso")
    (place.vm / "disk.3").write_bytes(b"QFI\xfb" + bytes(4) + b"\1" * 100)
    raw, image, context, fake = await place.disks(
        MachineDisk(0, "FILE", "raw"),
        MachineDisk(1, "FILE", "qcow2"),
        MachineDisk(2, "CDROM", "raw"),
        MachineDisk(3, "fs", "raw"),
    )
    assert [part.name for part in (raw, image, context)] == ["disk.0", "disk.1", "disk.2"]
    assert raw.content.locator.address == str(place.vm / "disk.0")
    assert (raw.content.revision.size, raw.content.format, raw.content.view) == (5, "raw", "")
    assert (image.content.format, image.content.view) == ("qcow2", "")
    assert context.content.media == "cdrom"
    # The first bytes of a raw disk are its VM's to write: no header is seen in them.
    assert (fake.content.view, fake.content.backing) == ("", None)
    assert all(part.content.volatile for part in (raw, image, context, fake))


async def test_a_disk_that_says_it_is_qcow2_and_is_not_is_raw(place):
    (place.vm / "disk.0").write_bytes(b"x" * 100)
    (part,) = await place.disks(MachineDisk(0, "FILE", "qcow2"))
    assert (part.content.format, part.content.view) == ("raw", "")


@pytest.mark.parametrize("absolute", [True, False])
async def test_a_link_to_its_own_snapshots_is_followed_with_what_is_beneath(place, absolute):
    snap = place.vm / "disk.0.snap"
    snap.mkdir()
    there = "/var/lib/one/datastores/0/33/disk.0.snap/" if absolute else ""
    qcow2(snap / "0")
    qcow2(snap / "1", backing=f"{there}0")
    (place.vm / "disk.0").symlink_to(f"{there or 'disk.0.snap/'}1")
    (part,) = await place.disks(MachineDisk(0, "FILE", "qcow2"))
    top = part.content
    assert (top.locator.address, top.view) == (str(snap / "1"), "raw")
    assert (top.backing.locator.address, top.backing.view) == (str(snap / "0"), "raw")
    assert top.backing.backing is None


async def test_one_file_behind_a_link_is_shown_as_it_is_stored(place):
    (place.vm / "disk.0.snap").mkdir()
    qcow2(place.vm / "disk.0.snap/0")
    (place.vm / "disk.0").symlink_to("disk.0.snap/0")
    (part,) = await place.disks(MachineDisk(0, "FILE", "qcow2"))
    assert (part.content.view, part.content.backing) == ("", None)
    assert part.content.locator.address == str(place.vm / "disk.0.snap/0")


async def test_what_is_over_an_image_builds_on_the_image_as_it_is_listed(place):
    base = qcow2(place.images / "abc")
    place.image(6, base)
    (place.vm / "disk.0.snap").mkdir()
    qcow2(place.vm / "disk.0.snap/0", backing="/var/lib/one//datastores/1/abc")
    (place.vm / "disk.0").symlink_to("disk.0.snap/0")
    (part,) = await place.disks(MachineDisk(0, "FILE", "qcow2", image_id=6))
    assert part.content.view == "raw"
    assert (part.content.backing.locator.address, part.content.backing.view) == (str(base), "raw")
    assert await place.disks(MachineDisk(0, "FILE", "qcow2", image_id=7)) != (part,)


async def test_a_raw_image_beneath_has_no_view(place):
    (place.images / "abc").write_bytes(bytes(1 << 20))
    place.image(6, place.images / "abc", kind="raw")
    qcow2(place.vm / "disk.0", backing="/elsewhere/1/abc")
    (part,) = await place.disks(MachineDisk(0, "FILE", "qcow2", image_id=6))
    assert (part.content.view, part.content.backing.view) == ("raw", "")


async def test_a_snapshot_of_an_image_is_told_from_others_of_its_number(place):
    (place.images / "abc.snap").mkdir()
    base = place.image(6, qcow2(place.images / "abc"))
    place.image(6, qcow2(place.images / "abc.snap/1"), backing=base)
    (place.vm / "disk.0").symlink_to("/var/lib/one/datastores/1/abc.snap/1")
    (place.vm / "disk.1").symlink_to("/var/lib/one/datastores/1/def.snap/1")
    (place.vm / "disk.2").symlink_to("/var/lib/one/datastores/1/abc")
    found = await place.disks(*(MachineDisk(n, "FILE", "qcow2", image_id=6) for n in range(3)))
    snapshot, other, oldest = found
    assert snapshot.content.locator.address == str(place.images / "abc.snap/1")
    assert (snapshot.content.view, snapshot.content.volatile) == ("raw", True)
    assert (other.content, other.trouble.errno) == (None, errno.EACCES)
    assert (oldest.content.locator.address, oldest.content.view) == (
        str(place.images / "abc"),
        "",
    )


async def test_an_image_with_a_trouble_is_the_trouble_of_what_builds_on_it(place):
    path = qcow2(place.images / "abc")
    place.image(6, path, trouble=Trouble(errno.EBUSY, "a VM writes to it"))
    (place.vm / "disk.0").symlink_to(path)
    (part,) = await place.disks(MachineDisk(0, "FILE", "qcow2", image_id=6))
    assert part.trouble.errno == errno.EBUSY
    assert "image 6" in part.trouble.reason
    assert "a VM writes to it" in part.trouble.reason


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("/etc/shadow", "none of image 6"),
        ("../34/disk.0", "none of image 6"),
        ("/var/lib/one/datastores/0/34/disk.0.snap/0", "another VM"),
        ("/dev/vg-one-0/lv-one-33-0", "block device"),
        ("disk.0", "none of image 6"),
        ("disk.1.snap/0", "none of image 6"),
        ("disk.0.snap/../../../etc/shadow", "none of image 6"),
        ("disk.0.snap/gone", "none of image 6"),
    ],
)
async def test_a_link_or_a_backing_name_that_leads_elsewhere_is_not_followed(place, target, words):
    place.image(6, qcow2(place.images / "abc"))
    for directory in ("disk.0.snap", "disk.1.snap"):
        (place.vm / directory).mkdir()
        qcow2(place.vm / directory / "0")
    (place.other / "disk.0.snap").mkdir()
    qcow2(place.other / "disk.0.snap/0")
    (place.vm / "disk.0").symlink_to(target)
    qcow2(place.vm / "disk.2", backing=target.replace("disk.0.snap", "disk.2.snap"))
    for part in await place.disks(
        MachineDisk(0, "FILE", "qcow2", image_id=6), MachineDisk(2, "FILE", "qcow2", image_id=6)
    ):
        assert part.content is None
        assert words in part.trouble.reason


async def test_links_among_a_disk_s_files_are_not_followed_and_circles_end(place):
    snap = place.vm / "disk.0.snap"
    snap.mkdir()
    (place.vm / "disk.0").symlink_to("disk.0.snap/0")
    (snap / "0").symlink_to("/etc/shadow")
    (part,) = await place.disks(MachineDisk(0, "FILE", "qcow2"))
    assert "a link is where" in part.trouble.reason
    (snap / "0").unlink()
    qcow2(snap / "0", backing="1")
    qcow2(snap / "1", backing="disk.0.snap/0")
    (part,) = await place.disks(MachineDisk(0, "FILE", "qcow2"))
    assert "in a circle" in part.trouble.reason
    (place.vm / "disk.1.snap").symlink_to(place.other)
    (place.other / "0").write_bytes(b"x")
    (place.vm / "disk.1").symlink_to("disk.1.snap/0")
    (part,) = await place.disks(MachineDisk(1, "FILE", "raw"))
    assert "directory of its snapshots is none" in part.trouble.reason


@pytest.mark.parametrize(
    ("place_at", "length", "size"),
    [
        (104, 5000, 512),  # the name is cut off
        (104, 0, 512),
        (1 << 20, 100, 512),
        (104, 1024, 4 << 20),  # it is all there, and no name that QEMU would read
        (1 << 21, 10, 4 << 20),
        (1 << 40, 10, 4 << 20),
    ],
)
async def test_a_damaged_header_is_an_error(place, place_at, length, size):
    head = b"QFI\xfb" + (3).to_bytes(4, "big") + place_at.to_bytes(8, "big")
    (place.vm / "disk.0").write_bytes(head + length.to_bytes(4, "big"))
    os.truncate(place.vm / "disk.0", size)
    (part,) = await place.disks(MachineDisk(0, "FILE", "qcow2"))
    assert "header is damaged" in part.trouble.reason


async def test_the_longest_name_of_a_backing_file_is_read(place):
    name = "n" * 1023
    head = (
        b"QFI\xfb" + (3).to_bytes(4, "big") + (104).to_bytes(8, "big") + (1023).to_bytes(4, "big")
    )
    (place.vm / "disk.0").write_bytes(head.ljust(104, b"\0") + name.encode())
    (part,) = await place.disks(MachineDisk(0, "FILE", "qcow2"))
    assert "header is damaged" not in part.trouble.reason


async def test_what_is_no_file_is_never_waited_for(place):
    os.mkfifo(place.vm / "disk.0")
    (place.vm / "disk.1").mkdir()
    for part in await place.disks(MachineDisk(0, "FILE", "raw"), MachineDisk(1, "FILE", "raw")):
        assert part.trouble.errno == errno.EOPNOTSUPP


async def test_what_is_not_here_says_where_it_may_be(place):
    (gone, ceph) = await place.disks(MachineDisk(0, "FILE", "raw"), MachineDisk(1, "RBD", "raw"))
    assert (gone.trouble.errno, "node1" in gone.trouble.reason) == (errno.EIO, True)
    assert (ceph.trouble.errno, "Ceph" in ceph.trouble.reason) == (errno.EOPNOTSUPP, True)
    (nowhere,) = await place.disks(MachineDisk(0, "FILE", "raw"), id=77)
    assert nowhere.trouble.errno == errno.EIO
    far = SystemDatastore(paths={"/var/lib/one": "sftp://host/var/lib/one"})
    machine = VirtualMachine(33, "db", disks=(MachineDisk(9),))
    (parked,) = await far.parked(place.store, [machine], {})
    assert parked.disks[0].trouble.errno in {errno.EOPNOTSUPP, errno.EIO}
    (parked,) = await place.driver.parked(replace(place.store, base_path="/"), [machine], {})
    assert "no usable BASE_PATH" in parked.disks[0].trouble.reason


async def test_a_directory_of_a_vm_that_is_a_link_is_not_entered(place):
    (place.other / "disk.0").write_bytes(b"x")
    (place.vm.parent / "35").symlink_to(place.other)
    (part,) = await place.disks(MachineDisk(0, "FILE", "raw"), id=35)
    assert "directory is none" in part.trouble.reason


async def test_a_disk_that_gives_errors_is_the_datastore_s_trouble(place, monkeypatch):
    def broken(path):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(machine_files.os, "lstat", broken)
    with pytest.raises(Unreachable):
        await place.disks(MachineDisk(0, "FILE", "raw"))
    assert await place.disks() == ()
