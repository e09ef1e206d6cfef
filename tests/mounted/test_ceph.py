"""A datastore on a real Ceph cluster, through the mount."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from dataclasses import replace

import pytest

from nebfs.demo.records import DatastoreRecord, ImageRecord
from nebfs.model import ImageState, Snapshot, Template

pytestmark = pytest.mark.mounted

SLOT = 128 << 10
MIB = 1 << 20
SIZE = 24 * MIB + 512


@pytest.fixture
def data(cloud, ceph):
    """The bytes of an image of which a part is a hole; its clone is another image."""
    source = random.Random(5)
    content = source.randbytes(9 * MIB) + bytes(10 * MIB) + source.randbytes(5 * MIB + 512)
    if "one-300" not in ceph.rbd("ls", "one").split():
        ceph.put("one-300", content)
        ceph.rbd("snap", "create", "--no-progress", "one/one-300@snap")
        ceph.rbd("snap", "protect", "one/one-300@snap")
        ceph.rbd("clone", "one/one-300@snap", "one/one-301")
        # Image 304 was reverted to its snapshot 0, after which it was written to.
        ceph.put("one-304", content[::-1])
        ceph.rbd("snap", "create", "--no-progress", "one/one-304@0")
        ceph.rbd("snap", "protect", "one/one-304@0")
        ceph.rbd("rename", "one/one-304", "one/one-304-0")
        ceph.rbd("clone", "one/one-304-0@0", "one/one-304")
        ceph.rbd("resize", "--no-progress", "--allow-shrink", "--size", "8M", "one/one-304")
    template = Template(
        (
            ("BRIDGE_LIST", "bridge"),
            ("POOL_NAME", "one"),
            ("CEPH_HOST", f"v2:{ceph.monitor}"),
            ("CEPH_USER", "libvirt"),
            ("CEPH_SECRET", "canary-secret"),
            ("LN_TARGET", "NONE"),
            ("CLONE_TARGET", "SELF"),
        )
    )
    store = DatastoreRecord(
        150, "ceph", driver="ceph", transfer="ceph", disk_type=3, template=template
    )
    cloud.datastores[150] = store
    for number, name in [(300, "disk"), (301, "clone"), (302, "gone"), (303, "in use")]:
        cloud.images[number] = ImageRecord(
            number,
            name,
            datastore_id=150,
            datastore="ceph",
            source=f"one/one-{number}",
            format="raw",
            disk_type=3,
        )
    snapshots = (
        Snapshot(0, "before", 1_700_000_000, 24, -1, True),
        Snapshot(1, "", 1, 24, 0, False),
    )
    reverted = replace(cloud.images[300], id=304, name="reverted", source="one/one-304")
    cloud.images[304] = replace(reverted, snapshots=snapshots)
    cloud.set_image_state(303, ImageState.USED_PERS)
    return content


@pytest.fixture
def start(make_mount, servers, data, ceph, tmp_path):
    """Mount it, as a user of the cluster; return the mount."""

    def start(*options, keyring=ceph.keyring):
        config = tmp_path / "nebfs.toml"
        config.write_text(f'[ceph.datastores.ceph]\nuser = "nebfs"\nkeyring = "{keyring}"\n')
        mount = make_mount(
            servers.frontend_url, "-o", ",".join([f"config={config}", "log-level=debug", *options])
        )
        mount.start()
        return mount

    return start


def test_bytes_equal_what_was_imported(start, data, ceph, tools, tmp_path):
    mount = start()
    for name in ("disk.raw", "clone.raw"):
        path = mount.image(name, "ceph")
        assert path.stat().st_size == SIZE
        tools.run("cp", path, tmp_path / name)
        assert (tmp_path / name).read_bytes() == data
    shown = tools.xattr(mount.image("disk.raw", "ceph"), "user.nebfs.source")
    assert shown == f"rbd://{ceph.fsid}/one/one-300"


def test_snapshots_are_files_beside_the_image(start, data, tools):
    store = start().path / "datastores/ceph"
    assert (store / "reverted.raw").read_bytes() == data[::-1][: 8 * MIB]
    assert sorted(os.listdir(store / "reverted.snapshots")) == ["0-before.raw", "1.raw"]
    assert (store / "reverted.snapshots/0-before.raw").read_bytes() == data[::-1]
    lost = store / "reverted.snapshots/1.raw"
    assert (lost.stat().st_mode & 0o777, lost.stat().st_size) == (0, 0)
    assert "no such snapshot" in tools.xattr(lost, "user.nebfs.trouble")


def test_4_kib_in_the_middle_fetch_one_block(start, data, tools):
    path = start().image("clone.raw", "ceph")
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    at = 50 * SLOT + 60_000
    assert os.pread(fd, 4096, at) == data[at : at + 4096]
    # The read is answered before what it fetched is put into the cache.
    tools.wait_until(lambda: tools.xattr(path, "user.nebfs.cached") != "0")
    assert tools.xattr(path, "user.nebfs.cached") == str(SLOT)
    os.close(fd)


def test_what_has_no_bytes_says_why(start, tools):
    mount = start()
    for name, number, words in [
        ("gone.raw", errno.EIO, "no such image"),
        ("in use.raw", errno.EBUSY, "a VM writes to it"),
    ]:
        path = mount.image(name, "ceph")
        with pytest.raises(OSError) as caught:
            path.read_bytes()
        assert caught.value.errno == number
        assert words in tools.xattr(path, "user.nebfs.trouble")


def test_a_cluster_that_refuses_us_says_so_and_shows_no_key(start, ceph, tmp_path):
    key = ceph.ceph("auth", "get-key", "client.nebfs")
    wrong = tmp_path / "keyring"
    wrong.write_text(f"[client.nebfs]\n\tkey = {key[:-10]}canary00==\n")
    mount = start(keyring=wrong)
    with pytest.raises(OSError) as caught:  # and not a directory without images
        os.listdir(mount.path / "datastores/ceph")
    assert caught.value.errno == errno.EIO
    said = mount.log + str(mount.status())
    assert "the cluster does not know this user" in said
    assert "client.nebfs" in said
    assert "canary" not in said


def test_a_disk_that_falls_silent_is_an_error_in_time_and_is_read_again(start, data, ceph):
    path = start("deadline=4s", "stall-timeout=2s", "read-ahead=0").image("disk.raw", "ceph")
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        assert file.read(SLOT) == data[:SLOT]
        ceph.osd.send_signal(signal.SIGSTOP)
        try:
            begun = time.monotonic()
            with pytest.raises(OSError) as caught:
                os.pread(file.fileno(), SLOT, 20 * MIB)
            assert caught.value.errno in (errno.EIO, errno.ETIMEDOUT)
            assert time.monotonic() - begun < 10
        finally:
            ceph.osd.send_signal(signal.SIGCONT)
        assert os.pread(file.fileno(), SLOT, 20 * MIB) == data[20 * MIB :][:SLOT]
    assert path.read_bytes() == data
