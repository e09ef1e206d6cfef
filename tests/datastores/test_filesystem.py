from __future__ import annotations

import errno
import os
import socket
import threading
from dataclasses import replace

import pytest
import trio

from nebfs.datastores import DatastoreDrivers, filesystem, look
from nebfs.datastores.filesystem import FilesystemDatastore
from nebfs.errors import Unreachable
from nebfs.model import Revision, Snapshot, Template


@pytest.fixture
def driver():
    return FilesystemDatastore(paths={})


async def only(driver, datastore, image):
    (holding,) = await driver.holdings(datastore, [image])
    return holding


async def test_a_file_is_located_with_its_exact_length_and_version(driver, datastore, stored, base):
    holding = await only(driver, datastore(), stored(1, b"x" * 5000, format="qcow2"))
    path = base / f"{1:032x}"
    found = path.stat()
    content = holding.content
    assert (content.locator.transport, content.locator.address) == ("file", os.path.realpath(path))
    assert content.revision == Revision(
        5000, etag=f"{found.st_dev}:{found.st_ino}", modified=str(found.st_mtime_ns)
    )
    assert content.allocated == found.st_blocks * 512
    assert content.checksums == ()


async def test_the_double_slash_that_opennebula_writes_is_no_obstacle(
    driver, datastore, stored, base
):
    parent = base.parent
    place = datastore(base_path=f"{parent}//1/")
    image = stored(1, source=f"{parent}//1//{1:032x}")
    assert (await only(driver, place, image)).content is not None


async def test_the_front_ends_directory_is_found_where_it_is_mounted_here(datastore, stored, base):
    driver = DatastoreDrivers(paths={"/var/lib/one/datastores": str(base.parent)})("fs")
    place = datastore(base_path="/var/lib/one//datastores/1")
    image = stored(1, source=f"/var/lib/one//datastores/1/{1:032x}")
    holding = await only(driver, place, image)
    assert holding.content.locator.address == os.path.realpath(base / f"{1:032x}")


async def test_a_datastore_whose_directory_is_a_link_is_read(driver, datastore, stored, tmp_path):
    image = stored(1)
    (tmp_path / "link").symlink_to(tmp_path / "datastores" / "1")
    place = datastore(base_path=str(tmp_path / "link"))
    linked = stored(1, source=str(tmp_path / "link" / f"{1:032x}"))
    assert (await only(driver, place, linked)).content is not None
    # The same file under its other name is not below BASE_PATH as OpenNebula wrote it.
    assert (await only(driver, place, image)).trouble.errno == errno.EACCES


@pytest.mark.parametrize(
    "source",
    ["{base}/../../secret", "{base}/../10/x", "{base}", "{base}/", "/etc/shadow", "/", "{base}0/x"],
)
async def test_a_source_outside_the_datastore_is_refused(driver, datastore, image, base, source):
    (base.parent.parent / "secret").write_text("secret")
    holding = await only(driver, datastore(), image(1, source=source.format(base=base)))
    assert holding.trouble.errno == errno.EACCES
    assert "outside the datastore" in holding.trouble.reason


@pytest.mark.parametrize("source", ["", "-", "dummy_path", "../x", "rbd:pool/image", "/a\0b"])
async def test_a_source_that_is_no_path_is_an_error(driver, datastore, image, source):
    holding = await only(driver, datastore(), image(1, source=source))
    assert holding.trouble.errno == errno.EIO


@pytest.mark.parametrize("base_path", ["", "/", "relative", "//"])
async def test_a_base_path_that_would_allow_everything_allows_nothing(
    driver, datastore, stored, base_path
):
    holding = await only(driver, datastore(base_path=base_path), stored(1))
    assert holding.trouble.errno == errno.EIO
    assert "BASE_PATH" in holding.trouble.reason


async def test_a_link_out_of_the_datastore_is_refused(driver, datastore, image, base, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (base / f"{1:032x}").symlink_to(tmp_path / "secret")
    (base / f"{2:032x}").symlink_to("../../secret")
    (base / "sub").symlink_to(tmp_path)
    images = [image(1), image(2), image(3, source=f"{base}/sub/secret")]
    for holding in await driver.holdings(datastore(), images):
        assert holding.content is None
        assert holding.trouble.errno == errno.EACCES


async def test_a_link_inside_the_datastore_is_followed_to_the_file(driver, datastore, image, base):
    (base / "real").write_bytes(b"real")
    (base / f"{1:032x}").symlink_to("real")
    content = (await only(driver, datastore(), image(1))).content
    assert content.locator.address == os.path.realpath(base / "real")
    assert content.revision.size == 4


async def test_a_link_to_itself_is_an_error(driver, datastore, image, base):
    (base / f"{1:032x}").symlink_to(f"{1:032x}")
    assert (await only(driver, datastore(), image(1))).trouble.errno == errno.EIO


async def test_a_file_that_is_not_here_says_what_to_do(driver, datastore, image):
    holding = await only(driver, datastore(), image(1))
    # Not ENOENT: rsync would take the image for vanished and carry on.
    assert holding.trouble.errno == errno.EIO
    assert "[datastores.paths]" in holding.trouble.reason


async def test_a_whole_datastore_that_is_not_here_lists_its_images(driver, datastore, image):
    place = datastore(base_path="/nonexistent/datastores/1")
    images = [image(n, source=f"/nonexistent/datastores/1/{n}") for n in (1, 2)]
    holdings = await driver.holdings(place, images)
    assert [h.image.id for h in holdings] == [1, 2]
    assert all("[datastores.paths]" in h.trouble.reason for h in holdings)


async def test_a_file_on_a_bridge_names_the_bridge(driver, datastore, image, stored):
    place = datastore(template=Template((("BRIDGE_LIST", "node1 node2"),)))
    holding = await only(driver, place, image(1))
    assert holding.trouble.errno == errno.EOPNOTSUPP
    assert "node1 node2" in holding.trouble.reason
    assert (await only(driver, place, stored(2))).content is not None


async def test_what_is_not_a_file_is_not_read(driver, datastore, image, base, monkeypatch):
    (base / f"{1:032x}").mkdir()
    os.mkfifo(base / f"{2:032x}")
    monkeypatch.chdir(base)  # a socket's whole path may have 107 bytes only
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{3:032x}")
        holdings = await driver.holdings(datastore(), [image(1), image(2), image(3)])
    for holding, kind in zip(holdings, ("directory", "pipe", "socket"), strict=True):
        assert holding.trouble.errno == errno.EOPNOTSUPP
        assert kind in holding.trouble.reason


async def test_a_file_that_is_called_as_a_snapshot_directory_is_none(
    driver, datastore, stored, base
):
    image = stored(4)
    (base / f"{4:032x}.snap").write_text("a file of that name is no chain")
    assert (await only(driver, datastore(), image)).content is not None


async def test_a_directory_that_may_be_entered_but_not_read_is_enough(
    driver, datastore, stored, base, monkeypatch
):
    def refuse(_):
        raise PermissionError(errno.EACCES, "no")

    kept = Snapshot(0, "", 0, 1, -1, True)
    images = [stored(1), stored(2, snapshots=(kept,))]
    (base / f"{2:032x}.snap").mkdir()
    (base / f"{2:032x}.snap" / "0").write_bytes(b"as it was")
    monkeypatch.setattr(look.os, "listdir", refuse)
    plain, chained = await driver.holdings(datastore(), images)
    assert plain.content is not None
    assert chained.snapshots[0].content.revision.size == 9


def failing(monkeypatch, number, names=None):
    real = os.lstat

    def lstat(path, **options):
        if names is None or os.path.basename(path) in names:
            raise OSError(number, "no")
        return real(path, **options)

    monkeypatch.setattr(look.os, "lstat", lstat)


async def test_a_directory_that_may_not_be_entered_says_so(driver, datastore, stored, monkeypatch):
    image = stored(1)
    failing(monkeypatch, errno.EACCES, {f"{1:032x}"})
    assert (await only(driver, datastore(), image)).trouble.errno == errno.EACCES


async def test_a_disk_that_fails_is_an_error_of_the_place_not_an_empty_list(
    driver, datastore, stored, monkeypatch
):
    images = [stored(1), stored(2)]
    failing(monkeypatch, errno.ESTALE)
    with pytest.raises(Unreachable):
        await driver.holdings(datastore(), images)


async def test_one_file_that_fails_is_its_own_trouble(driver, datastore, stored, monkeypatch):
    images = [stored(1), stored(2)]
    failing(monkeypatch, errno.EIO, {f"{1:032x}"})
    broken, well = await driver.holdings(datastore(), images)
    assert broken.trouble.errno == errno.EIO
    assert well.content is not None


async def test_two_thousand_images_cost_one_lstat_each_and_never_open_a_file(
    driver, datastore, stored, monkeypatch
):
    images = [stored(n) for n in range(1, 2001)]
    calls = {"lstat": 0, "listdir": 0, "open": 0}

    def counted(name):
        real = getattr(os, name)

        def call(*args, **options):
            calls[name] += 1
            return real(*args, **options)

        return call

    for name in calls:
        monkeypatch.setattr(look.os, name, counted(name))
    holdings = await driver.holdings(datastore(), images)
    assert len([h for h in holdings if h.content]) == 2000
    batches = -(-2000 // filesystem._BATCH)
    # Resolving the datastore's own directory costs an lstat() per part of its path and batch.
    assert calls["lstat"] <= 2000 + batches * 20
    assert calls["listdir"] == batches
    assert calls["open"] == 0


async def test_a_dead_disk_does_not_outlive_the_deadline_nor_collect_threads(
    driver, datastore, stored, base, monkeypatch
):
    images = [stored(n) for n in range(1, 2001)]
    stuck = threading.Event()
    held: list[int] = []

    real = filesystem.look

    def hang(base, paths):
        if base.endswith("/2"):
            return real(base, paths)
        held.append(1)
        stuck.wait()
        return ()

    monkeypatch.setattr(filesystem, "look", hang)
    try:
        for _ in range(3):
            with trio.move_on_after(0.05) as scope:
                await driver.holdings(datastore(), images)
            assert scope.cancelled_caught
        assert len(held) <= filesystem._THREADS
        # Another datastore has its own threads.
        other = replace(datastore(base_path=f"{base.parent}/2"), id=2)
        (base.parent / "2").mkdir()
        (base.parent / "2" / "x").write_bytes(b"x")
        there = stored(1, source=f"{base.parent}/2/x")
        assert (await only(driver, other, there)).content is not None
    finally:
        stuck.set()
