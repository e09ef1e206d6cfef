"""Backups that rsync keeps on a host, through the mount."""

from __future__ import annotations

import os
import random
import subprocess

import pytest

from nebfs.demo.records import DatastoreRecord, ImageRecord
from nebfs.model import DatastoreType, ImageType, Template
from tests.datastores.qcow2_files import create, rename_backing, write
from tests.datastores.rsync_pool import RUNS, SERVER, VM, Repository, increments
from tests.fetcher.sshd import USER
from tests.mounted import far_files

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.skipif(os.geteuid() != 0, reason="a host sees other files than this machine"),
]

BIG = 48 << 20


@pytest.fixture
def store(tmp_path):
    path, real = tmp_path / "datastores", tmp_path / "store"
    for one in (path, real):
        one.mkdir()
    return path, real


@pytest.fixture
def host(store, tmp_path, monkeypatch):
    path, real = store
    key = far_files.user_with_a_key(tmp_path / "home", monkeypatch)
    one = far_files.host(tmp_path / "host", key, {path: real})
    yield one
    one.stop()


@pytest.fixture
def kept(store):
    return Repository(store[1])


@pytest.fixture
def put(cloud, store, host):
    """Tell OpenNebula of a backup."""
    facts = (("RSYNC_HOST", host.host), ("RSYNC_USER", USER))
    cloud.datastores[150] = DatastoreRecord(
        150,
        "backups",
        driver="rsync",
        transfer="-",
        type=DatastoreType.BACKUP,
        base_path=f"{store[0]}//",
        template=Template(facts),
    )

    def put(number=300, name="42 nightly", **changes):
        facts = {"type": ImageType.BACKUP, "source": RUNS[0], "format": "raw", "vms": (VM,)}
        cloud.images[number] = ImageRecord(
            number, name, datastore_id=150, datastore="backups", **{**facts, **changes}
        )
        return cloud.images[number]

    return put


@pytest.fixture
def start(make_mount, servers):
    def start(*options, config=()):
        mount = make_mount(
            servers.frontend_url, "-o", ",".join(["log-level=debug", *options]), *config
        )
        mount.start()
        return mount

    return start


def test_each_increment_reads_as_the_disk_at_that_moment(start, put, kept, tmp_path, tools):
    kept.incremental(3)
    put(increments=increments(0, 1, 2), disk_ids=(0, 2))
    directory = start().image("42 nightly", "backups")
    assert sorted(path.name for path in directory.iterdir()) == [
        *(f"disk.{disk}.{run}.raw" for disk in (0, 2) for run in range(3)),
        *(f"vm.{run}.xml" for run in range(3)),
    ]
    tools.run("cp", "-r", directory, tmp_path / "copy")
    for (disk, run), data in kept.truth.items():
        copy = tmp_path / "copy" / f"disk.{disk}.{run}.raw"
        assert copy.read_bytes() == data
    assert (tmp_path / "copy/vm.2.xml").read_bytes() == (kept.directory(2) / "vm.xml").read_bytes()


def test_a_full_backup_is_its_files(start, put, kept):
    kept.full(0)
    kept.file(1, 0).write_bytes(b"a raw disk " * 10_000)
    (kept.directory(0) / "disk.3.rbd2").write_bytes(b"rbd image v2\n")
    kept.document(0)
    put()
    directory = start().image("42 nightly", "backups")
    names = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert sorted(names) == ["disk.0.0.qcow2", "disk.1.0.raw", "disk.3.rbd2", "vm.xml"]
    assert names["disk.0.0.qcow2"] == kept.file(0, 0).read_bytes()
    assert names["disk.1.0.raw"] == kept.file(1, 0).read_bytes()
    assert names["vm.xml"] == (kept.directory(0) / "vm.xml").read_bytes()


def test_read_in_place_where_it_is_mapped(start, put, kept, store, tmp_path, host):
    kept.incremental(2, disks=(0,))
    put(increments=increments(0, 1))
    config = tmp_path / "nebfs.toml"
    config.write_text(f'[datastores.paths]\n"{store[0]}" = "{store[1]}"\n')
    host.stop()
    mount = start(config=("--config", config))
    disk = mount.image("42 nightly", "backups") / "disk.0.1.raw"
    assert disk.read_bytes() == kept.truth[0, 1]


def test_4_kib_in_the_middle_touch_what_they_need(start, put, kept):
    data = random.Random(3).randbytes(BIG)
    raw = kept.directory(0) / "all"
    raw.write_bytes(data)
    first = kept.file(0, 0)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, first], check=True)
    raw.unlink()
    for run in (1, 2):
        create(kept.file(0, run), str(kept.file(0, run - 1)))
        write(kept.file(0, run), seed=run)
    for run in (1, 2):
        rename_backing(kept.file(0, run), SERVER)
    put(increments=increments(0, 1, 2))
    mount = start("read-ahead=0")
    disk = mount.image("42 nightly", "backups") / "disk.0.2.raw"
    assert disk.stat().st_size == BIG
    fd = os.open(disk, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    at = BIG // 2 + 60_000
    assert os.pread(fd, 4096, at) == data[at : at + 4096]
    os.close(fd)
    assert far_files.taken(mount.cache) < 4 << 20


def test_a_host_that_is_away_is_an_error_of_the_backup(start, put, kept, host):
    kept.incremental(2, disks=(0,))
    put(increments=increments(0, 1))
    host.stop()
    mount = start("deadline=5s")
    directory = mount.image("42 nightly", "backups")
    with pytest.raises(OSError):
        os.listdir(directory)
    host.start()
