"""Images in logical volumes, over a report that is a fake's or, at the end, the real LVM's."""

from __future__ import annotations

import errno
import os

import pytest
from pydantic import ValidationError

from nebfs.config import Settings
from nebfs.content.layers.here import MODES
from nebfs.datastores.filesystem import FilesystemDatastore
from nebfs.datastores.lvm import LvmDatastore
from nebfs.errors import BadAnswer, Unreachable
from nebfs.model import ImageState, ImageType, Revision, Snapshot, Template
from tests.datastores.devices_pool import EXPERIMENTAL, NODE
from tests.disks import FakeLvm, VolumeGroup

ETAG = f"lv:{FakeLvm.UUID.replace('-', '')}"
MODES_THAT_READ_INACTIVE_ONES = ["activate", "extents"]


@pytest.fixture
def place(datastore):
    def place(*template, **changes):
        pairs = (("LN_TARGET", "NONE"), ("CLONE_TARGET", "SELF"), *template)
        facts = {"driver": "lvm", "transfer": "lvm", "template": Template(pairs), **changes}
        return datastore(**facts)

    return place


@pytest.fixture
def driver(fake_lvm):
    def driver(mode="active-only"):
        return LvmDatastore(paths={}, settings={"mode": mode}, devices=str(fake_lvm.devices))

    return driver


@pytest.fixture
def activate(fake_lvm):
    """Makes a volume active, as far as a listing can see."""

    def activate(volume, group="vg-one-1"):
        path = fake_lvm.devices / group / volume
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mknod(path, NODE, EXPERIMENTAL)

    return activate


async def only(driver, place, image):
    (holding,) = await driver.holdings(place, [image])
    return holding


async def test_an_active_volume_is_read_as_its_device(
    driver, place, stored_in_lvm, activate, fake_lvm
):
    activate("img-one-1")
    content = (await only(driver(), place(), stored_in_lvm(1))).content
    assert content.locator.transport == "lvm"
    assert content.locator.address == f"{fake_lvm.devices}/vg-one-1/img-one-1"
    assert dict(content.locator.options)["volume"] == "vg-one-1/img-one-1"
    assert content.revision == Revision(5, ETAG)
    assert not content.volatile


async def test_a_persistent_image_may_be_written_to_meanwhile(
    driver, place, stored_in_lvm, activate
):
    activate("img-one-1")
    image = stored_in_lvm(1, persistent=True)
    assert (await only(driver(), place(), image)).content.volatile


async def test_an_inactive_volume_says_how_it_can_be_read(driver, place, stored_in_lvm):
    holding = await only(driver(), place(), stored_in_lvm(1))
    assert holding.trouble.errno == errno.EBUSY
    assert "lvchange -K -ay vg-one-1/img-one-1" in holding.trouble.reason
    assert "lvm_mode" in holding.trouble.reason


@pytest.mark.parametrize("mode", MODES_THAT_READ_INACTIVE_ONES)
async def test_a_linear_one_is_read_without_being_active(driver, place, stored_in_lvm, mode):
    content = (await only(driver(mode), place(), stored_in_lvm(1))).content
    assert content.revision == Revision(5, ETAG)
    assert dict(content.locator.options)["mode"] == mode


@pytest.mark.parametrize("mode", MODES_THAT_READ_INACTIVE_ONES)
@pytest.mark.parametrize("kind", ["thin", "raid1", "cache", "snapshot", "mixed", "error"])
async def test_what_is_not_safe_is_left_to_a_person(
    driver, place, stored_in_lvm, fake_lvm, activate, mode, kind
):
    image = stored_in_lvm(1, persistent=True)
    fake_lvm.add("img-one-1", 5, kind=kind)
    holding = await only(driver(mode), place(), image)
    assert holding.trouble.errno == errno.EBUSY
    assert kind in holding.trouble.reason
    activate("img-one-1")
    assert (await only(driver(mode), place(), image)).content.volatile


async def test_snapshots_are_volumes_beside_it(driver, place, stored_in_lvm, fake_lvm, activate):
    snapshots = (
        Snapshot(0, "", 111, 1, -1, False),
        Snapshot(1, "before", 222, 1, 0, False),
        Snapshot(2, "gone", 333, 1, 1, True),
    )
    image = stored_in_lvm(1, persistent=True, snapshots=snapshots)
    for volume in ("img-one-1_one_s0", "img-one-1_s1"):
        fake_lvm.add(volume, 7, kind="thin")
    for volume in ("img-one-1", "img-one-1_one_s0", "img-one-1_s1"):
        activate(volume)
    holding = await only(driver(), place(), image)
    first, second, third = holding.snapshots
    assert (first.name, first.date, first.content.revision.size) == ("0", 111, 7)
    assert first.content.locator.address.endswith("/img-one-1_one_s0")
    assert second.name == "1-before"
    assert second.content.locator.address.endswith("/img-one-1_s1")
    assert not second.content.volatile
    assert (third.name, third.trouble.errno) == ("2-gone", errno.EIO)
    assert holding.content.volatile


@pytest.mark.parametrize(
    ("source", "number"),
    [
        ("", errno.EIO),
        ("-", errno.EIO),
        ("vg-one-1", errno.EIO),
        ("vg-one-1/", errno.EIO),
        ("vg-one-1/img-one-1-pool", errno.EIO),
        ("vg-one-1/img-one-1_one_s1", errno.EIO),
        ("vg-one-1/vm-one-1-0", errno.EIO),
        ("vg-one-1/../../etc/passwd", errno.EIO),
        ("/dev/vg-one-1/img-one-1", errno.EIO),
        ("vg-one-1/img-one-1\n", errno.EACCES),
        ("vg-one-1/img-one-٣", errno.EIO),
        ("vg-one-2/img-one-1", errno.EACCES),
        ("vg-one-10/img-one-1", errno.EACCES),
        ("host:root.lv-one-1", errno.EACCES),
        ("host:-a.lv-one-1", errno.EACCES),
    ],
)
async def test_a_source_that_is_not_of_this_datastore(
    driver, place, stored_in_lvm, activate, source, number
):
    activate("img-one-1")
    image = stored_in_lvm(1, source=source)
    holding = await only(driver("activate"), place(), image)
    if source.endswith("\n"):  # what is around it is no part of it
        assert holding.content is not None
    else:
        assert (holding.content, holding.trouble.errno) == (None, number)


async def test_a_group_of_an_odd_name_is_never_handed_to_a_command(driver, place, stored_in_lvm):
    for group in ("-a", "..", "a b", "x/y", "$(id)"):
        image = stored_in_lvm(1, source=f"host:{group}.lv-one-1")
        holding = await only(driver("activate"), place(("VG_NAME", group)), image)
        assert holding.trouble.errno in {errno.EACCES, errno.EIO}


@pytest.mark.parametrize(
    ("source", "template", "group"),
    [
        ("host01:vg-one.lv-one-1", (), "vg-one"),
        ("host01:my.vg.lv-one-1", (("VG_NAME", "my.vg"),), "my.vg"),
    ],
)
async def test_volumes_of_opennebula_4_are_read_where_they_are_active(
    driver, place, stored_in_lvm, fake_lvm, activate, source, template, group
):
    fake_lvm.add("lv-one-1", 9)
    activate("lv-one-1", group)
    content = (await only(driver(), place(*template), stored_in_lvm(1, source=source))).content
    assert content.locator.address == f"{fake_lvm.devices}/{group}/lv-one-1"
    assert content.revision.size == 9


async def test_a_volume_that_is_not_in_its_group(driver, place, stored_in_lvm, image):
    stored_in_lvm(1)
    holding = await only(driver("activate"), place(), image(2, source="vg-one-1/img-one-2"))
    assert holding.trouble.errno == errno.EIO
    assert "no volume img-one-2" in holding.trouble.reason


async def test_a_cdrom_and_its_states_are_as_everywhere(driver, place, stored_in_lvm):
    image = stored_in_lvm(1, type=ImageType.CDROM, state=ImageState.USED)
    assert (await only(driver("extents"), place(), image)).content.media == "cdrom"
    busy = stored_in_lvm(1, state=ImageState.USED_PERS)
    assert (await only(driver("extents"), place(), busy)).trouble.errno == errno.EBUSY


def says(fake_lvm, text, code=5):
    script = fake_lvm.bin / "lvs"
    script.write_text(f"#!/bin/sh\necho '{text}' >&2\nexit {code}\n")


async def test_a_group_that_is_not_here(driver, place, stored_in_lvm, fake_lvm):
    image = stored_in_lvm(1)
    says(fake_lvm, '  Volume group "vg-one-1" not found')
    holding = await only(driver("activate"), place(), image)
    assert holding.trouble.errno == errno.EIO
    assert "vg-one-1 is not on this machine" in holding.trouble.reason


async def test_lvm_that_fails_is_the_datastores_trouble(driver, place, stored_in_lvm, fake_lvm):
    """What was known before is better than a directory of errors."""
    image = stored_in_lvm(1)
    says(fake_lvm, "  /dev/sdb: read failed: Input/output error")
    with pytest.raises(Unreachable, match="read failed"):
        await only(driver(), place(), image)
    says(fake_lvm, "", 0)
    with pytest.raises(BadAnswer):
        await only(driver(), place(), image)


async def test_without_lvms_commands_active_volumes_are_read_all_the_same(
    driver, place, stored_in_lvm, activate, monkeypatch
):
    images = [stored_in_lvm(1), stored_in_lvm(2)]
    activate("img-one-1")
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    active, inactive = await driver("activate").holdings(place(), images)
    assert active.content.revision is None  # the device is asked
    assert inactive.trouble.errno == errno.EOPNOTSUPP
    assert "install lvm2" in inactive.trouble.reason


async def test_a_datastore_without_images_asks_nothing(driver, place, fake_lvm, stored_in_lvm):
    says(fake_lvm, "no")
    assert await driver().holdings(place(), []) == ()
    broken = stored_in_lvm(1, state=ImageState.ERROR)
    assert (await only(driver(), place(), broken)).trouble.errno == errno.EIO


async def test_a_real_group_is_listed_without_an_activation(place, image, tmp_path, monkeypatch):
    """Real lvm2 on a loop device."""
    group = VolumeGroup(tmp_path, "vg-one-1")
    try:
        for name, value in group.environment.items():
            monkeypatch.setenv(name, value)
        group.create("img-one-5", 2)
        group.create("img-one-6", 1)
        images = [image(n, source=f"vg-one-1/img-one-{n}") for n in (5, 6, 7)]
        driver = LvmDatastore(paths={}, settings={"mode": "extents"})
        five, six, seven = await driver.holdings(place(), images)
        assert five.content.revision.size == 2 * group.extent
        assert six.content.revision.size == group.extent
        assert len({five.content.revision.etag, six.content.revision.etag}) == 2
        assert "no volume img-one-7" in seven.trouble.reason
        elsewhere = image(8, source="vg-one-2/img-one-8")
        (holding,) = await driver.holdings(place(), [elsewhere])
        assert holding.trouble.errno == errno.EACCES
    finally:
        group.close()


async def test_a_real_group_that_is_not_here(datastore, image, tmp_path, monkeypatch):
    """Real lvm2, which is shown no disk at all."""
    (tmp_path / "lvm.conf").write_text('devices { filter = ["r|.*|"] use_devicesfile = 0 }\n')
    monkeypatch.setenv("LVM_SYSTEM_DIR", str(tmp_path))
    driver = LvmDatastore(paths={}, settings={"mode": "activate"})
    holding = await only(driver, datastore(), image(1, source="vg-one-1/img-one-1"))
    assert "not on this machine" in holding.trouble.reason


@pytest.mark.parametrize("transfer", ["fs_lvm", "fs_lvm_ssh"])
async def test_lvm_in_file_mode_keeps_its_images_in_files(datastore, stored, transfer):
    """Only the disks of VMs are volumes there; such a datastore's DS_MAD is fs."""
    place = datastore(transfer=transfer, template=Template((("LN_TARGET", "SYSTEM"),)))
    holding = await only(FilesystemDatastore(paths={}), place, stored(1, b"12345"))
    assert (holding.content.locator.transport, holding.content.revision.size) == ("file", 5)


def test_the_mode_is_one_of_those_that_readers_know():
    for mode in MODES:
        assert Settings(datastores={"lvm_mode": mode}).datastores.lvm_mode == mode
    assert Settings().datastores.lvm_mode == MODES[0] == "active-only"
    with pytest.raises(ValidationError):
        Settings(datastores={"lvm_mode": "yes"})
