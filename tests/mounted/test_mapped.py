"""Datastores of a driver that nebfs does not know, read where the configuration says."""

from __future__ import annotations

import os
import shutil
import tempfile

import pytest

from nebfs.demo.records import DatastoreRecord, ImageRecord
from tests.disks import LoopDevice

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.nginx,
    pytest.mark.skipif(os.geteuid() != 0, reason="block devices are root's"),
]

SIZE = (3 << 20) + 17


@pytest.fixture
def places(tmp_path, nginx):
    """A directory and a web server that have the images' bytes."""
    directory = tmp_path / "storpool"
    directory.mkdir()
    data = os.urandom(SIZE)
    (directory / "ONE-img-400").write_bytes(data)
    (tmp_path / "secret").write_bytes(b"canary")
    (directory / "ONE-img-401").symlink_to(tmp_path / "secret")
    (nginx.root / "402 #").write_bytes(data)
    return directory, data


@pytest.fixture
def devices(tmp_path):
    """A directory of links to block devices, as an add-on makes it in /dev, and their bytes."""
    data = os.urandom(1 << 20)
    loop = LoopDevice(tmp_path / "lun", data)
    directory = tempfile.mkdtemp(prefix="nebfs-test-", dir="/dev")
    os.symlink(loop.path, f"{directory}/ONE-img-403")
    os.symlink("/etc/shadow", f"{directory}/ONE-img-404")
    yield directory, data
    shutil.rmtree(directory)
    loop.close()


@pytest.fixture
def mounted(cloud, servers, make_mount, nginx, places, devices, tmp_path):
    directory, _ = places
    drivers = [(160, "addon", "blocks"), (161, "gateway", "web"), (162, "volumes", "devices")]
    for number, driver, name in drivers:
        cloud.datastores[number] = DatastoreRecord(number, name, driver=driver)
    images = [
        (400, "disk", 160),
        (401, "thief", 160),
        (402, "402 #", 161),
        (403, "volume", 162),
        (404, "shadow", 162),
    ]
    for number, name, store in images:
        cloud.images[number] = ImageRecord(
            number,
            name,
            datastore_id=store,
            datastore=cloud.datastores[store].name,
            source=f"/dev/x/ONE-img-{number}",
            format="raw",
        )
    config = tmp_path / "nebfs.toml"
    config.write_text(
        "[datastores.mappings]\n"
        f'addon = "file://{directory}/{{source_base}}"\n'
        f'gateway = "{nginx.url}/{{name}}"\n'
        f'volumes = "{devices[0]}/{{source_base}}"\n'
    )
    mount = make_mount(servers.frontend_url, "-o", f"config={config}")
    mount.start()
    return mount


def test_a_mapped_file_is_read_in_place_and_an_address_is_fetched(mounted, places, nginx):
    _, data = places
    assert mounted.image("disk.raw", "blocks").read_bytes() == data
    assert os.stat(mounted.image("402 #.raw", "web")).st_size == SIZE
    assert mounted.image("402 #.raw", "web").read_bytes() == data


def test_a_link_out_of_the_mapping_s_directory_is_not_followed(mounted, tools):
    path = mounted.image("thief.raw", "blocks")
    with pytest.raises(PermissionError):
        path.read_bytes()
    assert "leads out" in tools.xattr(path, "user.nebfs.trouble")


def test_a_mapped_block_device_has_its_length_and_its_bytes(mounted, devices):
    path = mounted.image("volume.raw", "devices")
    assert os.stat(path).st_size == len(devices[1])
    assert path.read_bytes() == devices[1]
    with pytest.raises(PermissionError):
        mounted.image("shadow.raw", "devices").read_bytes()
