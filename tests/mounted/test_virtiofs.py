"""Images that are directories of this machine, through a mount: as they are, and never left."""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
import stat
import subprocess

import pytest

from nebfs.demo.records import DatastoreRecord, ImageRecord
from nebfs.model import ImageType

pytestmark = pytest.mark.mounted


@pytest.fixture
def share(tmp_path):
    """A directory with all that there may be in one, and something beside it."""
    (tmp_path / "beside").write_text("canary-beside")
    made = tmp_path / "shares" / "home"
    (made / "a/b/c").mkdir(parents=True)
    (made / "a/file").write_bytes(os.urandom((1 << 20) + 5))
    (made / "a/b/empty").touch()
    (made / "a/b/run").write_text("#!/bin/sh\necho ran\n")
    (made / "a/b/run").chmod(0o755)
    (made / "a/secret").write_text("s")
    (made / "a/secret").chmod(0o600)
    os.utime(made / "a/file", (1_600_000_000, 1_600_000_000))
    os.symlink("/etc/shadow", made / "shadow")
    os.symlink("../../beside", made / "out")
    os.symlink("a/file", made / "within")
    os.symlink("../..", made / "up")
    (made / os.fsdecode(b"caf\xe9 \xff")).write_text("bytes")
    return made


@pytest.fixture
def mounted(cloud, servers, make_mount, share, tmp_path):
    cloud.datastores[170] = DatastoreRecord(170, "shares", driver="virtiofs")
    for number, name, source in [(500, "home", share), (501, "other", "/etc")]:
        cloud.images[number] = ImageRecord(
            number,
            name,
            datastore_id=170,
            datastore="shares",
            type=ImageType.FILESYSTEM,
            source=str(source),
            format="dir",
        )
    config = tmp_path / "nebfs.toml"
    config.write_text(f'[datastores]\ndirectories = ["{share.parent}"]\n')
    mount = make_mount(servers.frontend_url, "-o", f"config={config}")
    mount.start()
    return mount


@pytest.fixture
def seen(mounted):
    return mounted.path / "datastores/shares/home"


def listed(directory):
    return sorted(
        subprocess.run(
            ["find", ".", "-printf", r"%P %y %l\0"], cwd=directory, capture_output=True, check=True
        ).stdout.split(b"\0")
    )


def test_it_is_the_directory_as_it_is(seen, share, tmp_path, tools):
    assert listed(seen) == listed(share)
    tools.run("cp", "-r", "--preserve=timestamps,mode,links", seen, tmp_path / "copy")
    assert listed(tmp_path / "copy") == listed(share)
    assert filecmp.cmp(tmp_path / "copy/a/file", share / "a/file", shallow=False)
    facts = (seen / "a/file").stat()
    assert (facts.st_mtime, facts.st_size) == (1_600_000_000, (1 << 20) + 5)
    assert facts.st_blocks > 0
    long = tools.run("ls", "-l", seen / "a/b").stdout
    assert "-r-xr-xr-x" in long
    assert stat.S_IMODE((seen / "a/secret").stat().st_mode) == 0o400
    done = tools.run("rsync", "-rlptc", "--itemize-changes", "-n", f"{seen}/", f"{tmp_path}/copy/")
    assert done.stdout == ""
    assert tools.xattr(seen, "user.one.TYPE") == "FILESYSTEM"


def test_a_link_is_shown_and_not_followed(seen, share, tools):
    assert os.readlink(seen / "shadow") == "/etc/shadow"
    assert stat.S_ISLNK(os.lstat(seen / "shadow").st_mode)
    assert os.lstat(seen / "shadow").st_size == len("/etc/shadow")
    assert (seen / "within").read_bytes() == (share / "a/file").read_bytes()
    # Its reader resolves it where he is: inside the mount there is no such name.
    with pytest.raises(FileNotFoundError):
        (seen / "out").read_text()
    assert sorted(os.listdir(seen / "up")) == sorted(os.listdir(seen.parent.parent))


def test_nothing_above_it_is_reached(seen, mounted, tools):
    assert os.path.samefile(seen / "a/..", seen)
    assert os.path.samefile(f"{seen}/a/b/../../..", seen.parent)
    with pytest.raises(FileNotFoundError):
        open(f"{seen}/a/../../beside")
    other = seen.parent / "other"
    assert stat.S_IMODE(os.lstat(other).st_mode) == 0
    with pytest.raises(PermissionError):
        other.read_bytes()
    assert "[datastores] directories" in tools.xattr(other, "user.nebfs.trouble")
    assert "canary" not in mounted.log


def test_what_changes_is_seen(seen, share, tools):
    assert (seen / "a/secret").read_text() == "s"
    with open(seen / "a/secret") as file:
        (share / "a/secret").write_text("longer now")
        assert file.read() == "longer now"
        with open(share / "a/secret", "a") as more:
            more.write(", and longer")
        assert file.read() == ", and longer"
    (share / "a/new").write_text("new")
    assert (seen / "a/new").read_text() == "new"
    assert "new" in os.listdir(seen / "a")
    tools.wait_until(lambda: (seen / "a/secret").stat().st_size == 22)
    (share / "a/new").unlink()
    tools.wait_until(lambda: not (seen / "a/new").exists())
    assert "new" not in os.listdir(seen / "a")
    (share / "a/file").unlink()
    (share / "a/file").mkdir()
    tools.wait_until((seen / "a/file").is_dir)


def test_a_directory_that_became_a_link_does_not_lead_out(seen, share, tmp_path, tools):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("canary-outside")
    (tmp_path / "outside/run").write_text("canary-outside")
    inside = os.open(seen / "a/b", os.O_RDONLY)
    try:
        assert "run" in os.listdir(inside)
        shutil.move(share / "a/b", tmp_path / "moved")
        os.symlink(tmp_path / "outside", share / "a/b")
        for name in ("run", "file", "empty"):
            with pytest.raises(OSError) as caught:
                os.close(os.open(name, os.O_RDONLY, dir_fd=inside))
            assert caught.value.errno in {errno.ESTALE, errno.ENOENT}
    finally:
        os.close(inside)
    tools.wait_until(lambda: os.path.islink(seen / "a/b"))
    # Whoever follows it goes there on his own, as with any link.
    assert os.readlink(seen / "a/b") == str(tmp_path / "outside")


def test_what_is_no_file_is_shown_as_what_it_is_and_never_opened(seen, share, tmp_path, tools):
    os.mkfifo(share / "pipe", 0o666)
    os.mknod(share / "socket", stat.S_IFSOCK | 0o666)
    if os.geteuid() == 0:
        os.mknod(share / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        with pytest.raises(PermissionError):  # the mount is nodev
            open(seen / "null", "rb")
    for name in ("pipe", "socket"):
        mode, same = os.lstat(seen / name).st_mode, os.lstat(share / name).st_mode
        assert stat.S_IFMT(mode) == stat.S_IFMT(same)
        assert stat.S_IMODE(mode) == 0
    tools.run("cp", "-r", seen, tmp_path / "copy")
    assert stat.S_ISFIFO(os.lstat(tmp_path / "copy/pipe").st_mode)


def test_a_directory_of_thousands_is_listed_whole(seen, share):
    (share / "many").mkdir()
    for number in range(3000):
        (share / f"many/{number}").touch()
    assert sorted(os.listdir(seen / "many"), key=int) == [str(n) for n in range(3000)]
    assert sum(1 for _ in os.scandir(seen / "many")) == 3000


def test_nothing_can_be_written_there(seen):
    for change in (
        lambda: (seen / "a/secret").write_text("x"),
        (seen / "x").touch,
        (seen / "a/secret").unlink,
        lambda: (seen / "a").rename(seen / "z"),
        lambda: (seen / "a/secret").chmod(0o777),
    ):
        with pytest.raises(OSError) as caught:
            change()
        assert caught.value.errno == errno.EROFS


def test_an_image_that_goes_takes_its_directory_along(seen, cloud, mounted, tools):
    inside = os.open(seen / "a", os.O_RDONLY)
    try:
        del cloud.images[500]
        mounted.refresh()
        tools.wait_until(lambda: not seen.exists())
        for name in ("secret", "file", "b"):
            with pytest.raises(OSError):
                os.close(os.open(name, os.O_RDONLY, dir_fd=inside))
    finally:
        os.close(inside)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts inside of the shared directory")
def test_a_mount_of_nebfs_in_the_shared_directory_is_not_entered(seen, share, mounted):
    (share / "loop").mkdir()
    subprocess.run(["mount", "--bind", mounted.path, share / "loop"], check=True)
    try:
        with pytest.raises(PermissionError):
            os.listdir(seen / "loop")
    finally:
        subprocess.run(["umount", share / "loop"], check=True)
    assert "shadow" in os.listdir(seen)
