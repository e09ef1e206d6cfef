"""The driver for Ceph, with a cluster that answers as the test says."""

from __future__ import annotations

import errno
import json

import pytest

from nebfs.datastores import DatastoreDrivers
from nebfs.datastores.ceph import CephDatastore
from nebfs.errors import BadAnswer, Refused, Unreachable, Unsupported
from nebfs.fetcher.messages import CallAnswer
from nebfs.model import ImageState, ImageType, Revision, Snapshot, Template


@pytest.fixture
def pool(ceph_pool):
    return ceph_pool


@pytest.fixture
def stored(stored_in_ceph):
    return stored_in_ceph


@pytest.fixture
def driver(pool):
    return CephDatastore(paths={}, call=pool)


@pytest.fixture
def place(datastore):
    def make(*template, **changes):
        pairs = (("LN_TARGET", "NONE"), ("CLONE_TARGET", "SELF"), *template)
        return datastore(driver="ceph", transfer="ceph", template=Template(pairs), **changes)

    return make


async def only(driver, datastore, image):
    (holding,) = await driver.holdings(datastore, [image])
    return holding


async def test_an_image_is_located_with_its_exact_length_and_version(driver, place, stored, pool):
    holding = await only(driver, place(), stored(1))
    content = holding.content
    assert content.locator.transport == "rbd"
    assert content.locator.address == f"rbd://{pool.fsid}/one/one-1"
    assert content.revision == Revision(5, "id-one-1", "1700000000000000000")
    assert (content.format, content.media, content.checksums) == ("raw", "", ())
    (request,) = pool.requests
    assert (request.method, request.transport) == ("LOOK", "rbd")
    assert request.url == "rbd://ceph/one"


async def test_all_images_are_asked_for_at_once(driver, place, stored, pool):
    holdings = await driver.holdings(place(), [stored(n) for n in range(30)])
    assert [h.content.revision.etag for h in holdings] == [f"id-one-{n}" for n in range(30)]
    assert len(pool.question["images"]) == 30


async def test_a_datastore_without_readable_images_asks_nothing(driver, place, stored, pool):
    await driver.holdings(place(), [stored(1, state=ImageState.LOCKED)])
    await driver.holdings(place(), [])
    assert pool.requests == []


async def test_how_the_cluster_is_entered_follows_from_the_datastore(
    driver, place, stored, pool, tmp_path
):
    for name in ("conf", "key"):
        (tmp_path / name).write_text("")
    told = place(
        ("CEPH_USER", "libvirt"),
        ("CEPH_HOST", "mon1:6789  mon2"),
        ("CEPH_CONF", f"{tmp_path}/conf"),
        ("CEPH_KEY", f"{tmp_path}/key"),
        ("CEPH_SECRET", "canary"),
    )
    holding = await only(driver, told, stored(1))
    door = {
        "conf": f"{tmp_path}/conf",
        "keyring": f"{tmp_path}/key",
        "user": "libvirt",
        "monitors": "mon1:6789 mon2",
    }
    assert pool.question["door"] == door
    assert dict(holding.content.locator.options) == door
    assert "canary" not in str(pool.requests) + str(holding)


async def test_files_on_the_bridges_are_not_files_here(driver, place, stored, pool):
    await only(driver, place(("CEPH_CONF", "/none/here"), ("CEPH_KEY", "ceph.key")), stored(1))
    assert pool.question["door"] == {"conf": "", "keyring": "", "user": "", "monitors": ""}


@pytest.mark.parametrize("name", ["default", "1"])
async def test_own_settings_come_first_and_those_of_the_datastore_before_them(
    pool, place, stored, name
):
    settings = {"": {"user": "all", "keyring": "/k"}, name: {"user": "this"}, "2": {"conf": "/x"}}
    drivers = DatastoreDrivers(call=pool, settings={"ceph": settings})
    await only(drivers("ceph"), place(("CEPH_USER", "libvirt")), stored(1))
    assert pool.question["door"] == {"conf": "", "keyring": "/k", "user": "this", "monitors": ""}


async def test_another_pool_and_an_odd_name_are_written_so_that_they_separate_nothing(
    driver, place, image, pool
):
    pool.put("one 1%?#")
    odd = image(1, source="my pool/one 1%?#")
    holding = await only(driver, place(("POOL_NAME", "my pool")), odd)
    assert holding.content.locator.address == f"rbd://{pool.fsid}/my%20pool/one%201%25%3F%23"


@pytest.mark.parametrize(
    ("source", "number", "words"),
    [
        ("", errno.EIO, "no pool and name"),
        ("-", errno.EIO, "no pool and name"),
        ("one/", errno.EIO, "no pool and name"),
        ("/one-1", errno.EIO, "no pool and name"),
        ("one/one-1@snap", errno.EIO, "not one that OpenNebula gives"),
        ("one/space/one-1", errno.EIO, "not one that OpenNebula gives"),
        ("one/one-\n1", errno.EIO, "not one that OpenNebula gives"),
        ("other/one-1", errno.EACCES, "outside the datastore's pool"),
        ("/var/lib/one/x", errno.EIO, "no pool and name"),
    ],
)
async def test_a_source_that_is_no_image_of_the_pool(
    driver, place, image, pool, source, number, words
):
    holding = await only(driver, place(), image(1, source=source))
    assert holding.trouble.errno == number
    assert words in holding.trouble.reason
    assert pool.requests == []


async def test_an_image_that_the_pool_does_not_have_is_an_error_and_not_gone(
    driver, place, stored, image
):
    there, lost = await driver.holdings(place(), [stored(1), image(2, source="one/one-2")])
    assert there.content is not None
    assert lost.trouble.errno == errno.EIO
    assert "no such image" in lost.trouble.reason


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"size": "5", "id": "a", "modified": 0},
        {"size": -1, "id": "a", "modified": 0},
        {"size": 1 << 63, "id": "a", "modified": 0},
        {"size": 5, "id": None, "modified": 0},
    ],
)
async def test_an_answer_that_makes_no_sense_is_that_images_trouble(
    driver, place, stored, pool, facts
):
    images = [stored(1), stored(2)]
    pool.images["one-1"] = facts
    odd, fine = await driver.holdings(place(), images)
    assert odd.trouble.errno == errno.EIO
    assert fine.content is not None


async def test_one_image_that_may_not_be_read_is_that_images_trouble(driver, place, stored, pool):
    images = [stored(1), stored(2)]
    pool.images["one-1"] = {"errno": errno.EACCES, "reason": "not allowed"}
    refused, fine = await driver.holdings(place(), images)
    assert (refused.trouble.errno, refused.trouble.reason) == (errno.EACCES, "not allowed")
    assert fine.content is not None


@pytest.mark.parametrize("failure", [Unreachable("silent"), Refused("no")])
async def test_a_pool_of_which_nothing_is_known_is_not_empty(driver, place, stored, pool, failure):
    pool.failure = failure
    with pytest.raises(type(failure)):
        await driver.holdings(place(), [stored(1)])


async def test_what_is_missing_on_this_machine_is_said_at_every_image(driver, place, stored, pool):
    pool.failure = Unsupported("install python3-rbd", conf="/etc/x")
    for holding in await driver.holdings(place(), [stored(1), stored(2)]):
        assert holding.trouble.errno == errno.EOPNOTSUPP
        assert "install python3-rbd" in holding.trouble.reason
        assert "/etc/x" in holding.trouble.reason


async def test_an_answer_about_fewer_images_is_no_answer(driver, place, stored):
    async def forgetful(request):
        return CallAnswer(
            200, (), json.dumps({"cluster": "x", "images": [], "snapshots": []}).encode()
        )

    with pytest.raises(BadAnswer):
        await CephDatastore(paths={}, call=forgetful).holdings(place(), [stored(1)])


async def test_snapshots_are_looked_at_in_the_same_question(driver, place, stored, pool):
    pool.put("one-1@0", size=3, modified=5)
    snapshots = (Snapshot(0, "before", 11, 1, -1, False), Snapshot(2, "", 12, 1, 0, True))
    holding = await only(driver, place(), stored(1, snapshots=snapshots))
    assert pool.question["snapshots"] == [["one-1", "0"], ["one-1", "2"]]
    first, second = holding.snapshots
    assert (first.name, first.date, first.trouble) == ("0-before", 11, None)
    assert first.content.locator.address == f"rbd://{pool.fsid}/one/one-1@0"
    assert first.content.revision == Revision(3, "id-one-1@0", "5000000000")
    assert (second.name, second.content, second.trouble.errno) == ("2", None, errno.EIO)
    assert "no such snapshot" in second.trouble.reason


async def test_a_snapshot_is_read_where_a_revert_has_left_it(driver, place, stored, pool):
    pool.put("one-1@0")
    pool.images["one-1@0"]["name"] = "one-1-0:1"
    holding = await only(driver, place(), stored(1, snapshots=(Snapshot(0, "", 1, 1, -1, True),)))
    address = holding.snapshots[0].content.locator.address
    assert address == f"rbd://{pool.fsid}/one/one-1-0%3A1@0"


async def test_a_revert_makes_another_version_whatever_the_time_says(driver, place, stored):
    before = (Snapshot(0, "", 1, 1, -1, True), Snapshot(1, "", 1, 1, 0, False))
    seen = set()
    for facts in ({}, {"current_base": 1}, {"next_snapshot": 2}, {"snapshots": before[:1]}):
        image = stored(1, **{"snapshots": before, "current_base": 0, "next_snapshot": 3, **facts})
        seen.add((await only(driver, place(), image)).content.identity)
    assert len(seen) == 4


async def test_an_image_with_snapshots_is_its_present_state(driver, place, stored):
    # After a revert, too: the present state always has the image's own name.
    snapshots = (Snapshot(0, "before", 1, 1, -1, True),)
    assert (await only(driver, place(), stored(1, snapshots=snapshots))).content is not None


async def test_an_image_that_a_vm_has_given_back_is_other_content(driver, place, stored):
    before = await only(driver, place(), stored(1, modtime=0))
    after = await only(driver, place(), stored(1, modtime=1))
    assert before.content.revision == after.content.revision
    assert before.content.identity != after.content.identity


async def test_an_image_that_a_vm_writes_to_is_busy(driver, place, stored):
    holding = await only(driver, place(), stored(1, state=ImageState.USED_PERS))
    assert holding.trouble.errno == errno.EBUSY


async def test_a_cdrom_says_so(driver, place, stored):
    content = (await only(driver, place(), stored(1, type=ImageType.CDROM))).content
    assert content.media == "cdrom"


async def test_an_image_without_times_has_none(driver, place, stored, pool):
    image = stored(1)
    pool.put("one-1", modified=0)
    assert (await only(driver, place(), image)).content.revision == Revision(5, "id-one-1")


async def test_without_a_fetcher_there_is_no_cluster(place, stored):
    holding = await only(CephDatastore(paths={}, call=None), place(), stored(1))
    assert holding.trouble.errno == errno.EOPNOTSUPP
