"""Whose a path is, found without asking the mount."""

from dataclasses import replace
from pathlib import Path

import pytest

from nebfs.cli import exits, mounts
from nebfs.cli.daemons import NAMED, instead, nothing_at, place_of
from nebfs.daemon import registry
from nebfs.daemon.registry import Registration
from nebfs.errors import UserError


@pytest.fixture
def run_dir(tmp_path):
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def mount(tmp_path, monkeypatch):
    """A mount of ours, as far as the mount table goes: nothing in it can be looked at."""
    where = tmp_path / "mnt"
    table = tmp_path / "mountinfo"
    table.write_text(f"1 0 0:1 / / rw - ext4 /dev/x rw\n2 1 0:2 / {where} ro - fuse.nebfs h ro\n")
    monkeypatch.setattr(mounts, "MOUNTINFO", table)
    return where


@pytest.fixture
def own(run_dir, mount):
    found = Registration.of_this_process(run_dir, mount, source="h")
    registry.register(run_dir, found)
    return found


def test_what_is_inside_is_told_from_the_mounts_root_on(run_dir, mount, own, tmp_path, monkeypatch):
    place = place_of(mount / "datastores/a b", run_dir)
    assert (place.inside, place.socket) == ("datastores/a b", Path(own.socket))
    assert place_of(mount, run_dir).inside == "."
    monkeypatch.chdir(tmp_path)
    assert place_of(Path("mnt/x"), run_dir).inside == "x"


def test_links_that_lead_into_the_mount_are_followed(run_dir, mount, own, tmp_path):
    (tmp_path / "to").symlink_to(mount)
    (tmp_path / "deeper").symlink_to(mount / "datastores")
    assert place_of(tmp_path / "to/datastores/x", run_dir).inside == "datastores/x"
    assert place_of(tmp_path / "deeper/x", run_dir).inside == "datastores/x"


def test_what_is_in_no_mount_has_no_daemon(run_dir, mount, tmp_path):
    with pytest.raises(UserError, match="not in a mount of nebfs") as failed:
        place_of(tmp_path / "x", run_dir)
    assert failed.value.exit_code == exits.NOT_MOUNTED


@pytest.fixture
def mounts_of_this_user(run_dir, tmp_path):
    """Register daemons of this process, and put those that are not `detached` into the table."""

    def make(*places, alive=True, detached=False):
        for place in places:
            made = Registration.of_this_process(run_dir, Path(place), source="h")
            registry.register(run_dir, made if alive else replace(made, pid_started=1))
            if not detached:
                with mounts.MOUNTINFO.open("a") as table:
                    table.write(f"3 1 0:3 / {place} ro - fuse.nebfs h ro\n")

    return make


REFUSING = [["status"], ["status", "-l"], ["umount"], ["explain"], ["refresh"], ["warm"], ["pin"]]
REFUSING += [["verify"], ["dashboard"], ["cache", "usage"], ["cache", "drop"], ["cache", "map"]]


@pytest.mark.parametrize("words", REFUSING, ids=" ".join)
def test_every_command_says_what_could_be_meant_in_place_of_a_mount_that_there_is_not(
    invoke, run_dir, mount, mounts_of_this_user, tmp_path, words
):
    none = tmp_path / "none"
    done = invoke(*words, none, "--run-dir", run_dir)
    assert done.exit_code == exits.NOT_MOUNTED
    assert "nothing is mounted by this user: 'nebfs mount SOURCE MOUNTPOINT' mounts" in done.output
    mounts_of_this_user("/mnt/one", "/mnt/two")
    mounts_of_this_user("/mnt/detached", detached=True)
    mounts_of_this_user("/mnt/dead", alive=False)
    done = invoke(*words, none, "--run-dir", run_dir)
    assert done.exit_code == exits.NOT_MOUNTED
    assert str(none) in done.output
    assert done.output.endswith("; this user has mounted /mnt/one, /mnt/two\n")


def test_of_many_mounts_some_are_named(run_dir, mount, mounts_of_this_user):
    mounts_of_this_user(*(f"/mnt/{number:02}" for number in range(NAMED + 2)))
    assert instead(run_dir).endswith(
        f", /mnt/{NAMED - 1:02} and 2 more, which 'nebfs status' shows"
    )


def test_where_only_dead_daemons_are_left_it_says_how_they_are_cleared(
    run_dir, mount, mounts_of_this_user
):
    mounts_of_this_user("/mnt/dead", alive=False)
    words = "the daemon of /mnt/dead is gone: 'nebfs umount /mnt/dead' clears what it left"
    assert instead(run_dir) == words


def test_the_mount_of_another_filesystem_is_none_of_nebfs(run_dir, mount):
    said = nothing_at(Path("/"), run_dir)
    assert said.startswith("/ is a mount of /dev/x (ext4), not of nebfs; nothing is mounted by ")


def test_a_daemon_that_is_unknown_or_gone(run_dir, mount):
    with pytest.raises(UserError, match="registered elsewhere: name its directory with --run-dir"):
        place_of(mount / "x", run_dir)
    own = Registration.of_this_process(run_dir, mount, source="h")
    registry.register(run_dir, replace(own, pid_started=1))
    with pytest.raises(UserError, match="is gone; 'nebfs umount"):
        place_of(mount / "x", run_dir)


@pytest.mark.parametrize(
    ("owner", "words"),
    [
        (0, "is mounted by user root: ask as root, or as root with --run-dir /run/nebfs"),
        (54321, "by user 54321: ask as 54321, or as root with --run-dir /run/user/54321/nebfs"),
    ],
)
def test_a_mount_of_another_user_says_whose_it_is(run_dir, mount, monkeypatch, owner, words):
    table = mounts.MOUNTINFO.read_text().replace(
        "fuse.nebfs h ro", f"fuse.nebfs h ro,user_id={owner},group_id=0"
    )
    mounts.MOUNTINFO.write_text(table)
    monkeypatch.setattr("nebfs.cli.daemons.os.geteuid", lambda: 999)
    with pytest.raises(UserError) as failed:
        place_of(mount / "x", run_dir)
    assert words in str(failed.value)
    assert failed.value.exit_code == exits.NOT_MOUNTED
    found = mounts.mounted_at(mount)
    assert found is not None
    assert found.owner == owner
    assert mounts.mounted_at(Path("/")).owner is None
