"""A private ``s3`` marketplace through the mount: the demonstration's store, and Ceph's radosgw."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from nebfs.demo.objects import PRIVATE_S3
from nebfs.demo.s3 import ACCESS_KEY_ID, SECRET_ACCESS_KEY, StoreKey
from nebfs.model import Template
from tests.mounted.conftest import AROUND

pytestmark = pytest.mark.mounted

MARKET, STORED = "Private S3", "/images/marketapp-31"
CANARY = "canary-secret-of-the-template"


@pytest.fixture(autouse=True)
def no_keys_of_this_machine(monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")


def say(cloud, **changes):
    """Change the marketplace's template."""
    market = cloud.marketplaces[PRIVATE_S3]
    market.template = Template(tuple({**dict(market.template.items), **changes}.items()))


def raw(mount):
    return mount.app("stored raw", MARKET) / "stored raw.raw"


def test_an_object_equals_its_original(mount, cloud, servers, tools, tmp_path):
    for name in ("stored raw.raw", "stored qcow2.qcow2"):
        path = mount.app(name.rpartition(".")[0], MARKET) / name
        tools.run("cp", path, tmp_path / "copy")
        number = 31 if name.endswith("raw") else 30
        digest = hashlib.md5((tmp_path / "copy").read_bytes()).hexdigest()
        assert digest == cloud.apps[number].md5
        assert tools.run("md5sum", "-c", "CHECKSUMS", cwd=path.parent).stdout == f"{name}: OK\n"
        with open(path, "rb"):
            assert tools.xattr(path, "user.nebfs.verified") == "yes"
    # Although the template says version 2.
    assert {seen.status for seen in servers.objects.requests} == {206}


def test_64_kib_in_the_middle_fetch_one_block(mount, cloud, servers):
    original = cloud.objects[STORED].read_bytes()
    path = raw(mount)
    assert path.stat().st_size == len(original)
    before = len(servers.objects.requests), servers.bytes_sent()
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    assert os.pread(fd, 64 << 10, 32 << 20) == original[32 << 20 :][: 64 << 10]
    os.close(fd)
    asked = [seen.range for seen in list(servers.objects.requests)[before[0] :]]
    assert f"bytes={32 << 20}-{(32 << 20) + (128 << 10) - 1}" in asked
    # Around it, at most what is worth a round trip on a machine that is slow just now.
    assert servers.bytes_sent() - before[1] <= AROUND + 4096  # heads, too


def test_an_object_that_was_corrupted_is_an_error(mount, servers, tools):
    path = raw(mount)
    servers.objects.switches(STORED).corrupt_at = 5 << 20
    done = tools.run("cp", path, "/dev/null", check=False)
    assert "Input/output error" in done.stderr
    with open(path, "rb") as file:
        assert tools.xattr(path, "user.nebfs.verified") == "mismatch"
        with pytest.raises(OSError) as caught:
            os.pread(file.fileno(), 4096, 0)
        assert caught.value.errno == errno.EIO


def test_what_is_wrong_is_said(make_mount, cloud, servers, tools):
    say(cloud, SECRET_ACCESS_KEY=CANARY)
    mount = make_mount(servers.frontend_url)
    mount.start()
    path = raw(mount)
    assert (path.stat().st_size, path.stat().st_mode & 0o777) == (0, 0)
    trouble = tools.xattr(path, "user.nebfs.trouble")
    assert "secret access key is wrong" in trouble
    with pytest.raises(PermissionError):
        os.open(path, os.O_RDONLY)
    assert CANARY not in trouble + mount.log


def test_an_object_that_was_deleted(mount, tools):
    (path,) = mount.app("lost object", MARKET).glob("lost object*")
    assert "no such object" in tools.xattr(path, "user.nebfs.trouble")


def test_no_secret_is_seen_anywhere(make_mount, cloud, servers, tools, tmp_path):
    servers.objects.keys = {"canary-id": StoreKey(CANARY)}
    say(cloud, ACCESS_KEY_ID="canary-id", SECRET_ACCESS_KEY=CANARY, API="http://x/?key=canary")
    credentials = tmp_path / "credentials.toml"
    credentials.write_text('["s3://other"]\naccess-key-id = "canary"\nsession-token = "canary"\n')
    credentials.chmod(0o600)
    mount = make_mount(
        servers.frontend_url, "-o", f"credentials-file={credentials},log-level=debug"
    )
    mount.start()
    raw(mount).read_bytes()
    servers.objects.keys["canary-id"] = StoreKey("other")
    assert "secret access key is wrong" in tools.xattr(
        mount.app("stored qcow2", MARKET) / "stored qcow2.qcow2", "user.nebfs.trouble"
    )
    text = tools.everything_shown(mount.path)
    assert "stored raw" in text
    assert "canary" not in text
    assert "canary" not in Path(f"/proc/{mount.pid}/cmdline").read_text()


def test_radosgw(make_mount, cloud, servers, radosgw, tools, tmp_path):
    data = os.urandom(12 << 20)
    radosgw.put_in_parts("marketapp-31", data)
    owner = radosgw.owner
    say(
        cloud,
        ENDPOINT=radosgw.url,
        ACCESS_KEY_ID=owner.access_key_id,
        SECRET_ACCESS_KEY=owner.secret_access_key,
    )
    cloud.apps[31].md5 = hashlib.md5(data).hexdigest()
    mount = make_mount(servers.frontend_url)
    mount.start()
    path = raw(mount)
    with open(path, "rb") as file:
        assert os.pread(file.fileno(), 64 << 10, 6 << 20) == data[6 << 20 :][: 64 << 10]
    tools.run("cp", path, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    done = tools.run("md5sum", "-c", "CHECKSUMS", cwd=path.parent)
    assert done.stdout == "stored raw.raw: OK\n"
    with open(path, "rb"):
        assert tools.xattr(path, "user.nebfs.verified") == "yes"


def test_keys_from_the_file_of_credentials(make_mount, cloud, servers, tmp_path):
    say(cloud, ACCESS_KEY_ID="", SECRET_ACCESS_KEY="")
    credentials = tmp_path / "credentials.toml"
    credentials.write_text(
        f'["s3://images"]\naccess-key-id = "{ACCESS_KEY_ID}"\n'
        f'secret-access-key = "{SECRET_ACCESS_KEY}"\n'
    )
    credentials.chmod(0o600)
    mount = make_mount(servers.frontend_url, "-o", f"credentials-file={credentials}")
    mount.start()
    assert hashlib.md5(raw(mount).read_bytes()).hexdigest() == cloud.apps[31].md5
