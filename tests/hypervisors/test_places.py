"""Guests from places that have servers or devices of their own; for the full tables only.

Real: the Ceph cluster, its object gateway, the iSCSI target, the loop devices, LVM, the
chain of qcow2 files that a datastore keeps of an image with snapshots.
"""

from __future__ import annotations

import hashlib
import os
import subprocess

import pytest

from nebfs.demo.containers import image_server
from nebfs.demo.objects import PRIVATE_S3
from nebfs.demo.records import DatastoreRecord, ImageRecord
from nebfs.model import Snapshot, Template
from tests.disks import LoopDevice, VolumeGroup
from tests.hypervisors.test_qemu import MODE
from tests.hypervisors.world import AS_PUBLISHED, INSIDE
from tests.mounted.conftest import cloud, cloud_root, home, make_mount, servers

__all__ = ["cloud", "cloud_root", "home", "make_mount", "servers"]

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.skipif(os.geteuid() != 0, reason="reads devices"),
]

STORE = 7170  # no real group has this number


@pytest.fixture
def image(cloud, make_mount, servers, tmp_path):
    """Adds a datastore with one image, mounts, and returns the path of the file."""

    def image(driver, source, settings, template=(), transfer="", **changes):
        cloud.datastores[STORE] = DatastoreRecord(
            STORE,
            driver,
            driver=driver,
            transfer=transfer or driver,
            base_path=f"{tmp_path}/store//",
            template=Template(template),
        )
        facts = {"format": "raw", **changes}
        cloud.images[STORE] = ImageRecord(
            STORE, "guest", datastore_id=STORE, datastore=driver, source=source, **facts
        )
        config = tmp_path / "nebfs.toml"
        config.write_text(settings)
        mount = make_mount(servers.frontend_url, "-o", f"config={config}")
        mount.start()
        return mount.path / "datastores" / driver / "guest.raw"

    return image


def check(boots, guest, path, form="raw"):
    assert boots(f"file={path},format={form},{MODE}")["disk"] == guest.proof


def test_ceph(image, ceph, guest, boots, seen):
    ceph.put(f"one-{STORE}", guest.disk.read_bytes())
    told = (("POOL_NAME", "one"), ("CEPH_HOST", f"v2:{ceph.monitor}"), ("LN_TARGET", "NONE"))
    settings = f'[ceph.datastores.ceph]\nuser = "nebfs"\nkeyring = "{ceph.keyring}"\n'
    check(boots, guest, image("ceph", f"one/one-{STORE}", settings, told, disk_type=3))
    seen("places", "datastore `ceph`", f"raw, {AS_PUBLISHED}")


def test_iscsi(image, tgt, guest, boots, seen):
    unit = f"{tgt.target('guest')}/1"
    tgt.unit(1, guest.disk.read_bytes())
    told = (("ISCSI_HOST", tgt.portal), ("LN_TARGET", "NONE"))
    path = image("iscsi_libvirt", unit, "", told, disk_type=9, persistent=True)
    check(boots, guest, path)
    seen("places", "datastore `iscsi_libvirt`", f"raw, {AS_PUBLISHED}")


def test_dev(image, guest, boots, tmp_path, seen):
    loop = LoopDevice(tmp_path / "lun", guest.disk.read_bytes())
    try:
        settings = f'[datastores]\ndevices = ["{loop.path}"]\n'
        check(boots, guest, image("dev", loop.path, settings, disk_type=2, persistent=True))
    finally:
        loop.close()
    seen("places", "datastore `dev`", f"raw, {AS_PUBLISHED}")


def test_lvm(image, guest, boots, tmp_path, monkeypatch, seen):
    """A volume that is not active, read from the disks that it is on."""
    group = VolumeGroup(tmp_path, f"vg-one-{STORE}", size=96 << 20)
    for name, value in group.environment.items():
        monkeypatch.setenv(name, value)
    try:
        volume, data = f"img-one-{STORE}", guest.disk.read_bytes()
        group.create(volume, -(-len(data) // group.extent))
        for number, at in enumerate(group.extents(volume)):
            group.disk.write_behind(at, data[number * group.extent :][: group.extent])
        settings = '[datastores]\nlvm_mode = "extents"\n'
        check(boots, guest, image("lvm", f"{group.name}/{volume}", settings, disk_type=2))
    finally:
        group.close()
    seen("places", "datastore `lvm`", f"raw, {AS_PUBLISHED}")


def test_a_chain_of_snapshots(image, guest, boots, tmp_path, tool, seen):
    """An image of two qcow2 files, as TM_MAD qcow2 keeps them: shown as the disk of a VM."""
    store = tmp_path / "store"
    snap = store / "guest.snap"
    snap.mkdir(parents=True)
    tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", guest.disk, store / "guest")
    (snap / snap.name).symlink_to(".")
    (snap / "0").symlink_to(store / "guest")
    words = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]
    tool(*words, f"{snap.name}/0", snap / "1")
    snapshots = (Snapshot(0, "before", 1_700_000_000, 42, -1, True),)
    told = (("LN_TARGET", "SYSTEM"),)
    path = image("fs", f"{store}//guest", "", told, "qcow2", format="qcow2",
                 snapshots=snapshots, current_base=0, next_snapshot=1)  # fmt: skip
    check(boots, guest, path)
    seen("places", "datastore `fs`", "a chain of snapshots")


def test_radosgw(cloud, make_mount, servers, radosgw, guest, boots, seen):
    data, owner = guest.disk.read_bytes(), radosgw.owner
    radosgw.put_in_parts("marketapp-31", data)
    market = cloud.marketplaces[PRIVATE_S3]
    market.template = Template(
        tuple(
            {
                **dict(market.template.items),
                "ENDPOINT": radosgw.url,
                "ACCESS_KEY_ID": owner.access_key_id,
                "SECRET_ACCESS_KEY": owner.secret_access_key,
            }.items()
        )
    )
    cloud.apps[31].md5 = hashlib.md5(data).hexdigest()
    mount = make_mount(servers.frontend_url)
    mount.start()
    check(boots, guest, mount.app("stored raw", "Private S3") / "stored raw.raw")
    seen("places", "marketplace `s3`", "raw, from radosgw")


def test_linux_containers(cloud, make_mount, servers, guest, boots, tool, tmp_path, seen):
    """The images of virtual machines that such a server has beside its containers."""
    disk = tmp_path / "disk.qcow2"
    tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", guest.disk, disk)
    (tmp_path / "server").mkdir()
    cloud.published.update(image_server(tmp_path / "server", disk))
    mount = make_mount(servers.frontend_url)
    mount.start()
    app = mount.app("alpine_3.20", "Linux Containers")
    (published,) = app.glob("*.qcow2")
    check(boots, guest, published, "qcow2")
    seen("places", "marketplace `linuxcontainers`", f"qcow2, {AS_PUBLISHED}")
    inside = mount.path / "raw" / published.relative_to(mount.path).with_suffix(".raw")
    check(boots, guest, inside)
    seen("places", "marketplace `linuxcontainers`", f"qcow2, {INSIDE}")
    (squashfs,) = app.glob("*.squashfs")
    where = tmp_path / "root"
    where.mkdir()
    subprocess.run(["mount", "-o", "loop,ro", squashfs, where], check=True)
    try:
        assert any(where.iterdir())
    finally:
        subprocess.run(["umount", where], check=True)
    seen("places", "marketplace `linuxcontainers`", "squashfs, mounted")
