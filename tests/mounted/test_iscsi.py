"""A datastore of iSCSI units on a real target, through the mount; and one of an array, whose API is
faked.
"""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from pathlib import Path

import pytest

from nebfs.demo.records import DatastoreRecord, ImageRecord
from nebfs.model import ImageState, Template
from tests.fetcher.purity_fake import PurityFake
from tests.fetcher.service import Service, make_certificates
from tests.fetcher.tgt import PASSWORD, USER

pytestmark = pytest.mark.mounted

MIB = 1 << 20
SIZE = 6 * MIB + 512


@pytest.fixture
def data(cloud, tgt):
    """The bytes of an image without CHAP (400), and of one with (401); 402 has no unit."""
    source = random.Random(6)
    content = source.randbytes(3 * MIB) + bytes(MIB) + source.randbytes(2 * MIB + 512)
    names = [tgt.target("open")]
    tgt.unit(1, content)
    names.append(tgt.target("chap", user=USER, password=PASSWORD))
    tgt.unit(1, content[::-1])
    told = (("ISCSI_HOST", tgt.portal), ("LN_TARGET", "NONE"), ("CLONE_TARGET", "SELF"))
    cloud.datastores[160] = DatastoreRecord(
        160,
        "iscsi",
        driver="iscsi_libvirt",
        transfer="iscsi_libvirt",
        disk_type=9,
        template=Template(told),
    )
    chap = Template((("ISCSI_USER", USER), ("ISCSI_USAGE", "secret")))
    for number, name, unit, template in [
        (400, "open", f"{names[0]}/1", Template()),
        (401, "chap", f"{names[1]}/1", chap),
        (402, "gone", f"{names[0]}/7", Template()),
        (403, "in use", f"{names[0]}/1", Template()),
        (404, "controller", names[0], Template()),
    ]:
        cloud.images[number] = ImageRecord(
            number,
            name,
            datastore_id=160,
            datastore="iscsi",
            source=unit,
            format="raw",
            disk_type=9,
            persistent=True,
            template=template,
        )
    cloud.set_image_state(403, ImageState.USED_PERS)
    return content


@pytest.fixture
def start(make_mount, servers, data, tgt, tmp_path):
    """Mount it, with a password for the target; return the mount."""

    def start(*options, password=PASSWORD):
        credentials = tmp_path / "credentials"
        credentials.write_text(
            f'["iscsi://{tgt.portal}"]\nuser = "{USER}"\npassword = "{password}"\n'
        )
        credentials.chmod(0o600)
        told = [f"credentials-file={credentials}", "log-level=debug", *options]
        mount = make_mount(servers.frontend_url, "-o", ",".join(told))
        mount.start()
        return mount

    return start


def daemons(tgt):
    """The qemu-storage-daemons that read from this target."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if b"qemu-storage-daemon" in line and tgt.portal.encode() in line:
            found.append(line)
    return found


def test_bytes_equal_those_on_the_target(start, data, tools, tgt, tmp_path):
    mount = start()
    for name, content in (("open.raw", data), ("chap.raw", data[::-1])):
        path = mount.image(name, "iscsi")
        assert path.stat().st_size == SIZE
        tools.run("cp", path, tmp_path / name)
        assert (tmp_path / name).read_bytes() == content
        tools.run("cmp", path, tmp_path / name)
    shown = tools.xattr(mount.image("open.raw", "iscsi"), "user.nebfs.source")
    assert shown == tgt.address("iqn.2003-01.org.example:open")


def test_4_kib_in_the_middle_read_no_more_than_the_kernel_asks_for(start, data, tgt):
    path = start().image("chap.raw", "iscsi")
    fd = os.open(path, os.O_RDONLY)
    before = tgt.read_bytes()
    at = 5 * MIB + 4096 + 60
    assert os.pread(fd, 4000, at) == data[::-1][at : at + 4000]
    assert tgt.read_bytes() - before == 4096
    os.close(fd)


def test_what_a_vm_wrote_is_seen_at_once(start, data, tgt):
    with start().image("open.raw", "iscsi").open("rb", buffering=0) as file:
        assert file.read(4096) == data[:4096]
        with (tgt.root / "disk-1-1").open("r+b") as unit:
            unit.write(b"written")
        file.seek(0)
        assert file.read(4096) == b"written" + data[7:4096]


def test_what_has_no_bytes_says_why(start, tools):
    mount = start()
    for name, number, words in [
        ("gone.raw", errno.EIO, "no such LUN"),
        ("controller.raw", errno.EOPNOTSUPP, "is no disk"),
        ("in use.raw", errno.EBUSY, "a VM writes to it"),
    ]:
        path = mount.image(name, "iscsi")
        with pytest.raises(OSError) as caught:
            path.read_bytes()
        assert caught.value.errno == number
        assert words in tools.xattr(path, "user.nebfs.trouble")


def test_a_wrong_password_is_refused_and_none_is_shown(start, data, tools, tgt):
    mount = start(password="canary-wrong-1")
    path = mount.image("chap.raw", "iscsi")
    with pytest.raises(PermissionError):
        path.read_bytes()
    assert "does not accept" in tools.xattr(path, "user.nebfs.trouble")
    assert mount.image("open.raw", "iscsi").read_bytes() == data
    seen = tools.everything_shown(mount.path)
    assert "does not accept" in seen
    assert "canary" not in seen
    lines = daemons(tgt)
    assert lines
    assert b"canary" not in b"".join(lines)


def test_a_target_that_is_killed_in_the_middle_is_an_error_in_time_and_is_read_again(
    start, data, tgt
):
    path = start("deadline=3s", "stall-timeout=1s").image("open.raw", "iscsi")
    with path.open("rb", buffering=0) as file:
        assert file.read(MIB) == data[:MIB]
        tgt.kill()
        begun = time.monotonic()
        with pytest.raises(OSError) as caught:
            os.pread(file.fileno(), 4096, 5 * MIB)
        assert caught.value.errno in (errno.EIO, errno.ETIMEDOUT)
        assert time.monotonic() - begun < 15
        tgt.start()
        assert os.pread(file.fileno(), 4096, 5 * MIB) == data[5 * MIB :][:4096]


def test_a_target_that_returns_within_the_deadline_is_only_slow(start, data, tgt):
    path = start("deadline=30s", "stall-timeout=1s").image("open.raw", "iscsi")
    with path.open("rb", buffering=0) as file:
        assert file.read(MIB) == data[:MIB]
        tgt.kill()
        late = threading.Timer(2.0, tgt.start)
        late.start()
        try:
            assert os.pread(file.fileno(), MIB, 5 * MIB) == data[5 * MIB : 6 * MIB]
        finally:
            late.join()
    assert path.read_bytes() == data


def test_no_process_outlives_a_mount_that_is_killed(start, data, tools, tgt):
    mount = start()
    assert mount.image("open.raw", "iscsi").read_bytes() == data
    assert daemons(tgt)
    mount.kill()
    tools.wait_until(lambda: not daemons(tgt))


INITIATOR = "iqn.2026-01.x:me"  # as the fake array knows us


@pytest.fixture
def array(cloud, tgt, tmp_path):
    """An array with an image (170171) that is written once; the address of its API, and bytes."""
    content = random.Random(7).randbytes(6 * MIB + 512)
    target = tgt.target("array", initiator=INITIATOR)
    tgt.unit(5, content)
    fake = PurityFake(portal=tgt.portal, target=target)
    fake.put("one_170_171", 1, len(content), mapped=5)
    make_certificates(tmp_path)
    with Service(tmp_path, fake.respond) as service:
        told = (("PUREFA_HOST", service.host), ("LN_TARGET", "NONE"), ("CLONE_TARGET", "SELF"))
        cloud.datastores[170] = DatastoreRecord(
            170, "array", driver="purefa", transfer="purefa", disk_type=2, template=Template(told)
        )
        cloud.images[171] = ImageRecord(
            171,
            "disk",
            datastore_id=170,
            datastore="array",
            source="one_170_171",
            format="raw",
            disk_type=2,
        )
        yield f'["{service.url}"]\napi-token = "{fake.token}"\n', content


def test_a_unit_of_an_array_is_read_by_iscsi_and_kept(
    array, make_mount, servers, tgt, tools, tmp_path
):
    known, content = array
    config, credentials = tmp_path / "nebfs.toml", tmp_path / "credentials"
    config.write_text(f'[datastores]\niscsi_initiator = "{INITIATOR}"\n')
    credentials.write_text(known)
    credentials.chmod(0o600)
    told = [f"config={config}", f"credentials-file={credentials}", f"ca-file={tmp_path}/ca.pem"]
    mount = make_mount(servers.frontend_url, "-o", ",".join([*told, "read-ahead=0"]))
    mount.start()
    path = mount.image("disk.raw", "array")
    assert path.stat().st_size == len(content)
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        before = tgt.read_bytes(5)
        assert os.pread(file.fileno(), 4096, 2 * MIB) == content[2 * MIB :][:4096]
        # What is brought around it depends on how long the first answer took: a MiB at most.
        assert tgt.read_bytes(5) - before <= MIB + (128 << 10)
    assert path.read_bytes() == content
    tgt.kill()
    assert path.read_bytes() == content
    assert tgt.portal in tools.xattr(path, "user.nebfs.source")
    assert "canary" not in tools.everything_shown(mount.path)
