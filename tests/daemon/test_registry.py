"""Registrations: who is mounted where, and whether he lives."""

import json
import os
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebfs.daemon import registry
from nebfs.daemon.registry import Registration
from nebfs.errors import UserError


@pytest.fixture
def run_dir(tmp_path):
    return tmp_path / "run"


def registration(run_dir, place="/mnt/one", **changes):
    own = Registration.of_this_process(run_dir, Path(place), source="http://u:canary@h:2633/RPC2")
    return replace(own, **changes)


def test_what_is_registered_is_found(run_dir):
    own = registration(run_dir)
    registry.register(run_dir, own)
    assert registry.find(run_dir, Path("/mnt/one")) == own
    assert registry.running(run_dir) == registry.registered(run_dir) == [own]
    registry.unregister(run_dir, Path("/mnt/one"))
    assert registry.registered(run_dir) == []
    assert registry.find(run_dir, Path("/mnt/one")) is None
    registry.unregister(run_dir, Path("/mnt/one"))


def test_only_the_owner_may_look(run_dir):
    registry.register(run_dir, registration(run_dir))
    assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700
    (file,) = run_dir.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "canary" not in file.read_text()


def test_a_number_that_is_used_again_is_not_our_daemon(run_dir):
    own = registration(run_dir)
    registry.register(run_dir, replace(own, pid_started=own.pid_started - 1))
    assert registry.running(run_dir) == []
    assert len(registry.registered(run_dir)) == 1


def test_a_dead_daemon_is_registered_but_not_running(run_dir):
    process = subprocess.Popen(["sleep", "100"])
    started = registry.process_start(process.pid)
    own = registration(run_dir, pid=process.pid, pid_started=started)
    assert own.alive
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not own.alive, "a zombie counts as alive"
    process.wait()
    assert not own.alive
    assert registry.process_start(process.pid) is None


def test_a_program_with_brackets_in_its_name(tmp_path):
    program = tmp_path / "a) S (b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "100"]) as process:
        try:
            assert registry.process_start(process.pid) >= registry.process_start(os.getpid())
        finally:
            process.kill()


def test_foreign_files_in_the_run_directory_are_passed_over(run_dir):
    registry.register(run_dir, registration(run_dir))
    (run_dir / "junk.json").write_text("{")
    (run_dir / "list.json").write_text("[]")
    (run_dir / "later.json").write_text('{"version": 9}')
    (run_dir / "types.json").write_text(
        json.dumps({**json.loads((run_dir / "mnt-one.json").read_text()), "pid": "1"})
    )
    (run_dir / "directory.json").mkdir()
    assert [one.mountpoint for one in registry.registered(run_dir)] == ["/mnt/one"]


def test_no_run_directory_is_nobody_mounted(run_dir):
    assert registry.registered(run_dir) == []


def test_somebody_elses_run_directory_is_refused(run_dir, monkeypatch):
    run_dir.mkdir(mode=0o700)
    registry.prepare(run_dir)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(UserError, match="belongs to user"):
        registry.prepare(run_dir)


def test_a_run_directory_that_others_may_write_to_is_refused(run_dir):
    run_dir.mkdir()
    run_dir.chmod(0o777)
    with pytest.raises(UserError, match="chmod go-w"):
        registry.prepare(run_dir)


def test_a_link_in_place_of_the_run_directory_is_refused(run_dir, tmp_path):
    run_dir.symlink_to(tmp_path)
    with pytest.raises(UserError, match="not a directory"):
        registry.prepare(run_dir)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made"):
        registry.prepare(tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/mnt/one", "mnt-one"),
        ("/mnt//one/", "mnt-one"),
        ("/", "-"),
        ("/mnt/a-b", r"mnt-a\x2db"),
        ("/.hidden", r"\x2ehidden"),
        ("/mnt/a b", r"mnt-a\x20b"),
        ("/mnt/ä", r"mnt-\xc3\xa4"),
    ],
)
def test_names_are_escaped_as_systemd_does(path, name):
    assert registry.name_of(Path(path)) == name


paths = st.lists(
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1),
    max_size=6,
).map(lambda parts: Path("/", *[p for p in parts if p not in {".", ".."}]))


@settings(deadline=None)  # of one example: what is slow here is a busy machine
@given(paths, paths)
def test_two_mount_points_have_two_names_that_fit_a_socket(one, other):
    names = registry.name_of(one), registry.name_of(other)
    assert (names[0] == names[1]) == (one == other)
    assert all(name.isascii() and "/" not in name for name in names)
    assert all(0 < len(name) <= registry.LONGEST_NAME for name in names)
