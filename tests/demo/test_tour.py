"""The tour with a stand-in for nebfs: a script that shows a prepared tree through a bind mount.

What nebfs itself makes of the demonstration is tested where the command line is.
"""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from nebfs.demo import tour
from nebfs.demo.tour import _is_mounted

STAND_IN = """
    import hashlib, os, shutil, subprocess, sys
    from pathlib import Path
    root, fault, command, *words = Path(sys.argv[1]), *sys.argv[2:]
    public = root / "images"

    def mount(url, place):
        if fault == "refuses":
            print("the front-end refused the credentials")
            sys.exit(77)
        tree = place.parent / "tree"
        for app, file, made in [
            ("Alpine Linux 3.20", "Alpine Linux 3.20.qcow2", "disk.qcow2"),
            ("Big Sparse Disk", "Big Sparse Disk.raw", "sparse.raw"),
        ]:
            folder = tree / "marketplaces" / "OpenNebula Public" / app
            folder.mkdir(parents=True)
            (folder / file).symlink_to(public / made)
        alpine = tree / "marketplaces/OpenNebula Public/Alpine Linux 3.20"
        disk = alpine / "Alpine Linux 3.20.qcow2"
        digest = hashlib.sha256(disk.read_bytes()).hexdigest()
        md5 = hashlib.md5(disk.read_bytes()).hexdigest()
        lines = [f"MD5 ({disk.name}) = {md5}", f"SHA256 ({disk.name}) = {digest}", ""]
        (alpine / "CHECKSUMS").write_text(os.linesep.join(lines))
        raw = tree / "raw" / alpine.relative_to(tree)
        raw.mkdir(parents=True)
        inside = raw / "Alpine Linux 3.20.raw"
        convert = ["qemu-img", "convert", "-O", "raw", disk, inside]
        subprocess.run(convert, check=True)
        images = tree / "datastores" / "default"
        images.mkdir(parents=True)
        shutil.copy(public / "disk.raw", images / "tiny raw.raw")
        if fault == "wrong byte":
            with (images / "tiny raw.raw").open("r+b") as file:
                file.write(b"x")
        subprocess.run(["mount", "--bind", tree, place], check=True)

    if command == "mount":
        mount(words[0], Path(words[1]))
    elif command == "umount":
        if fault == "umount fails":
            print("target is busy")
            sys.exit(1)
        subprocess.run(["umount", words[0]], check=True)
    else:
        print("healthy")
"""


class Lines:
    """A console that remembers."""

    def __init__(self):
        self.text = ""

    def print(self, *objects, markup=None, highlight=None):
        self.text += " ".join(map(str, objects)) + "\n"


def can_bind_mount(directory):
    for name in ("from", "to"):
        (directory / name).mkdir()
    try:
        subprocess.run(
            ["mount", "--bind", directory / "from", directory / "to"],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return False
    subprocess.run(["umount", directory / "to"], check=True)
    return True


@pytest.fixture
def take(cloud_root, tmp_path, monkeypatch):
    """Take the tour with a stand-in that has one fault; return the exit code and what was said."""
    script, scratch = tmp_path / "stand-in.py", tmp_path / "tmp"
    script.write_text(textwrap.dedent(STAND_IN))
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))

    def run(fault="none", **options):
        lines = Lines()
        code = tour(
            directory=cloud_root,
            keep=False,
            mount=(sys.executable, str(script), str(cloud_root), fault),
            console=lines,
            **options,
        )
        assert list(scratch.iterdir()) == []
        assert str(scratch) not in Path("/proc/self/mountinfo").read_text()
        return code, lines.text

    return run


@pytest.fixture
def mounts(tmp_path_factory):
    if not can_bind_mount(tmp_path_factory.mktemp("probe")):
        pytest.skip("needs the right to mount")


def test_refused_mount_is_told_and_cleaned_up(take):
    code, text = take("refuses")
    assert code == 1
    assert "mount exited with 77 and said: the front-end refused the credentials" in text


def test_tour_to_its_end(take, mounts):
    code, text = take()
    assert code == 0, text
    assert "Everything was as it must be." in text
    for line in ("OpenNebula Public/", "SHA-256 as published", "identical", ": OK", "healthy"):
        assert line in text
    assert "opennebula\n" not in text  # the password


def test_wrong_byte_fails_the_tour(take, mounts):
    code, text = take("wrong byte")
    assert code == 1
    assert "differ" in text


def test_failing_umount_is_told_and_the_mount_is_taken_away(take, mounts):
    code, text = take("umount fails")
    assert code == 1
    assert "umount failed: target is busy" in text


def test_kernels_table_is_read_with_its_escapes(mounts, tmp_path):
    place = tmp_path / "a b"
    place.mkdir()
    assert not _is_mounted(place)
    subprocess.run(["mount", "--bind", place, place], check=True)
    try:
        assert _is_mounted(place)
    finally:
        subprocess.run(["umount", place], check=True)
