"""A datastore whose files are only on its bridges: two sshds, and one bridge that is dead."""

from __future__ import annotations

import errno
import os
import random
import socket
import subprocess
from dataclasses import replace

import pytest

from nebfs.demo.records import DatastoreRecord, ImageRecord
from nebfs.model import Template
from tests.fetcher.sshd import Sshd, keygen

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.skipif(os.geteuid() != 0, reason="a bridge sees other files than this machine"),
]

SLOT = 128 << 10
SIZE = (24 << 20) + 1234


@pytest.fixture
def user(tmp_path, monkeypatch):
    """A home with a key, and without any host key."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    keygen(home / ".ssh/id_ed25519")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return home


@pytest.fixture
def store(tmp_path):
    """What the bridges have under a path that is an empty directory here: real, path."""
    real, path = tmp_path / "store", tmp_path / "datastores"
    (real / "150").mkdir(parents=True)
    path.mkdir()
    return real, path


@pytest.fixture
def bridges(tmp_path, user, store):
    real, path = store
    key = user / ".ssh/id_ed25519"
    made = [Sshd(tmp_path / f"bridge{n}", key, sees={path: real}) for n in range(2)]
    (user / ".ssh/known_hosts").write_text("".join(one.known for one in made))
    yield made
    for one in made:
        one.stop()


@pytest.fixture
def dead():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"root@127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def data(cloud, store, bridges, dead):
    """The bytes of an image that the dead bridge would be asked for first, and a qcow2 file."""
    real, path = store
    template = Template(
        (
            ("BRIDGE_LIST", " ".join([dead, *(one.bridge for one in bridges)])),
            ("LN_TARGET", "SYSTEM"),
            ("SECRET", "canary-template"),
        )
    )
    base = f"{path}//150"
    cloud.datastores[150] = DatastoreRecord(150, "far away", base_path=base, template=template)
    content = random.Random(5).randbytes(SIZE)
    (real / "150/abc").write_bytes(content)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", real / "150/def", "1G"], check=True)
    for number, name, file, kind in [(300, "disk", "abc", "raw"), (303, "small", "def", "qcow2")]:
        cloud.images[number] = ImageRecord(
            number,
            name,
            datastore_id=150,
            datastore="far away",
            source=f"{base}/{file}",
            format=kind,
        )
    return content


@pytest.fixture
def start(make_mount, servers, data):
    """Mount it; return the mount and the path of the disk."""

    def start(*options):
        mount = make_mount(servers.frontend_url, "-o", ",".join(["log-level=debug", *options]))
        mount.start()
        return mount, mount.image("disk.raw", "far away")

    return start


def test_bytes_equal_the_source_though_a_bridge_is_dead(start, data, tools, tmp_path, store, dead):
    mount, disk = start()
    assert disk.stat().st_size == SIZE
    tools.run("cp", disk, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    small = mount.image("small.qcow2", "far away")
    assert small.read_bytes() == (store[0] / "150/def").read_bytes()
    assert tools.xattr(disk, "user.nebfs.source").startswith("sftp://127.0.0.1:")
    failed = [line for line in mount.log.splitlines() if "bridge.failed" in line]
    assert failed
    assert all(dead.partition("@")[2] in line for line in failed)


def test_4_kib_in_the_middle_fetch_one_block(start, data, tools):
    _, disk = start()
    fd = os.open(disk, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    at = 50 * SLOT + 60_000
    assert os.pread(fd, 4096, at) == data[at : at + 4096]
    # The reader may have its bytes before their block is written down.
    tools.wait_until(lambda: tools.xattr(disk, "user.nebfs.cached") != "0")
    # On a machine so busy that the place seems far away, what is around it as well.
    assert int(tools.xattr(disk, "user.nebfs.cached")) <= 1 << 20
    os.close(fd)


def test_bridges_that_die_and_come_back(start, data, bridges):
    _, disk = start("deadline=4s")
    with open(disk, "rb", buffering=0) as file:
        assert file.read(SLOT) == data[:SLOT]
        for one in bridges:
            one.stop()
        with pytest.raises(OSError) as caught:
            os.pread(file.fileno(), SLOT, 20 << 20)
        assert caught.value.errno in (errno.EIO, errno.ETIMEDOUT)
        bridges[1].start()
        assert os.pread(file.fileno(), SLOT, 20 << 20) == data[20 << 20 :][:SLOT]
    assert disk.read_bytes() == data


def test_a_file_that_is_changed_is_never_mixed(start, data, store):
    mount, disk = start("read-ahead=0")
    with open(disk, "rb", buffering=0) as file:
        assert file.read(SLOT) == data[:SLOT]
        other = random.Random(6).randbytes(SIZE)
        real = store[0] / "150/abc"
        real.write_bytes(other)
        os.utime(real, (99, 99))
        with pytest.raises(OSError) as caught:
            os.pread(file.fileno(), SLOT, 20 << 20)
        assert caught.value.errno == errno.ESTALE
    mount.refresh()
    assert disk.read_bytes() == other


def test_a_persistent_image_that_vms_wrote_to_is_never_read_out_of_the_cache(
    start, data, store, bridges, cloud
):
    cloud.images[300] = replace(cloud.images[300], persistent=True)
    _, disk = start("deadline=4s")
    assert disk.read_bytes() == data
    other = random.Random(6).randbytes(SIZE - 999)
    real = store[0] / "150/abc"
    real.write_bytes(other)
    os.utime(real, (99, 99))
    # Without a refresh, although all of what it was is here.
    assert disk.read_bytes() == other
    assert disk.stat().st_mtime == 99
    for one in bridges:
        one.stop()
    with pytest.raises(OSError) as caught:
        disk.read_bytes()
    assert caught.value.errno in (errno.EIO, errno.ETIMEDOUT)


def test_a_host_key_that_is_not_known_or_another_is_refused(start, bridges, user, tools):
    known = user / ".ssh/known_hosts"
    known.write_text("")
    mount, disk = start()
    # Nothing was ever seen of the datastore: an error, not an empty directory.
    with pytest.raises(OSError) as caught:
        os.listdir(disk.parent)
    assert caught.value.errno == errno.EIO
    assert "ssh-keyscan" in tools.xattr(disk.parent, "user.nebfs.trouble")
    first, second = bridges
    swapped = first.known.replace(str(first.port), str(second.port))
    known.write_text(swapped + second.known.replace(str(second.port), str(first.port)))
    mount.refresh()
    assert "HOST KEY HAS CHANGED" in tools.xattr(disk.parent, "user.nebfs.trouble")
    assert [one.logins for one in bridges] == [0, 0]
    known.write_text("".join(one.known for one in bridges))
    mount.refresh()
    assert disk.stat().st_size == SIZE


def test_no_secret_and_no_key_is_seen(start, data, user, tools):
    mount, disk = start()
    disk.read_bytes()
    text = tools.everything_shown(mount.path)
    assert "far away" in text
    assert "canary" not in text
    assert "PRIVATE KEY" not in text
    assert "id_ed25519" not in text


def test_a_front_end_elsewhere_by_its_url(
    make_mount, servers, cloud, data, bridges, store, tmp_path
):
    cloud.datastores[150].template = Template((("LN_TARGET", "SYSTEM"),))
    config = tmp_path / "nebfs.toml"
    config.write_text(
        f'[datastores.paths]\n"{store[1]}" = "sftp://{bridges[0].bridge}{store[1]}"\n'
    )
    mount = make_mount(servers.frontend_url, "--config", config)
    mount.start()
    assert mount.image("disk.raw", "far away").read_bytes() == data


def test_a_key_and_host_keys_that_are_set(make_mount, servers, data, user, bridges, tmp_path):
    for name in ("id_ed25519", "known_hosts"):
        (user / ".ssh" / name).rename(tmp_path / name)
    config = tmp_path / "nebfs.toml"
    config.write_text(
        f'[datastores]\nssh_identity_file = "{tmp_path}/id_ed25519"\n'
        f'ssh_known_hosts_file = "{tmp_path}/known_hosts"\n'
    )
    mount = make_mount(servers.frontend_url, "--config", config)
    mount.start()
    assert mount.image("disk.raw", "far away").read_bytes() == data
    assert "id_ed25519" not in mount.log
