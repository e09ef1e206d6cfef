"""The disks of VMs that do not run, through a mount, where the configuration wants them."""

from __future__ import annotations

import errno
import os
import subprocess

import pytest

from nebfs.demo.calls import METHODS
from nebfs.demo.records import DatastoreRecord
from nebfs.model import DatastoreType

pytestmark = pytest.mark.mounted

SIZE = (2 << 20) + 7


def vm(number, name, state):
    disks = "".join(
        f"<DISK><DISK_ID>{n}</DISK_ID><TYPE>FILE</TYPE><FORMAT>{kind}</FORMAT></DISK>"
        for n, kind in ((0, "raw"), (1, "qcow2"))
    )
    return (
        f"<VM><ID>{number}</ID><NAME>{name}</NAME><STATE>{state}</STATE><TEMPLATE>{disks}"
        "<CONTEXT><DISK_ID>2</DISK_ID><PASSWORD>canary</PASSWORD></CONTEXT></TEMPLATE>"
        "<HISTORY_RECORDS><HISTORY><SEQ>0</SEQ><HOSTNAME>node1</HOSTNAME><DS_ID>180</DS_ID>"
        "<TM_MAD>ssh</TM_MAD></HISTORY></HISTORY_RECORDS></VM>"
    )


@pytest.fixture
def base(tmp_path):
    made = tmp_path / "180"
    (made / "33").mkdir(parents=True)
    (made / "33/disk.0").write_bytes(os.urandom(SIZE))
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", made / "33/disk.1", "1G"], check=True
    )
    (made / "33/disk.2").write_bytes(b"iso" * 1000)
    (made / "33/vm.xml").write_text("canary")
    return made


@pytest.fixture
def machines(cloud, monkeypatch, base):
    cloud.datastores[180] = DatastoreRecord(
        180, "resting", driver="-", base_path=str(base), type=DatastoreType.SYSTEM
    )
    told = {33: vm(33, "db", 8), 34: vm(34, "gone", 9)}

    def answer(call):
        state = call.integer(4)
        found = [text for text in told.values() if f"<STATE>{state}</STATE>" in text]
        return f"<VM_POOL>{''.join(found)}</VM_POOL>"

    monkeypatch.setitem(METHODS, "one.vmpool.infoextended", answer)
    return told


def test_disks_of_vms_at_rest_are_files_and_leave_when_the_vm_starts(
    make_mount, servers, machines, base, tools, tmp_path
):
    config = tmp_path / "nebfs.toml"
    config.write_text('system_datastores = "poweroff"\n')
    mount = make_mount(servers.frontend_url, "-o", f"config={config}")
    mount.start()
    store = mount.path / "datastores/resting"
    assert sorted(os.listdir(store)) == ["33-db", "34-gone"]
    assert sorted(os.listdir(store / "33-db")) == ["disk.0.raw", "disk.1.qcow2", "disk.2.iso"]
    tools.run("cp", "-r", store / "33-db", tmp_path / "copy")
    for name, file in (
        ("disk.0.raw", "disk.0"),
        ("disk.1.qcow2", "disk.1"),
        ("disk.2.iso", "disk.2"),
    ):
        assert (tmp_path / "copy" / name).read_bytes() == (base / "33" / file).read_bytes()
    with pytest.raises(OSError):
        (store / "34-gone/disk.0.raw").read_bytes()
    assert "node1" in tools.xattr(store / "34-gone/disk.0.raw", "user.nebfs.trouble")
    assert tools.xattr(store / "33-db", "user.one.STATE") == "POWEROFF"
    # Somebody writes to a disk of the same length: nothing of it was kept.
    data = os.urandom(SIZE)
    with open(store / "33-db/disk.0.raw", "rb") as file:
        file.read(4096)
        with open(base / "33/disk.0", "r+b") as same:
            same.write(data)
        assert os.pread(file.fileno(), SIZE, 0) == data
    # Of the disk inside a qcow2 file one version is read, or none.
    inside = mount.path / "raw/datastores/resting/33-db/disk.1.raw"
    with open(inside, "rb", buffering=0) as file:
        assert len(file.read(4096)) == 4096
        os.utime(base / "33/disk.1", (5, 5))
        with pytest.raises(OSError) as caught:
            os.pread(file.fileno(), 4096, 0)
        assert caught.value.errno == errno.ESTALE
    machines[33] = vm(33, "db", 3)
    mount.refresh()
    tools.wait_until(lambda: os.listdir(store) == ["34-gone"])
    assert "canary" not in mount.log


def test_they_are_not_shown_unless_wanted(make_mount, servers, machines, tools):
    mount = make_mount(servers.frontend_url)
    mount.start()
    assert os.listdir(mount.path / "datastores/resting") == []
