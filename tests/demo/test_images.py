"""The demonstration's images: real, the same every time, made once, never silently broken."""

import hashlib
import subprocess
import threading

import pytest

from nebfs.demo import images as images_module
from nebfs.demo.cloud import digests
from nebfs.demo.images import SPARSE_ISLANDS, SPARSE_SIZE, make_images, pattern
from nebfs.errors import UserError


@pytest.fixture(scope="session")
def made(cloud_root):
    return make_images(cloud_root / "images")


@pytest.mark.parametrize(
    ("key", "offset", "magic"),
    [
        ("raw", 0x438, b"\x53\xef"),  # the superblock of ext2 and its heirs
        ("qcow2", 0, b"QFI\xfb"),
        ("iso", 0x8001, b"CD001"),
        ("data_gz", 0, b"\x1f\x8b"),
        ("kernel", 0x202, b"HdrS"),
    ],
)
def test_files_are_what_they_say(made, key, offset, magic):
    with getattr(made, key).path.open("rb") as file:
        file.seek(offset)
        assert file.read(len(magic)) == magic


def test_tools_find_the_disks_whole(made):
    subprocess.run(["qemu-img", "compare", made.raw.path, made.qcow2.path], check=True)
    subprocess.run(["e2fsck", "-fn", made.raw.path], check=True, capture_output=True)
    subprocess.run(["gzip", "-t", made.data_gz.path], check=True)


def test_the_disk_holds_the_files(made):
    text = subprocess.check_output(
        ["debugfs", "-R", "cat /README.txt", made.raw.path], stderr=subprocess.DEVNULL
    )
    assert b"nebfs demo" in text


def test_digests_and_sizes_are_the_files_own(made):
    for one in (made.raw, made.qcow2, made.iso, made.data, made.data_gz, made.kernel):
        assert one.path.stat().st_size == one.size
        assert digests(one.path) == (one.md5, one.sha256)
    assert made.qcow2.size_mb == made.raw.size_mb == 64
    assert made.data_gz.virtual_size == made.data.size


def test_sparse_disk_takes_little_and_no_two_blocks_are_alike(made):
    status = made.sparse.path.stat()
    assert status.st_size == SPARSE_SIZE
    assert status.st_blocks * 512 < 16 << 20
    blocks = set()
    with made.sparse.path.open("rb") as file:
        for offset, length in SPARSE_ISLANDS:
            file.seek(offset)
            data = file.read(length)
            assert data == pattern(offset, length, "sparse")
            blocks |= {data[i : i + 4096] for i in range(0, length, 4096)}
    assert len(blocks) == sum(length for _, length in SPARSE_ISLANDS) // 4096


def test_known_digests_of_the_sparse_disk_are_right(made):
    # Both at once, without reading the holes: hashlib lets go of the interpreter's lock.
    results = {}

    def compute(name):
        digest, at, zeros = hashlib.new(name), 0, bytes(1 << 20)
        for offset, length in [*SPARSE_ISLANDS, (SPARSE_SIZE, 0)]:
            for _ in range((offset - at) >> 20):
                digest.update(zeros)
            digest.update(pattern(offset, length, "sparse"))
            at = offset + length
        results[name] = digest.hexdigest()

    threads = [threading.Thread(target=compute, args=(name,)) for name in ("md5", "sha256")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {"md5": made.sparse.md5, "sha256": made.sparse.sha256}


def test_made_again_they_are_the_same(made, tmp_path):
    again = make_images(tmp_path)
    for key in images_module._NAMES:
        assert getattr(again, key).sha256 == getattr(made, key).sha256, key


def test_intact_images_are_kept_and_broken_ones_made_again(tmp_path, monkeypatch):
    first = make_images(tmp_path)
    ran = []
    run = images_module._run
    monkeypatch.setattr(images_module, "_run", lambda *a, **k: ran.append(a[0]) or run(*a, **k))
    assert make_images(tmp_path) == first
    assert ran == []
    with first.iso.path.open("r+b") as file:
        file.truncate(1000)
    assert make_images(tmp_path) == first
    assert "xorriso" in ran
    assert digests(first.iso.path)[1] == first.iso.sha256


def test_half_written_manifest_is_no_obstacle(tmp_path):
    (tmp_path / "manifest.json").write_text('{"recipe": 1, "images": {"raw"')
    assert make_images(tmp_path).raw.path.exists()


def test_missing_tool_names_its_package(tmp_path, monkeypatch):
    monkeypatch.setattr(images_module, "_search_path", lambda: str(tmp_path))
    with pytest.raises(UserError, match=r"mke2fs.*install the package e2fsprogs"):
        make_images(tmp_path / "images")


def test_tool_that_fails_is_quoted(tmp_path, monkeypatch):
    for tool in ("mke2fs", "qemu-img", "xorriso"):
        script = tmp_path / tool
        script.write_text("#!/bin/sh\necho the disk is full >&2\nexit 1\n")
        script.chmod(0o755)
    monkeypatch.setattr(images_module, "_search_path", lambda: f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(UserError, match="the disk is full"):
        make_images(tmp_path / "images")
