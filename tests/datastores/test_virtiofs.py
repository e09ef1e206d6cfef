"""``virtiofs``: which directories are shown."""

from __future__ import annotations

import errno
import os

import pytest

from nebfs.datastores import virtiofs
from nebfs.datastores.virtiofs import VirtiofsDatastore
from nebfs.errors import Unreachable


@pytest.fixture
def found(datastore):
    """Asks a driver about one image."""

    async def ask(image, *, paths=None, directories=()):
        driver = VirtiofsDatastore(paths=paths or {}, settings={"directories": directories})
        (holding,) = await driver.holdings(datastore(driver="virtiofs"), [image])
        return holding

    return ask


async def test_a_directory_below_an_allowed_one_is_shown(found, shared_directory, base):
    image = shared_directory(1)
    holding = await found(image, directories=(f"{base}/",))
    assert (holding.directory.transport, holding.directory.address) == ("file", image.source)
    itself = await found(image, directories=(image.source,))
    assert itself.directory.address == image.source


async def test_nothing_is_shown_that_was_not_allowed(found, shared_directory, base):
    image = shared_directory(1)
    for directories in [(), ("/",), ("",), ("relative",), (f"{base}/share",), (f"{base}/other",)]:
        holding = await found(image, directories=directories)
        assert holding.directory is None
        assert holding.trouble.errno == errno.EACCES
        assert "[datastores] directories" in holding.trouble.reason


async def test_a_mapped_prefix_is_allowed(found, shared_directory, base):
    image = shared_directory(1, source="/srv//shares/share-1")
    holding = await found(image, paths={"/srv/shares": str(base)})
    assert holding.directory.address == f"{base}/share-1"
    same = shared_directory(2)
    assert (await found(same, paths={str(base): str(base)})).directory is not None
    elsewhere = shared_directory(3, source="/etc")
    assert (await found(elsewhere, paths={"/srv/shares": str(base)})).directory is None


async def test_a_prefix_on_another_machine_says_so(found, shared_directory):
    image = shared_directory(1, source="/srv/shares/home")
    holding = await found(image, paths={"/srv": "sftp://host/srv"})
    assert (holding.trouble.errno, holding.directory) == (errno.EOPNOTSUPP, None)


@pytest.mark.parametrize("source", ["{base}/../../etc", "{base}/out", "{base}/out/deeper"])
async def test_a_path_or_a_link_that_leads_out_is_refused(found, shared_directory, base, source):
    (base / "out").symlink_to(base.parent.parent)
    (base.parent.parent / "deeper").mkdir()
    image = shared_directory(1, source=source.format(base=base))
    holding = await found(image, directories=(str(base),))
    assert (holding.trouble.errno, holding.directory) == (errno.EACCES, None)


async def test_a_link_that_stays_inside_is_resolved_once(found, shared_directory, base):
    image = shared_directory(1)
    (base / "other").symlink_to("share-1")
    holding = await found(shared_directory(1, source=f"{base}/other"), directories=(str(base),))
    assert holding.directory.address == image.source


@pytest.mark.parametrize("source", ["", "-", "home", "{base}/gone", "{base}/share-1/file", "/a\0b"])
async def test_what_is_no_directory_here_says_so(found, shared_directory, base, source):
    image = shared_directory(1, source=source.format(base=base))
    holding = await found(image, directories=(str(base),))
    assert (holding.trouble.errno, holding.directory) == (errno.EIO, None)


async def test_a_link_to_the_whole_machine_is_refused(found, shared_directory, base):
    (base / "all").symlink_to("/")
    image = shared_directory(1, source=f"{base}/all")
    holding = await found(image, directories=(f"{base}/all",))
    assert (holding.trouble.errno, holding.directory) == (errno.EACCES, None)


async def test_a_disk_that_gives_errors_is_the_datastore_s_trouble(
    found, shared_directory, base, monkeypatch
):
    def broken(path, strict):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(virtiofs.os.path, "realpath", broken)
    with pytest.raises(Unreachable):
        await found(shared_directory(1), directories=(str(base),))
