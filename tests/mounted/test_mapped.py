"""Datastores of a driver that nebfs does not know, read where the configuration says."""

from __future__ import annotations

import os

import pytest

from nebfs.demo.records import DatastoreRecord, ImageRecord

pytestmark = [pytest.mark.mounted, pytest.mark.nginx]

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
def mounted(cloud, servers, make_mount, nginx, places, tmp_path):
    directory, _ = places
    for number, driver, name in [(160, "addon", "blocks"), (161, "gateway", "web")]:
        cloud.datastores[number] = DatastoreRecord(number, name, driver=driver)
    for number, name, store in [(400, "disk", 160), (401, "thief", 160), (402, "402 #", 161)]:
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
