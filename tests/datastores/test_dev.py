"""Raw device mapping: which devices are read, and why others are not."""

from __future__ import annotations

import errno
import os

import pytest

from nebfs.config import Settings
from nebfs.datastores.dev import DeviceDatastore
from nebfs.model import ImageState, Locator, Template
from tests.datastores.devices_pool import EXPERIMENTAL, NODE


@pytest.fixture
def place(datastore):
    return datastore(driver="dev", transfer="dev", template=Template((("LN_TARGET", "NONE"),)))


@pytest.fixture
def driver(base):
    def driver(*devices, paths=None):
        return DeviceDatastore(paths=paths or {}, settings={"devices": devices or (f"{base}/*",)})

    return driver


async def only(driver, place, image):
    (holding,) = await driver.holdings(place, [image])
    return holding


async def test_a_device_is_read_in_place_and_nothing_of_it_is_kept(
    driver, place, stored_on_device, base
):
    content = (await only(driver(), place, stored_on_device(1, format=""))).content
    assert content.locator == Locator("device", f"{base}/lun1")
    assert content.volatile
    assert content.revision is None  # it is asked when the directory is listed
    assert content.format == "raw"


async def test_the_name_is_kept_and_not_what_it_leads_to(driver, place, stored_on_device, base):
    """/dev/sdb is another disk after the next start; the link says which one is meant."""
    stored_on_device(1)
    (base / "by-id").mkdir()
    (base / "by-id/wwn-1").symlink_to("../lun1")
    image = stored_on_device(2, source=f"{base}/by-id/wwn-1")
    content = (await only(driver(f"{base}/by-id/*"), place, image)).content
    assert content.locator.address == f"{base}/by-id/wwn-1"


@pytest.mark.parametrize(
    ("pattern", "source", "allowed"),
    [
        ("{}/*", "{}/lun1", True),
        ("{}/lun?", "{}/lun1", True),
        ("{}/lun1", "{}/lun1", True),
        ("{}/lun1", "{}//./x/../lun1", True),
        ("{}/lun[23]", "{}/lun1", False),
        ("{}/other/*", "{}/lun1", False),
        ("{}/other/*", "{}/other/../lun1", False),
        ("{}", "{}/lun1", False),
        ("lun1", "{}/lun1", False),
        ("{}/LUN1", "{}/lun1", False),
    ],
)
async def test_only_what_the_administrator_allows_is_read(
    driver, place, stored_on_device, base, pattern, source, allowed
):
    stored_on_device(1)
    image = stored_on_device(1, source=source.format(base))
    holding = await only(driver(pattern.format(base)), place, image)
    if allowed:
        assert holding.content is not None
    else:
        assert holding.trouble.errno == errno.EACCES
        assert "[datastores] devices" in holding.trouble.reason


async def test_without_a_setting_no_device_is_read(place, stored_on_device):
    holding = await only(DeviceDatastore(paths={}), place, stored_on_device(1))
    assert holding.trouble.errno == errno.EACCES


async def test_a_star_does_not_reach_into_directories(driver, place, stored_on_device, base):
    (base / "deep").mkdir()
    os.mknod(base / "deep/lun", NODE, EXPERIMENTAL)
    holding = await only(driver(), place, stored_on_device(1, source=f"{base}/deep/lun"))
    assert holding.trouble.errno == errno.EACCES


@pytest.mark.parametrize(
    ("make", "number", "words"),
    [
        (lambda p: None, errno.EIO, "not on this machine"),
        (lambda p: p.write_bytes(b"secret"), errno.EACCES, "no block device"),
        (lambda p: p.symlink_to("/etc/passwd"), errno.EACCES, "no block device"),
        (lambda p: p.symlink_to("/dev/zero"), errno.EACCES, "no block device"),
        (lambda p: p.mkdir(), errno.EACCES, "no block device"),
        (os.mkfifo, errno.EACCES, "no block device"),
        (lambda p: p.symlink_to(p), errno.EIO, f"error {errno.ELOOP}"),
    ],
    ids=["nothing", "file", "link to a file", "zeros", "directory", "pipe", "circle"],
)
async def test_what_is_no_device_is_not_read(driver, place, image, base, make, number, words):
    make(base / "it")
    holding = await only(driver(), place, image(1, source=f"{base}/it"))
    assert (holding.trouble.errno, words in holding.trouble.reason) == (number, True)


@pytest.mark.parametrize("source", ["", "-", "sdb", "dev/sdb", "\0/dev/sdb"])
async def test_a_source_that_is_no_path(driver, place, image, source):
    holding = await only(driver(), place, image(1, source=source))
    assert holding.trouble.errno == errno.EIO


async def test_a_name_that_no_file_can_have(driver, place, image, base):
    holding = await only(driver(), place, image(1, source=f"{base}/{'x' * 300}"))
    assert holding.trouble.errno == errno.EIO


async def test_a_device_with_another_name_here_is_mapped(driver, place, stored_on_device, base):
    stored_on_device(1)
    paths = {"/dev/mapper": str(base)}
    image = stored_on_device(1, source="/dev/mapper/lun1")
    content = (await only(driver(paths=paths), place, image)).content
    assert content.locator.address == f"{base}/lun1"


async def test_a_device_of_another_machine_is_not_read_and_that_is_said(driver, place, image):
    paths = {"/dev": "sftp://root@host/dev"}
    holding = await only(driver("/dev/*", paths=paths), place, image(1, source="/dev/sdb"))
    assert holding.trouble.errno == errno.EOPNOTSUPP
    assert "another machine" in holding.trouble.reason


async def test_a_vm_that_has_it_is_a_reason(driver, place, stored_on_device):
    image = stored_on_device(1, state=ImageState.USED_PERS)
    assert (await only(driver(), place, image)).trouble.errno == errno.EBUSY


@pytest.mark.parametrize("pattern", ["", "sdb", "/", "/*", "/*/sdb", "/dev/../etc/*"])
def test_patterns_that_allow_everything_are_refused(pattern):
    with pytest.raises(ValueError, match="not a path, or is everything"):
        Settings(datastores={"devices": [pattern]})


def test_patterns_are_set_in_the_table_of_datastores():
    settings = Settings(datastores={"devices": ["/dev/disk/by-id/*"]})
    assert settings.datastores.devices == ("/dev/disk/by-id/*",)
    assert Settings().datastores.devices == ()
