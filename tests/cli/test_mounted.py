"""mount, status, ls and umount on a real mount of an empty public marketplace."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nebfs.cli.mounts import is_dead, mounted_at
from nebfs.daemon.registry import process_start

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="no /dev/fuse"),
]


@pytest.fixture
def mounted(shell, market):
    def mount(*words):
        done = shell("mount", "--marketplace", market, shell.mountpoint, *words)
        assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
        return done

    mount()
    shell.again = mount
    return shell


def kill_daemon(shell):
    (one,) = shell.registrations()
    process = os.pidfd_open(one["pid"])
    os.kill(one["pid"], signal.SIGKILL)
    os.close(process)
    until = time.monotonic() + 20
    while not is_dead(shell.mountpoint):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_mounted_listed_asked_and_unmounted(mounted):
    assert mounted_at(mounted.mountpoint).ours
    done = mounted("status")
    assert done.returncode == 0
    assert "healthy" in done.stdout
    assert str(mounted.mountpoint) in done.stdout
    (one,) = json.loads(mounted("status", mounted.mountpoint, "--json").stdout)
    assert one["state"] == "healthy"
    assert one["answer"]["healthy"] is True
    assert "mount.ready" in Path(one["log_file"]).read_text()
    done = mounted("ls", "m")
    assert (done.returncode, done.stderr) == (0, "")
    assert "marketplaces/" in done.stdout.splitlines()
    done = mounted("umount", "m")
    assert (done.returncode, done.stderr) == (0, "")
    assert mounted_at(mounted.mountpoint) is None
    assert mounted.registrations() == []
    assert not list(mounted.run_dir.glob("*.sock"))
    assert process_start(one["pid"]) is None, "umount did not wait for the daemon"


def test_mounting_twice_is_refused_and_tells_by_whom(mounted, market):
    done = mounted("mount", "--marketplace", market, "m")
    (one,) = mounted.registrations()
    assert done.returncode == 32
    assert f"nebfs of {market}, process {one['pid']}" in done.stderr


def test_a_busy_mount_is_not_taken_away(mounted):
    with subprocess.Popen(["sleep", "60"], cwd=mounted.mountpoint) as user:
        try:
            done = mounted("umount", "m")
            assert done.returncode == 1
            assert "in use" in done.stderr
            assert "--lazy" in done.stderr
            assert mounted_at(mounted.mountpoint)
        finally:
            user.kill()
    assert mounted("umount", "m").returncode == 0


def test_a_killed_daemon_is_shown_dead_and_its_mount_is_cleared_by_umount(mounted):
    kill_daemon(mounted)
    done = mounted("status")
    assert done.returncode == 4
    assert "dead" in done.stdout
    assert f"nebfs umount {mounted.mountpoint}" in done.stdout
    assert mounted("umount", "m").returncode == 0
    assert mounted_at(mounted.mountpoint) is None
    assert mounted("status").returncode == 3


def test_a_killed_daemons_mount_is_cleared_by_the_next_mount(mounted):
    kill_daemon(mounted)
    assert "cleared the dead mount" in mounted.again().stderr
    assert not is_dead(mounted.mountpoint)
    assert mounted("status").returncode == 0
    assert mounted("umount", "m").returncode == 0


def test_the_foreground_serves_until_it_is_told_to_end(shell, market):
    with subprocess.Popen(
        [sys.executable, "-m", "nebfs.cli", "mount", "-f", "--marketplace", market, "m"],
        env=shell.environment,
        cwd=shell.home,
        stderr=subprocess.PIPE,
        text=True,
    ) as daemon:
        until = time.monotonic() + 30
        while not shell.registrations():
            assert time.monotonic() < until
            assert daemon.poll() is None, daemon.stderr.read()
            time.sleep(0.05)
        daemon.terminate()
        said = daemon.stderr.read()
        assert daemon.wait(30) == 0, said
    assert "Traceback" not in said
    assert mounted_at(shell.mountpoint) is None


def test_a_place_that_cannot_be_reached_fails_the_mount(shell):
    done = shell("mount", "--marketplace", "http://127.0.0.1:9/", "m")
    assert done.returncode == 69
    assert "Traceback" not in done.stderr
    assert mounted_at(shell.mountpoint) is None
