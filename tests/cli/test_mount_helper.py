"""mount.nebfs: the words of mount(8), and real mount(8), umount(8) and findmnt(8) with a fstab."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nebfs.cli import mount_helper
from nebfs.cli.checks import check_mountpoint
from nebfs.cli.mounts import mounted_at
from nebfs.cli.options import parse_options
from nebfs.errors import UserError

CHECKOUT = Path(__file__).resolve().parents[2]
HELPER = [sys.executable, "-m", "nebfs.cli.mount_helper"]


def settings(*texts, source="nebfs", **how):
    return parse_options(mount_helper.translated(texts, source, **how))


def test_what_mount_adds_by_itself_is_taken():
    found = settings("rw,noexec,_netdev,x-systemd.automount", "cache_size=1G,config=/a\\,b")
    assert found == {"fsname": "nebfs", "cache_size": "1G", "config_file": "/a,b"}


def test_a_backslash_stays_what_it_was():
    assert settings(r"cache_dir=/a\\\,b\c")["cache_dir"] == r"/a\,b\c"


def test_the_mount_table_names_what_fstab_names_but_no_password():
    url = "http://one:secret@h:2633/RPC2"
    assert settings("rw", source=url)["fsname"] == "http://h:2633/RPC2"
    assert settings("fsname=mine", source=url)["fsname"] == "mine"


def test_unknown_options_are_refused_or_left_out_if_that_is_asked_for(capsys):
    with pytest.raises(UserError, match="did you mean cache_size"):
        settings("cache_szie=1G")
    assert settings("cache_szie=1G,uid=3", sloppy=True) == {"fsname": "nebfs", "uid": "3"}
    assert "cache_szie" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["-o", "remount,ro"], 32, "unmount it, and mount it again"),
        (["-o", "cache_szie=1G"], 1, "did you mean cache_size"),
        (["-o", "config=/nonexistent.toml"], 1, "/nonexistent.toml"),
        (["-t", "ext4"], 1, "the type ext4"),
        (["-N", "/proc/1/ns/mnt"], 1, "nsenter"),
        (["-x"], 1, "No such option"),
        (["-f", "-n", "-v", "-s", "-o", "rw,colour=red", "-t", "nebfs"], 0, "left out"),
    ],
)
def test_answers_are_in_the_numbers_of_mount(monkeypatch, capsys, tmp_path, words, code, said):
    monkeypatch.setattr(sys, "argv", ["mount.nebfs", "none", str(tmp_path), *words])
    with pytest.raises(SystemExit) as ended:
        mount_helper.main()
    shown = capsys.readouterr()
    assert (ended.value.code, shown.out) == (code, ""), shown.err
    assert said in shown.err


# --- with mount(8) --------------------------------------------------------------------------------


class Machine:
    """A mount namespace in which /sbin has mount.nebfs, and mount(8) has hardly an environment."""

    def __init__(self, home, market):
        self.home, self.mountpoint, self.fstab = home, home / "m n", home / "fstab"
        for made in (self.mountpoint, home / "run", home / "over"):
            made.mkdir(mode=0o700)
        (home / "one.toml").write_text(
            f'marketplaces = ["{market}"]\nrun_dir = "{home}/run"\ncache_dir = "{home}/cache"\n'
        )
        place = str(self.mountpoint).replace(" ", "\\040")
        options = f"ro,_netdev,nofail,x-systemd.mount-timeout=90,config={home}/one.toml,allow_other"
        self.fstab.write_text(f"nebfs {place} nebfs {options} 0 0\n")
        body = f'exec {shlex.join(HELPER)} "$@"'
        (home / "helper").write_text(f"#!/bin/sh\nexport PYTHONPATH={CHECKOUT}\n{body}\n")
        (home / "helper").chmod(0o755)
        sbin = os.path.realpath("/sbin")
        layers = f"lowerdir={sbin},upperdir={home}/over/u,workdir={home}/over/w"
        script = (
            f"mount -t tmpfs tmpfs {home}/over &&"
            f" mkdir {home}/over/u {home}/over/w && mount -t overlay -o {layers} overlay {sbin} &&"
            f" ln -s {home}/helper {sbin}/mount.nebfs && echo made && exec sleep 300"
        )
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.holder.stdout.readline() == "made\n"

    def __call__(self, *words):
        return subprocess.run(
            ["nsenter", "-t", str(self.holder.pid), "--mount", "env", "-i", *map(str, words)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            cwd="/",
        )

    def mount(self, *words):
        return self("/usr/bin/mount", "-T", self.fstab, *words)

    @property
    def daemons(self):
        return [json.loads(one.read_bytes())["pid"] for one in (self.home / "run").glob("*.json")]

    def clean_up(self):
        for pid in self.daemons:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.holder.kill()
        self.holder.wait()
        self.holder.stdout.close()


@pytest.fixture
def machine(tmp_path, market):
    made = Machine(tmp_path, market)
    yield made
    made.clean_up()


def wait_until(condition):
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


@pytest.mark.mounted
def test_a_line_of_fstab_is_mounted_found_refused_twice_and_unmounted(machine):
    done = machine.mount("-a")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done.stderr
    found = machine("/usr/bin/findmnt", "--json", machine.mountpoint)
    (one,) = json.loads(found.stdout)["filesystems"]
    assert (one["source"], one["fstype"]) == ("nebfs", "fuse.nebfs")
    assert {"ro", "allow_other"} <= set(one["options"].split(","))
    listed = machine("/usr/bin/ls", machine.mountpoint)
    assert listed.stdout.split() == ["marketplaces", "raw"], listed.stderr

    again = machine.mount("-a")  # it is mounted already: there is nothing to do
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    twice = machine.mount(machine.mountpoint)
    assert twice.returncode == 32
    assert "already" in twice.stderr
    changed = machine.mount("-o", "remount", machine.mountpoint)
    assert changed.returncode == 32
    assert "unmount it, and mount it again" in changed.stderr

    (pid,) = machine.daemons
    done = machine("/usr/bin/umount", machine.mountpoint)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    wait_until(lambda: not Path(f"/proc/{pid}").exists())
    assert machine.daemons == []


@pytest.mark.mounted
def test_a_mount_that_died_is_cleared_by_the_next_mount(machine):
    assert machine.mount("-a").returncode == 0
    (pid,) = machine.daemons
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: "not connected" in machine("/usr/bin/ls", machine.mountpoint).stderr)
    done = machine.mount(machine.mountpoint)
    assert done.returncode == 0, done.stderr
    assert "cleared the dead mount" in done.stderr
    assert machine("/usr/bin/ls", machine.mountpoint).stdout.split() == ["marketplaces", "raw"]
    table = machine("/usr/bin/findmnt", "-n", "-t", "fuse.nebfs").stdout
    assert table.count(str(machine.mountpoint)) == 1
    assert machine("/usr/bin/umount", machine.mountpoint).returncode == 0


@pytest.mark.mounted
def test_a_place_that_cannot_be_reached_fails_as_a_mount_does(machine):
    settings = machine.home / "one.toml"
    settings.write_text(
        f'marketplaces = ["http://127.0.0.1:9/"]\nrun_dir = "{machine.home}/run"\n'
        f'cache_dir = "{machine.home}/cache"\n'
    )
    done = machine.mount(machine.mountpoint)
    assert done.returncode == 32
    assert "127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


# --- what is cleared, and what is not -------------------------------------------------------------


@pytest.fixture
def dead_mounts():
    """Make FUSE mounts of any type whose program is gone; `hold` keeps it there, silent."""
    made, held = [], []

    def make(path, kind, *, hold=False):
        device = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
        subprocess.run(
            ["mount", "-i", "-t", kind, "-o", options, "somebody", path],
            pass_fds=(device,),
            check=True,
        )
        made.append(path)
        if hold:
            held.append(device)
        else:
            os.close(device)

    yield make
    for device in held:
        os.close(device)
    for path in reversed(made):
        subprocess.run(["umount", "-l", path], stderr=subprocess.DEVNULL)


@pytest.mark.mounted
def test_a_dead_mount_of_something_else_is_left_where_it_is(dead_mounts, any_fuse, tmp_path):
    place = tmp_path / "m"
    place.mkdir()
    dead_mounts(place, "fuse.sshfs")
    with pytest.raises(UserError, match="dead mount of somebody"):
        check_mountpoint(place, tmp_path)
    assert mounted_at(place).fstype == "fuse.sshfs"
    # Ours upon it goes, and then the other is found.
    dead_mounts(place, "fuse.nebfs")
    with pytest.raises(UserError, match="dead mount of somebody"):
        check_mountpoint(place, tmp_path)
    assert mounted_at(place).fstype == "fuse.sshfs"


@pytest.mark.mounted
def test_a_dead_mount_of_ours_is_cleared_and_one_beside_it_is_not(dead_mounts, any_fuse, tmp_path):
    place, beside = tmp_path / "m", tmp_path / "n"
    place.mkdir()
    beside.mkdir()
    dead_mounts(place, "fuse.nebfs")
    dead_mounts(beside, "fuse.nebfs")
    check_mountpoint(place, tmp_path)
    assert mounted_at(place) is None
    assert mounted_at(beside).ours


@pytest.mark.mounted
def test_a_mount_that_hangs_is_not_dead(dead_mounts, any_fuse, monkeypatch, tmp_path):
    monkeypatch.setattr("nebfs.cli.mounts.HANGS_AFTER", 0.3)
    place = tmp_path / "m"
    place.mkdir()
    dead_mounts(place, "fuse.nebfs", hold=True)
    with pytest.raises(UserError, match="already a mount"):
        check_mountpoint(place, tmp_path)
    assert mounted_at(place).ours
