"""What every datastore driver promises. A new driver is one line in STORES."""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace

import pytest

from nebfs.datastores import DRIVERS, DatastoreDrivers, UnsupportedDatastore
from nebfs.datastores.registry import Entry
from nebfs.model import DatastoreType, ImageState, ImageType, Template
from tests.datastores import netapp_pool, purefa_pool, vcenter_pool
from tests.datastores.far import Far


@dataclass(frozen=True)
class Store:
    """How a driver is tested: `fixture` makes an image with the bytes b"12345" behind it.

    `asked`: its length is asked when the directory is listed. `kind`: what a holding of it has.
    """

    fixture: str
    asked: bool = False
    kind: str = "content"
    far: Far | None = None


STORES = {
    "ceph": Store("stored_in_ceph"),
    "dev": Store("stored_on_device", asked=True),
    "fs": Store("stored"),
    "iscsi_libvirt": Store("stored_on_iscsi", asked=True),
    "lvm": Store("stored_in_lvm"),
    "netapp": Store("stored_in_netapp", asked=True, far=netapp_pool.FAR),
    "purefa": Store("stored_in_purefa", asked=True, far=purefa_pool.FAR),
    "restic": Store("stored_by_restic", kind="backup"),
    "rsync": Store("stored_by_rsync", kind="backup"),
    "vcenter": Store("stored_in_vcenter", asked=True, far=vcenter_pool.FAR),
    "virtiofs": Store("shared_directory", kind="directory"),
}
UNKNOWN = ("", "-", "dummy", "interactive", "storpool")

READABLE = ("READY", "USED", "CLONE", "DISABLED", "LOCKED_USED")
IN_USE = ("USED_PERS", "LOCKED_USED_PERS")


def test_every_registered_driver_is_tested_here():
    assert list(STORES) == sorted(DRIVERS) == list(DRIVERS)


@pytest.fixture(params=sorted(STORES))
def name(request):
    return request.param


@pytest.fixture
def expected(name):
    return STORES[name]


@pytest.fixture
def store(expected, request):
    return request.getfixturevalue(expected.fixture)


@pytest.fixture
def driver(name, expected, ceph_pool, base, request):
    if expected.far is not None:
        return expected.far.driver(name, request.getfixturevalue(expected.far.call))
    # What is shared may be anywhere: the configuration has to allow it.
    settings = {
        "dev": {"devices": (f"{base}/*",)},
        "lvm": {"mode": "activate"},
        "virtiofs": {"directories": (str(base),)},
    }
    return DatastoreDrivers(call=ceph_pool, settings=settings)(name)


async def only(driver, datastore, image):
    (holding,) = await driver.holdings(datastore, [image])
    assert holding.image is image
    has = (holding.content, holding.trouble, holding.disks or holding.deferred, holding.directory)
    assert sum(map(bool, has)) == 1
    return holding


def readable(holding, kind):
    """Whether the holding has what its kind of datastore gives."""
    match kind:
        case "backup":
            return bool(holding.disks or holding.deferred)
        case "directory":
            return holding.directory is not None
    return holding.content is not None


@pytest.mark.parametrize("state", READABLE)
async def test_an_image_at_rest_is_readable(driver, datastore, store, expected, state):
    holding = await only(driver, datastore(), store(1, b"12345", state=ImageState[state]))
    assert readable(holding, expected.kind)
    if expected.kind != "content":
        return
    if expected.asked:
        assert holding.content.revision is None
    else:
        assert holding.content.revision.size == 5
    assert holding.content.virtual_size is None
    assert holding.content.format == "raw"
    assert holding.content.media == ""


@pytest.mark.parametrize("state", IN_USE)
@pytest.mark.parametrize(
    ("template", "at_rest"),
    [
        ((("LN_TARGET", "SYSTEM"),), True),
        ((("LN_TARGET", "SELF"),), True),
        ((("LN_TARGET", "system"), ("LN_TARGET_SSH", "SYSTEM")), True),
        ((("LN_TARGET", "NONE"),), False),
        ((("LN_TARGET", "NONE"), ("LN_TARGET_SSH", "SYSTEM")), False),
        ((("LN_TARGET", "SYSTEM"), ("LN_TARGET_SHARED", "NONE")), False),
        ((), False),
    ],
)
async def test_a_persistent_image_in_use_is_readable_only_where_vms_work_on_a_copy(
    driver, datastore, store, expected, state, template, at_rest
):
    place = datastore(template=Template(template))
    holding = await only(driver, place, store(1, state=ImageState[state]))
    if at_rest or expected.kind == "directory":  # which is shared with VMs, and written to always
        assert readable(holding, expected.kind)
    else:
        assert holding.trouble.errno == errno.EBUSY
        assert "a VM writes to it" in holding.trouble.reason


@pytest.mark.parametrize(
    ("changes", "number", "words"),
    [
        ({"state": ImageState.INIT}, errno.EBUSY, "writing"),
        ({"state": ImageState.LOCKED}, errno.EBUSY, "writing"),
        ({"state": ImageState.ERROR, "source": ""}, errno.EIO, "ERROR: no text"),
        ({"state": ImageState.UNKNOWN}, errno.EOPNOTSUPP, "state"),
        ({"unreadable": "an emoji"}, errno.EIO, "an emoji"),
    ],
)
async def test_an_image_without_bytes_says_why(driver, datastore, store, changes, number, words):
    holding = await only(driver, datastore(), replace(store(1), **changes))
    assert holding.trouble.errno == number
    assert words in holding.trouble.reason


async def test_the_reason_of_an_error_shows_no_credentials(driver, datastore, store):
    said = "Error copying http://bob:canary-1@host/x?sig=canary-2 to\n/var/lib" + "x" * 1000
    broken = store(1, state=ImageState.ERROR, template=Template((("ERROR", said),)))
    reason = (await only(driver, datastore(), broken)).trouble.reason
    assert "Error copying http://host/x to /var/lib" in reason
    assert "canary" not in reason
    assert len(reason) < 500


async def test_an_image_that_is_being_deleted_is_not_listed(driver, datastore, store):
    images = [store(2), store(1, state=ImageState.DELETE)]
    assert [h.image.id for h in await driver.holdings(datastore(), images)] == [2]


async def test_a_system_datastore_is_empty(driver, datastore, store):
    assert await driver.holdings(datastore(type=DatastoreType.SYSTEM), [store(1)]) == ()


async def test_every_image_is_listed_once_by_ascending_id(driver, datastore, store):
    images = [store(5), store(3, state=ImageState.ERROR), store(4), store(1, unreadable="x")]
    assert [h.image.id for h in await driver.holdings(datastore(), images)] == [1, 3, 4, 5]


async def test_a_cdrom_says_so(driver, datastore, store, expected):
    holding = await only(driver, datastore(), store(1, type=ImageType.CDROM))
    if expected.kind == "content":
        assert holding.content.media == "cdrom"
    else:
        assert readable(holding, expected.kind)


@pytest.mark.parametrize("unknown", UNKNOWN)
async def test_an_unknown_type_lists_its_images_without_bytes(unknown, datastore, stored):
    driver = DatastoreDrivers()(unknown)
    assert isinstance(driver, UnsupportedDatastore)
    images = [stored(2), stored(1, unreadable="an emoji"), stored(3, state=ImageState.DELETE)]
    broken, image = await driver.holdings(datastore(driver=unknown), images)
    assert (broken.trouble.errno, broken.trouble.reason) == (errno.EIO, "an emoji")
    assert (image.image.id, image.trouble.errno) == (2, errno.EOPNOTSUPP)
    assert (repr(unknown) if unknown else "may not see") in image.trouble.reason
    assert await driver.holdings(datastore(type=DatastoreType.SYSTEM), images) == ()


async def test_a_missing_library_is_every_images_trouble_with_the_remedy(datastore, stored):
    entry = Entry("nebfs_no_such_library", "Far", "pip install 'nebfs[far]'")
    driver = DatastoreDrivers(drivers={"far": entry})("far")
    (holding,) = await driver.holdings(datastore(), [stored(1)])
    assert "pip install 'nebfs[far]'" in holding.trouble.reason


def test_a_driver_is_built_once_so_that_its_limits_hold():
    drivers = DatastoreDrivers()
    assert drivers("fs") is drivers("fs")
