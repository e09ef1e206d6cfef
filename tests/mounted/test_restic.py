"""Backups that restic keeps, through the mount."""

from __future__ import annotations

import os
import random
import subprocess
from types import SimpleNamespace

import pytest

from nebfs.demo.records import DatastoreRecord, ImageRecord
from nebfs.model import DatastoreType, ImageType, Template
from tests.datastores.qcow2_files import create, rename_backing, write
from tests.datastores.restic_pool import PASSWORD, Restic, increments, packs
from tests.datastores.rsync_pool import SERVER, VM, Repository
from tests.fetcher.sshd import USER
from tests.mounted import far_files

pytestmark = pytest.mark.mounted
root = pytest.mark.skipif(os.geteuid() != 0, reason="a host sees other files than this machine")

THEIRS = "/nonexistent/one/datastores/107"
BIG = 64 << 20


@pytest.fixture
def base(tmp_path):
    path = tmp_path / "107"
    path.mkdir()
    return path


@pytest.fixture
def restic(base, tmp_path):
    return Restic(base / str(VM), tmp_path).init()


@pytest.fixture
def kept(tmp_path):
    return Repository(tmp_path / "files")


@pytest.fixture
def put(cloud):
    """Tell OpenNebula of a backup."""

    def put(
        source="",
        template=(),
        base_path=THEIRS,
        password=PASSWORD,
        number=300,
        name="42 nightly",
        **changes,
    ):
        cloud.datastores[107] = DatastoreRecord(
            107,
            "backups",
            driver="restic",
            transfer="-",
            type=DatastoreType.BACKUP,
            base_path=str(base_path),
            template=Template((("RESTIC_PASSWORD", password), *template)),
        )
        facts = {"type": ImageType.BACKUP, "format": "raw", "vms": (VM,), "source": source}
        cloud.images[number] = ImageRecord(
            number, name, datastore_id=107, datastore="backups", **{**facts, **changes}
        )

    return put


@pytest.fixture
def config(base, tmp_path):
    path = tmp_path / "nebfs.toml"
    path.write_text(f'[datastores.paths]\n"{THEIRS}" = "{base}"\n')
    return path


@pytest.fixture
def far(base, tmp_path, monkeypatch):
    """A backup server, which alone has the repository; its password is in credentials_file."""
    path = tmp_path / "datastores"
    path.mkdir()
    key = far_files.user_with_a_key(tmp_path / "home", monkeypatch)
    host = far_files.host(tmp_path / "host", key, {path: base})
    credentials = tmp_path / "credentials.toml"
    credentials.write_text(f'["sftp://{host.host}{path}"]\nrepository-password = "{PASSWORD}"\n')
    credentials.chmod(0o600)
    config = tmp_path / "far.toml"
    config.write_text(f'credentials_file = "{credentials}"\n')
    template = (("RESTIC_SFTP_SERVER", host.host), ("RESTIC_SFTP_USER", USER))
    facts = {"base_path": f"{path}//", "template": template, "password": "encrypted"}
    yield SimpleNamespace(config=config, facts=facts)
    host.stop()


@pytest.fixture
def start(make_mount, servers, config):
    def start(*options, config=config):
        more = ("--config", config) if config else ()
        mount = make_mount(
            servers.frontend_url, "-o", ",".join(["log-level=debug", *options]), *more
        )
        mount.start()
        return mount

    return start


@root
def test_what_is_on_a_backup_server_is_what_restic_and_qemu_restore(
    start, put, restic, kept, far, tools, tmp_path
):
    kept.incremental(2, disks=(0,))
    snapshots = restic.back_up(kept, 2)
    put(number=301, name="42 weekly", increments=increments(snapshots), **far.facts)
    kept.file(1, 0).write_bytes(random.Random(8).randbytes((9 << 20) + 1))
    (kept.directory(0) / "disk.3.rbd2").write_bytes(b"rbd image v2\n" * 1000)
    (snapshot,) = restic.back_up(kept, 1)
    put(source=snapshot, **far.facts)
    mount = start(config=far.config)
    full = tmp_path / "full"
    tools.run("cp", "-r", mount.image("42 nightly", "backups"), full)
    names = ["disk.0.0.qcow2", "disk.1.0.raw", "disk.3.rbd2", "vm.xml"]
    assert sorted(path.name for path in full.iterdir()) == names
    for name in names:
        path = kept.directory(0) / name.removesuffix(".qcow2").removesuffix(".raw")
        shown = (full / name).read_bytes()
        assert shown == path.read_bytes() == restic.dump(snapshot, path)
    for run in range(2):
        disk = mount.image("42 weekly", "backups") / f"disk.0.{run}.raw"
        assert disk.read_bytes() == kept.truth[0, run]  # what qemu-img convert has made of it


def test_each_increment_reads_as_the_disk_at_that_moment(start, put, restic, kept, tmp_path, tools):
    kept.incremental(3)
    put(increments=increments(restic.back_up(kept, 3)), disk_ids=(0, 2))
    mount = start()
    directory = mount.image("42 nightly", "backups")
    assert sorted(path.name for path in directory.iterdir()) == [
        *(f"disk.{disk}.{run}.raw" for disk in (0, 2) for run in range(3)),
        *(f"vm.{run}.xml" for run in range(3)),
    ]
    tools.run("cp", "-r", directory, tmp_path / "copy")
    for (disk, run), data in kept.truth.items():  # what qemu-img convert has made of them
        assert (tmp_path / "copy" / f"disk.{disk}.{run}.raw").read_bytes() == data
    assert "canary" not in tools.everything_shown(mount.path)


def test_older_increments_that_were_merged_and_pruned(start, put, restic, kept):
    kept.incremental(4, disks=(0,))
    snapshots = restic.back_up(kept, 4)
    kept.flatten(0, 2)
    kept.file(0, 3).touch()
    merged = restic.backup(kept.file(0, 2), kept.directory(2) / "vm.xml")
    restic.run("forget", "--prune", "--max-unused", "0", *snapshots[:3])
    put(increments=increments([merged, snapshots[3]], first=2))
    directory = start().image("42 nightly", "backups")
    for run in (2, 3):
        assert (directory / f"disk.0.{run}.raw").read_bytes() == kept.truth[0, run]


@root
def test_4_kib_in_the_middle_touch_what_they_need(start, put, restic, kept, far):
    data = random.Random(3).randbytes(BIG)
    raw = kept.directory(0) / "all"
    raw.write_bytes(data)
    first = kept.file(0, 0)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, first], check=True)
    raw.unlink()
    create(kept.file(0, 1), str(first))
    write(kept.file(0, 1), seed=1)
    rename_backing(kept.file(0, 1), SERVER)
    put(increments=increments(restic.back_up(kept, 2)), **far.facts)
    mount = start("read-ahead=0", config=far.config)
    disk = mount.image("42 nightly", "backups") / "disk.0.1.raw"
    assert disk.stat().st_size == BIG
    fd = os.open(disk, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    at = BIG // 2 + 60_000
    assert os.pread(fd, 4096, at) == data[at : at + 4096]
    os.close(fd)
    assert far_files.taken(mount.cache) < 4 << 20


def test_a_damaged_pack_is_an_error_of_what_is_in_it(start, put, restic, kept, base):
    kept.file(0, 0).write_bytes(random.Random(1).randbytes(24 << 20))
    (snapshot,) = restic.back_up(kept, 1)
    put(source=snapshot)
    pack = packs(base / str(VM))[0]
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    mount = start("read-ahead=0")
    disk = mount.image("42 nightly", "backups") / "disk.0.0.raw"
    original = kept.file(0, 0).read_bytes()
    failed = 0
    fd = os.open(disk, os.O_RDONLY)
    for at in range(0, len(original), 1 << 20):
        try:
            read = os.pread(fd, 1 << 20, at)
        except OSError:
            read = b""
        # The kernel gives what is before the first page that it cannot get.
        assert original.startswith(read, at)
        failed += len(read) < 1 << 20
    os.close(fd)
    assert 0 < failed < 24


def test_a_password_that_is_encrypted_is_refused_with_the_remedy(start, put, restic, kept, tools):
    kept.full(0)
    (snapshot,) = restic.back_up(kept, 1)
    encrypted = "Y2FuYXJ5LWVuY3J5cHRlZA=="  # says canary
    put(source=snapshot, password=encrypted)
    mount = start()
    with pytest.raises(PermissionError):
        os.listdir(mount.image("42 nightly", "backups"))
    assert "name repository-password under" in mount.log
    assert encrypted not in mount.log
