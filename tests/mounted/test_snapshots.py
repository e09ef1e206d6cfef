"""Snapshots and chains through the mount, against what qemu-img sees: here, and on a bridge."""

from __future__ import annotations

import errno
import os
import random
import subprocess
from dataclasses import replace

import pytest

from nebfs.demo.records import DatastoreRecord, ImageRecord
from nebfs.model import Template
from tests.datastores.qcow2_files import Disk, create, disk_in, rename_backing
from tests.mounted import far_files

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.skipif(os.geteuid() != 0, reason="a bridge sees other files than this machine"),
]

BIG = 48 << 20


@pytest.fixture(params=["here", "there"])
def far(request):
    return request.param == "there"


@pytest.fixture
def store(tmp_path):
    """The datastore's directory: as it is called, and where its files are."""
    path, real = tmp_path / "datastores", tmp_path / "store"
    for one in (path, real):
        one.mkdir()
    return path, real


@pytest.fixture
def bridge(far, store, tmp_path, monkeypatch):
    """The BRIDGE_LIST, or that the files are here under the very same path."""
    path, real = store
    if not far:
        path.rmdir()
        path.symlink_to(real)
        yield ""
        return
    key = far_files.user_with_a_key(tmp_path / "home", monkeypatch)
    host = far_files.host(tmp_path / "bridge", key, {path: real})
    yield host.bridge
    host.stop()


@pytest.fixture
def put(cloud, store, bridge):
    """Tell OpenNebula of a disk."""
    path, _ = store
    facts = (("BRIDGE_LIST", bridge), ("LN_TARGET", "SYSTEM"))
    cloud.datastores[150] = DatastoreRecord(
        150, "chains", transfer="qcow2", base_path=f"{path}//", template=Template(facts)
    )

    def put(disk, number=300, name="disk", **changes):
        record = {**disk.record(), **changes}
        cloud.images[number] = ImageRecord(
            number,
            name,
            datastore_id=150,
            datastore="chains",
            source=f"{path}//{disk.name}",
            **record,
        )
        return cloud.images[number]

    return put


@pytest.fixture
def disk(store):
    return Disk(store[1])


@pytest.fixture
def start(make_mount, servers):
    def start(*options):
        mount = make_mount(servers.frontend_url, "-o", ",".join(["log-level=debug", *options]))
        mount.start()
        return mount

    return start


KINDS = ("relative", "absolute", "stale", "local", "reverted")


def made(store, number, kind):
    """Make a chain of one kind; return it and the disk that a VM would see in it."""
    disk = Disk(store[1], f"{number:032x}")
    if kind == "local":
        disk.local(3)
    else:
        disk.shared(3, absolute=kind == "absolute")
    if kind == "reverted":
        disk.revert(1)
    truth = disk.now
    if kind == "stale":
        rename_backing(disk.snap / "3", "/var/lib/one//datastores/0/42/disk.0.snap/2")
        rename_backing(disk.snap / "2", f"/some/where/{disk.snap.name}/1")
    return disk, truth


def test_images_and_their_snapshots_are_what_qemu_sees(start, put, store, tools, tmp_path):
    chains = {kind: made(store, number, kind) for number, kind in enumerate(KINDS, 1)}
    for number, (kind, (disk, _)) in enumerate(chains.items(), 300):
        put(disk, number, kind)
    mount = start()
    tools.run("cp", "-r", mount.path / "datastores" / "chains", tmp_path / "copy")
    for kind, (disk, truth) in chains.items():
        copy = tmp_path / "copy" / f"{kind}.raw"
        assert copy.read_bytes() == truth, kind
        frozen = tmp_path / "copy" / f"{kind}.snapshots"
        names = sorted(path.name for path in frozen.iterdir())
        assert names == ["0-step 0.qcow2", "1-step 1.raw", "2-step 2.raw"]
        assert disk_in(frozen / names[0]) == disk.truth[0]
        for number in (1, 2):
            assert (frozen / names[number]).read_bytes() == disk.truth[number], kind
        image = mount.image(f"{kind}.raw", "chains")
        tools.run("qemu-img", "compare", "-f", "raw", "-F", "raw", image, copy)


def disk_in_copy(path, tmp_path):
    """Return the disk in a qcow2 file that is read through the mount."""
    copy = tmp_path / "frozen"
    copy.write_bytes(path.read_bytes())
    return disk_in(copy)


def readable(path):
    try:
        path.read_bytes()
    except OSError:
        return False
    return True


def test_reverted_and_flattened_while_it_is_mounted(start, put, disk, tmp_path, tools):
    disk.shared(2)
    record = put(disk)
    mount = start()
    image = mount.image("disk.raw", "chains")
    old = disk.now
    assert image.read_bytes() == old
    disk.revert(0)
    # Until nebfs has heard of it: what it was, if all of that is known, or an error.
    try:
        assert image.read_bytes() == old
    except OSError as exc:
        assert exc.errno == errno.ESTALE
    record.current_base = 0
    record.snapshots = tuple(replace(s, active=s.id == 0) for s in record.snapshots)
    mount.refresh()
    truth = disk.truth[0]
    # The kernel remembers for some seconds that there was an error.
    tools.wait_until(lambda: readable(image))
    assert image.read_bytes() == truth
    with open(image, "rb", buffering=0) as file:
        assert file.read(4096) == truth[:4096]
        disk.flatten(1)
        record.snapshots, record.current_base = (), -1
        mount.refresh()
        names = sorted(p.name for p in image.parent.iterdir())
        assert names == ["disk.qcow2"]
        flat = mount.image("disk.qcow2", "chains")
        assert disk_in_copy(flat, tmp_path) == disk.truth[1]
        # Who has the old one open sees it as it was, or an error; never a mixture.
        for offset in range(0, len(truth), 128 << 10):
            try:
                data = os.pread(file.fileno(), 4096, offset)
            except OSError as exc:
                assert exc.errno in (errno.ESTALE, errno.EIO)
            else:
                assert data == truth[offset : offset + 4096]


def test_what_leads_astray_is_an_error_with_its_reason(start, put, disk, store, tools):
    for number, name in enumerate(["circle", "outside", "lost"], 1):
        one = Disk(store[1], f"{number + 1:032x}").shared(2)
        target = {"circle": f"{one.snap.name}/2", "outside": "/etc/shadow"}.get(name)
        if target:
            rename_backing(one.snap / "1", target)
        else:
            (one.snap / "1").unlink()
        put(one, 300 + number, name)
    put(disk.shared(1))
    mount = start()
    words = {"circle": "in a circle", "outside": "outside", "lost": "not there"}
    for name, text in words.items():
        path = mount.image(f"{name}.qcow2", "chains")
        with pytest.raises(OSError) as caught:
            path.read_bytes()
        assert caught.value.errno == (errno.EACCES if name == "outside" else errno.EIO)
        assert text in tools.xattr(path, "user.nebfs.trouble")
    assert mount.image("disk.raw", "chains").read_bytes() == disk.now


def test_4_kib_in_the_middle_touch_what_they_need(start, put, disk, far):
    data = random.Random(3).randbytes(BIG)
    raw = disk.source.parent / "all"
    raw.write_bytes(data)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, disk.source], check=True)
    raw.unlink()
    disk.snap.mkdir()
    (disk.snap / disk.snap.name).symlink_to(".")
    (disk.snap / "0").symlink_to(disk.source)
    for number in range(3):
        create(disk.snap / str(number + 1), f"{disk.snap.name}/{number}")
    put(disk, format="qcow2")
    mount = start("read-ahead=0") if far else start()
    image = mount.image("disk.raw", "chains")
    assert image.stat().st_size == BIG
    fd = os.open(image, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    at = BIG // 2 + 60_000
    assert os.pread(fd, 4096, at) == data[at : at + 4096]
    os.close(fd)
    if far:
        assert far_files.taken(mount.cache) < 4 << 20
