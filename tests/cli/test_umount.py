"""``nebfs umount`` where nothing of ours is mounted, and how it waits."""

import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nebfs.cli import mounts, umount
from nebfs.daemon import registry
from nebfs.daemon.registry import Registration
from nebfs.errors import UserError


def test_nothing_is_mounted(invoke, tmp_path):
    done = invoke("umount", tmp_path, "--run-dir", tmp_path)
    assert done.exit_code == 3
    assert "is not mounted" in done.output


def test_a_registration_that_outlived_its_mount_is_removed(invoke, tmp_path):
    own = Registration.of_this_process(tmp_path, tmp_path, source="")
    tmp_path.chmod(0o700)
    registry.register(tmp_path, replace(own, pid_started=1))
    assert invoke("umount", tmp_path, "--run-dir", tmp_path).exit_code == 3
    assert registry.registered(tmp_path) == []


def test_what_is_not_ours_is_left_alone(invoke, tmp_path):
    done = invoke("umount", "/proc", "--run-dir", tmp_path)
    assert done.exit_code == 3
    assert "not of nebfs" in done.output


@pytest.fixture
def fusermount(monkeypatch, tmp_path):
    """Stand in for fusermount3 with a script that says what it is told to."""

    def write(script):
        path = tmp_path / "fusermount3"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(mounts, "tool", lambda name: str(path))

    return write


@pytest.mark.parametrize(
    ("said", "words", "code"),
    [
        ("failed to unmount /m: Device or resource busy", "in use", 1),
        ("entry for /m not found in /etc/mtab", "is not mounted any more", 3),
        ("umount: /m: not mounted.", "is not mounted", 3),
        ("failed to unmount /m: Operation not permitted", "Operation not permitted", 1),
    ],
)
def test_what_fusermount_says_is_understood(fusermount, said, words, code):
    fusermount(f"echo '{said}' >&2; exit 1")
    with pytest.raises(UserError, match=words) as caught:
        mounts.detach(Path("/m"), lazy=False)
    assert caught.value.exit_code == code


def test_a_mount_point_that_looks_like_an_option(fusermount, tmp_path):
    fusermount(f'echo "$@" > {tmp_path}/said')
    mounts.detach(Path("/m"), lazy=True)
    assert (tmp_path / "said").read_text() == "-u -z -- /m\n"


def test_no_tool_to_unmount_with(monkeypatch):
    monkeypatch.setattr(mounts, "tool", lambda name: None)
    with pytest.raises(UserError, match="package fuse3"):
        mounts.detach(Path("/m"), lazy=False)


def test_it_waits_for_the_daemon_and_no_longer(tmp_path):
    own = Registration.of_this_process(tmp_path, tmp_path, source="")
    with subprocess.Popen(["sleep", "60"]) as process:
        other = replace(own, pid=process.pid, pid_started=registry.process_start(process.pid))
        assert not umount.wait_until_gone(other, 0.01)
        process.kill()
        started = time.monotonic()
        assert umount.wait_until_gone(other, 30)
        assert time.monotonic() - started < 20
    assert umount.wait_until_gone(other, 30)
    reused = replace(own, pid=os.getpid(), pid_started=own.pid_started - 1)
    assert umount.wait_until_gone(reused, 30), "that number is another process's now"
