"""Images on devices and in logical volumes, through a real mount.

Real: loop devices, their bytes, LVM's metadata and commands. Fake: in the last tests lvs and
lvchange (tests/disks.py), since the kernel here has no device mapper to activate a volume with; an
active volume is then a link in /dev to a loop device.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
from pathlib import Path

import pytest

from nebfs.demo.records import DatastoreRecord, ImageRecord
from nebfs.model import Template
from tests.disks import MIB, FakeLvm, LoopDevice, VolumeGroup

pytestmark = pytest.mark.mounted

SIZE = 3 * MIB + 512
STORE = 7160  # no real group has this number
GROUP = f"vg-one-{STORE}"


@pytest.fixture
def data():
    return random.Random(6).randbytes(SIZE)


@pytest.fixture
def loop(tmp_path, data):
    loop = LoopDevice(tmp_path / "lun.img", data)
    yield loop
    loop.close()


@pytest.fixture
def store(cloud):
    """Adds a datastore and images by name and SOURCE."""

    def store(driver, **sources):
        template = Template((("LN_TARGET", "NONE"), ("CLONE_TARGET", "NONE")))
        cloud.datastores[STORE] = DatastoreRecord(
            STORE, driver, driver=driver, transfer=driver, disk_type=2, template=template
        )
        for number, (name, source) in enumerate(sources.items(), 700):
            cloud.images[number] = ImageRecord(
                number,
                name,
                datastore_id=STORE,
                datastore=driver,
                source=source,
                format="raw",
                disk_type=2,
                persistent=driver == "dev",
            )

    return store


@pytest.fixture
def start(make_mount, servers, tmp_path):
    """Mounts with what is to stand in the table [datastores]."""

    def start(settings):
        config = tmp_path / "nebfs.toml"
        config.write_text(f"[datastores]\n{settings}\n")
        mount = make_mount(servers.frontend_url, "-o", f"config={config},log-level=debug")
        mount.start()
        return mount

    return start


def test_a_device_has_its_real_length_and_its_bytes(start, store, loop, data, tools, tmp_path):
    store("dev", lun=loop.path, other="/dev/loop-control", gone=f"{loop.path}999")
    mount = start(f'devices = ["{loop.path}*", "/dev/loop-control"]')
    path = mount.image("lun.raw", "dev")
    assert path.stat().st_size == SIZE
    tools.run("cp", path, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert tools.xattr(path, "user.nebfs.source") == loop.path
    for name, words in [("other.raw", "no block device"), ("gone.raw", "not on this machine")]:
        path = mount.image(name, "dev")
        assert words in tools.xattr(path, "user.nebfs.trouble")
        with pytest.raises(OSError):
            path.read_bytes()


def test_what_another_machine_writes_is_seen_by_whoever_has_the_file_open(start, store, loop, data):
    store("dev", lun=loop.path)
    path = start(f'devices = ["{loop.path}"]').image("lun.raw", "dev")
    with open(path, "rb", buffering=0) as file, open(loop.path, "rb") as other:
        other.read()  # the old bytes are in this machine's page cache
        assert os.pread(file.fileno(), 8, MIB) == data[MIB : MIB + 8]
        loop.write_behind(MIB, b"changed!")
        assert os.pread(file.fileno(), 8, MIB) == b"changed!"
        loop.write_behind(SIZE - 1, b"\xff")
        assert os.pread(file.fileno(), 99, SIZE - 1) == b"\xff"


def test_a_device_that_was_not_allowed_is_not_read(start, store, loop, tools):
    store("dev", lun=loop.path)
    mount = start('devices = ["/dev/disk/by-id/*"]')
    path = mount.image("lun.raw", "dev")
    with pytest.raises(OSError) as caught:
        path.read_bytes()
    assert caught.value.errno == errno.EACCES
    assert "[datastores] devices" in tools.xattr(path, "user.nebfs.trouble")


def test_a_device_that_grows_is_stale_and_then_as_long_as_it_is(start, store, loop, data, tools):
    store("dev", lun=loop.path)
    path = start(f'devices = ["{loop.path}"]').image("lun.raw", "dev")
    with open(path, "rb", buffering=0) as file:
        assert os.pread(file.fileno(), 4, 0) == data[:4]
        loop.resize(SIZE + 4096)
        with pytest.raises(OSError) as caught:
            os.pread(file.fileno(), 4, 0)
        assert caught.value.errno == errno.ESTALE
    tools.wait_until(lambda: path.stat().st_size == SIZE + 4096)
    assert path.read_bytes() == data + bytes(4096)


@pytest.fixture
def group(tmp_path, monkeypatch):
    group = VolumeGroup(tmp_path, GROUP)
    for name, value in group.environment.items():
        monkeypatch.setenv(name, value)
    yield group
    group.close()


def test_a_volume_is_read_from_the_disks_it_is_on(start, store, group, tools):
    """Real lvm2; the volume is never active."""
    group.create("first", 1)
    group.create("img-one-700", 2)
    group.create("between", 1)
    group.remove("first")
    group.extend("img-one-700", 1, "0-0")
    truth = group.fill("img-one-700", 3)
    store("lvm", disk=f"{GROUP}/img-one-700", gone=f"{GROUP}/img-one-701")
    mount = start('lvm_mode = "extents"')
    path = mount.image("disk.raw", "lvm")
    assert path.stat().st_size == len(truth) == 3 * group.extent
    assert path.read_bytes() == truth
    group.create("another", 1)  # changes of the group are nothing to it
    with open(path, "rb", buffering=0) as file:
        assert os.pread(file.fileno(), 5000, 7 * MIB) == truth[7 * MIB :][:5000]
    assert "no volume" in tools.xattr(mount.image("gone.raw", "lvm"), "user.nebfs.trouble")


def test_an_open_volume_that_is_removed_is_an_error_and_nobody_elses_bytes(start, store, group):
    group.create("img-one-700", 1)
    truth = group.fill("img-one-700", 3)
    store("lvm", disk=f"{GROUP}/img-one-700")
    path = start('lvm_mode = "extents"').image("disk.raw", "lvm")
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        assert os.pread(file.fileno(), 4096, 0) == truth[:4096]
        group.remove("img-one-700")
        group.create("img-one-800", 1)
        group.fill("img-one-800", 4)
        with pytest.raises(OSError):
            os.pread(file.fileno(), 4096, 2 * MIB)


def test_by_default_an_inactive_volume_is_busy(start, store, group, tools):
    group.create("img-one-700", 1)
    store("lvm", disk=f"{GROUP}/img-one-700")
    path = start("").image("disk.raw", "lvm")
    with pytest.raises(OSError) as caught:
        path.read_bytes()
    assert caught.value.errno == errno.EBUSY
    assert "lvchange -K -ay" in tools.xattr(path, "user.nebfs.trouble")


@pytest.fixture
def fake_lvm(tmp_path, loop, monkeypatch):
    lvm = FakeLvm(tmp_path, Path("/dev"))
    lvm.add("img-one-700", SIZE, target=loop.path)
    monkeypatch.setenv("PATH", f"{lvm.bin}:{os.environ['PATH']}")
    yield lvm
    shutil.rmtree(f"/dev/{GROUP}", ignore_errors=True)


def test_a_volume_is_active_while_it_is_read(start, store, fake_lvm, data, tools):
    """lvs and lvchange are fakes; what they make is a link in /dev to a loop device."""
    store("lvm", disk=f"{GROUP}/img-one-700")
    path = start('lvm_mode = "activate"').image("disk.raw", "lvm")
    device = Path(f"/dev/{GROUP}/img-one-700")
    assert path.stat().st_size == SIZE
    assert not device.is_symlink()
    with open(path, "rb") as file:
        assert device.is_symlink()
        assert file.read() == data
    tools.wait_until(lambda: not device.is_symlink())
    assert fake_lvm.changes == [f"-K -ay -- {GROUP}/img-one-700", f"-an -- {GROUP}/img-one-700"]


def test_the_end_of_the_mount_leaves_no_volume_active(start, store, fake_lvm, data, tools):
    """The same fakes; a process has the file open when the mount is taken away."""
    store("lvm", disk=f"{GROUP}/img-one-700")
    mount = start('lvm_mode = "activate"')
    device = Path(f"/dev/{GROUP}/img-one-700")
    fd = os.open(mount.image("disk.raw", "lvm"), os.O_RDONLY)
    assert os.read(fd, 4) == data[:4]
    assert device.is_symlink()
    pid = mount.pid
    os.kill(pid, signal.SIGTERM)
    tools.wait_until(lambda: "stop.asked" in mount.log)
    os.kill(pid, signal.SIGTERM)  # asked twice: at once
    tools.wait_until(lambda: not Path(f"/proc/{pid}").exists())
    with contextlib.suppress(OSError):  # there is nobody any more to be told
        os.close(fd)
    assert not device.is_symlink()
    assert len(fake_lvm.changes) == 2
