"""Two pools with every driver, type and state of images: each is listed, and has bytes or a reason.

21 datastores and 43 images, which validate against OpenNebula's XSD files (7.4).
"""

from __future__ import annotations

import errno
import itertools
import subprocess
from pathlib import Path

import pytest
import structlog

from nebfs.catalog import Surveyor
from nebfs.datastores import DatastoreDrivers, SystemDatastore
from nebfs.errors import NebfsError, Unreachable
from nebfs.fetcher.messages import CallAnswer
from nebfs.marketplaces import driver_for
from nebfs.model import DatastoreType, ImageState, ImageType, User, VirtualMachine
from nebfs.opennebula import decode_datastores, decode_images, decode_machines
from nebfs.tree import Directory
from tests.tree.test_tree import World

POOLS = Path(__file__).parents[1] / "fixtures/datastores"
DATASTORES = decode_datastores((POOLS / "datastore_pool.xml").read_text())
IMAGES = decode_images((POOLS / "image_pool.xml").read_text())
MACHINES = decode_machines((POOLS / "vm_33_fragment.xml").read_text())


class FrontEnd:
    """Tells the sample pools."""

    async def version(self) -> str:
        return "7.4.0"

    async def user(self) -> User:
        return User(0, "oneadmin", 0)

    async def nothing(self, *_):
        return ()

    zones = marketplaces = apps = nothing

    async def datastores(self):
        return DATASTORES

    async def images(self, known_ids):
        assert known_ids == {i: d.id for d in DATASTORES for i in d.image_ids}
        return IMAGES

    async def machines(self) -> tuple[VirtualMachine, ...]:
        return MACHINES


async def unreachable(request):
    raise Unreachable("there is nobody")


def answering(status, body):
    """Whoever is asked over the network says the same; what nebfs asks of itself (LOOK) fails."""

    async def call(request):
        if request.method == "LOOK":
            raise Unreachable("there is nobody")
        return CallAnswer(status, (), body)

    return call


WORLDS = {
    "alone": None,
    "unreachable": unreachable,
    "empty": answering(200, b"{}"),
    "nonsense": answering(200, b'[null, {"\xff": 1e999}'),
    "refusing": answering(401, b"<html>"),
}


@pytest.fixture(params=WORLDS)
def call(request):
    return WORLDS[request.param]


async def surveyed(call, paths=None, settings=None, system=None):
    drivers = DatastoreDrivers(call=call, paths=paths, settings=settings)
    clock = itertools.count(1_800_000_000.0).__next__
    markets = lambda name, version: driver_for(name, call=unreachable, version=version)  # noqa: E731
    surveyor = Surveyor(markets, drivers, 10.0, clock, system)
    return await surveyor.cloud(FrontEnd(), "http://one.example.org/RPC2", None)


def by_id(snapshot):
    return {h.image.id: h for listing in snapshot.datastores for h in listing.holdings}


def test_the_samples_are_whole():
    assert (len(DATASTORES), len(IMAGES)) == (21, 43)
    assert {image.type for image in IMAGES} == set(ImageType) - {ImageType.UNKNOWN}
    assert {image.state for image in IMAGES} == set(ImageState) - {ImageState.UNKNOWN}


async def test_every_image_is_listed_and_has_bytes_or_a_reason(call):
    with structlog.testing.capture_logs() as logs:
        snapshot = await surveyed(call)
    assert [entry for entry in logs if entry["event"] == "place.bug"] == []
    assert [d.datastore for d in snapshot.datastores] == list(DATASTORES)
    found = by_id(snapshot)
    assert sorted(found) == [i.id for i in IMAGES if i.state is not ImageState.DELETE]
    for image, holding in zip(IMAGES, map(found.get, (i.id for i in IMAGES)), strict=True):
        if holding is None:
            assert image.state is ImageState.DELETE
            continue
        has = (holding.content, holding.trouble, holding.disks or holding.deferred)
        assert sum(map(bool, (*has, holding.directory))) == 1, image.name
        if holding.trouble is not None:
            assert holding.trouble.errno not in {0, errno.ENOENT}
            assert len(holding.trouble.reason) > 10
        for part in holding.disks:
            assert (part.content is None) != (part.trouble is None)
    assert found[2].trouble.errno == found[11].trouble.errno == errno.EBUSY  # LOCKED, INIT
    assert "state ERROR" in found[7].trouble.reason
    assert "nothing behind" in found[58].trouble.reason


async def test_a_driver_that_fails_does_so_as_drivers_may(call):
    drivers = DatastoreDrivers(call=call)
    for datastore in DATASTORES:
        images = [image for image in IMAGES if image.datastore_id == datastore.id]
        try:
            holdings = await drivers(datastore.driver).holdings(datastore, images)
        except NebfsError:
            continue
        wanted = [image.id for image in images if image.state is not ImageState.DELETE]
        assert [holding.image.id for holding in holdings] == wanted, datastore.name


async def test_names_in_the_tree_are_distinct_and_safe(call, nursery):
    world = World(nursery, await surveyed(call))
    stores = await world.names("datastores")
    assert sorted(stores) == sorted({d.name for d in DATASTORES})
    shown = 0
    for name in stores:
        place = await world.at(f"datastores/{name}")
        try:
            children = await world.tree.children(place)
        except NebfsError:
            assert call is not None  # it was never listed: an error, and never an empty directory
            continue
        assert place.listing.datastore.type is not DatastoreType.SYSTEM or not children
        for entry, node in children.items():
            assert 0 < len(entry.encode()) <= 255
            assert not set(entry) & {"/", "\0", "\n"}
            assert entry not in {".", ".."}
            if not isinstance(node, Directory) and node.trouble is not None:
                assert (node.size, node.mode & 0o777) == (0, 0)
            shown += not entry.endswith(".snapshots")
    if call is None:
        assert shown == 42
        scratch = [n for n in await world.names("datastores/default") if n.startswith("scratch")]
        assert scratch == ["scratch.qcow2", "scratch.raw"]
        assert "naïve “日本語” name v1.0 (x86_64).raw" in await world.names("datastores/default")
        assert "vmlinuz-6.1" in await world.names("datastores/files")


@pytest.fixture
def disk(tmp_path):
    """The files of the front-end's own datastores, as far as their images are at rest."""
    for image in IMAGES:
        if image.datastore_id not in {1, 2, 117} or not image.source:
            continue
        path = tmp_path / image.source.removeprefix("/var/lib/one//datastores/")
        path.parent.mkdir(exist_ok=True)
        if image.format == "qcow2":
            size = f"{image.size_mb}M"
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, size], check=True)
        elif image.name == "secret-vault":
            path.write_bytes(b"LUKS\xba\xbe" + bytes(4090))
        else:
            with open(path, "wb") as file:
                file.truncate(image.size_mb << 20)
    (tmp_path / "0/33").mkdir(parents=True)
    (tmp_path / "0/33/disk.2").write_bytes(b"scratch")
    (tmp_path / "shares/home").mkdir(parents=True)
    return tmp_path


async def test_what_is_on_this_machine_has_its_bytes(disk, nursery):
    paths = {"/var/lib/one/datastores": str(disk), "/srv/shares": f"{disk}/shares"}
    snapshot = await surveyed(None, paths, system=SystemDatastore(paths=paths))
    found = by_id(snapshot)
    lengths = {3: 650 << 20, 4: 1 << 30, 8: 512 << 20, 9: 512 << 20, 14: 4096, 20: 8 << 20}
    for number, length in lengths.items():
        assert found[number].content.revision.size == length
    assert found[3].content.media == "cdrom"
    # 16 TiB for a VM, and some hundred KiB here: its length is the file's.
    assert found[17].content.revision.size < 1 << 30
    assert (found[14].content.format, found[14].content.view) == ("raw", "")  # LUKS: as it is
    assert found[15].content is not None  # somebody's lock is against changes
    assert found[6].content is not None  # its VM works on a copy: LN_TARGET is SYSTEM
    assert found[60].directory.address == f"{disk}/shares/home"
    world = World(nursery, snapshot)
    assert "install.iso" in await world.names("datastores/default")
    assert "sparse-16T.qcow2" in await world.names("datastores/default")
    assert await world.names("datastores/virtiofs-shares") == ["share-home"]
    assert await world.names("datastores/system") == ["33-db"]
    names = await world.names("datastores/system/33-db")
    assert names == ["disk.0.qcow2", "disk.1.iso", "disk.2.raw"]
    assert (await world.at("datastores/system/33-db/disk.2.raw")).size == 7
