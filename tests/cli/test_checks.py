"""What is looked at before mounting, and the mount table."""

import os
from pathlib import Path

import pytest

from nebfs.cli import checks, mounts
from nebfs.cli.checks import check_fuse, check_mountpoint
from nebfs.cli.mounts import mount_of, mounted_at
from nebfs.errors import UserError

TABLE = r"""
1 0 8:1 / / rw - ext4 /dev/sda1 rw
30 1 0:50 / /mnt/a\040b ro,nosuid shared:1 - fuse.nebfs http://h/RPC2 ro
31 1 0:51 / /mnt/c rw - tmpfs tmp rw
32 31 0:52 / /mnt/c rw master:3 - nfs4 host:/x rw
"""


@pytest.fixture
def table(monkeypatch, tmp_path):
    def write(text):
        (tmp_path / "mountinfo").write_text(text.lstrip())
        monkeypatch.setattr(mounts, "MOUNTINFO", tmp_path / "mountinfo")

    return write


@pytest.fixture
def detached(monkeypatch, table):
    """Record what is unmounted, and let it be unmounted."""
    found = []

    def detach(path, *, lazy):
        found.append((path, lazy))
        table("1 0 8:1 / / rw - ext4 /dev/sda1 rw\n")

    monkeypatch.setattr(checks, "detach", detach)
    return found


def problem(path, run_dir=Path("/nowhere")):
    with pytest.raises(UserError) as caught:
        check_mountpoint(path, run_dir)
    assert caught.value.exit_code == 32
    return str(caught.value)


def test_the_mount_table(table):
    table(TABLE)
    found = mounted_at(Path("/mnt/a b"))
    assert (found.fstype, found.source, found.ours) == ("fuse.nebfs", "http://h/RPC2", True)
    assert mounted_at(Path("/mnt/c")).fstype == "nfs4", "the later one hides the earlier"
    assert mounted_at(Path("/mnt")) is None
    assert mount_of(Path("/mnt/a b/x/y")) == found
    assert mount_of(Path("/mnt/a")).fstype == "ext4"


def test_the_real_mount_table():
    assert mounted_at(Path("/proc")).fstype == "proc"


def test_a_directory_will_do_even_if_it_is_not_empty(tmp_path):
    (tmp_path / "x").touch()
    check_mountpoint(tmp_path, tmp_path)


def test_a_mount_point_that_is_not_there_or_no_directory(tmp_path):
    assert f"mkdir -p {tmp_path}/no" in problem(tmp_path / "no")
    (tmp_path / "file").touch()
    assert "not a directory" in problem(tmp_path / "file")


def test_a_mount_point_in_use_is_told_by_whom(table, tmp_path):
    table(f"1 0 8:1 / {tmp_path} rw - ext4 /dev/sda1 rw\n")
    assert "already a mount: /dev/sda1 (ext4)" in problem(tmp_path)


def test_our_own_dead_mount_is_cleared(table, detached, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(checks, "is_dead", lambda path: True)
    table(f"1 0 0:50 / {tmp_path} rw - fuse.nebfs http://h/ rw\n")
    check_mountpoint(tmp_path, tmp_path)
    assert detached == [(tmp_path, True)]
    assert "cleared the dead mount" in capsys.readouterr().err


def test_somebody_elses_dead_mount_is_left_alone(table, detached, monkeypatch, tmp_path):
    monkeypatch.setattr(checks, "is_dead", lambda path: True)
    table(f"1 0 0:50 / {tmp_path} rw - fuse.sshfs host: rw\n")
    assert "umount --lazy" in problem(tmp_path)
    assert detached == []


def test_a_machine_without_fuse(monkeypatch, tmp_path):
    monkeypatch.setattr(checks, "DEVICE", tmp_path / "no")
    with pytest.raises(UserError, match="package fuse3"):
        check_fuse(allow_other=False)


def test_a_device_that_may_not_be_opened(monkeypatch, tmp_path):
    (tmp_path / "fuse").touch()
    monkeypatch.setattr(checks, "DEVICE", tmp_path / "fuse")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="may not be opened"):
        check_fuse(allow_other=False)


def test_allow_other_needs_leave_when_not_root(any_fuse, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    monkeypatch.setattr(checks, "tool", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(checks, "FUSE_CONF", tmp_path / "fuse.conf")
    (tmp_path / "fuse.conf").write_text("# user_allow_other\n")
    check_fuse(allow_other=False)
    with pytest.raises(UserError, match="user_allow_other"):
        check_fuse(allow_other=True)
    (tmp_path / "fuse.conf").write_text("mount_max = 5\nuser_allow_other\n")
    check_fuse(allow_other=True)
    monkeypatch.setattr(checks, "tool", lambda name: None)
    with pytest.raises(UserError, match="fusermount3 is missing"):
        check_fuse(allow_other=False)


def test_tools_are_found_with_an_empty_path(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert mounts.tool("umount")
    assert mounts.tool("no-such-tool-anywhere") is None
