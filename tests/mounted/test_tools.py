"""What people do with the mount, with the tools they use: cp, rsync, sha256sum, qemu-img, tar."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import pytest

from nebfs.demo.images import make_images

pytestmark = pytest.mark.mounted

ALPINE = "Alpine Linux 3.20"


def digest(path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def originals(cloud) -> dict[int, Path]:
    """Return the file behind each readable image."""
    return {
        record.id: Path(record.source)
        for record in cloud.images.values()
        if record.source.startswith("/")
    }


def test_cp_of_an_app_is_the_original(mount, cloud, servers, tmp_path, tools):
    copy = tmp_path / "copy.qcow2"
    tools.run("cp", mount.app(ALPINE) / f"{ALPINE}.qcow2", copy)
    published = next(p for u, p in cloud.published.items() if p.suffix == ".qcow2")
    assert digest(copy) == digest(published)
    assert tools.xattr(mount.app(ALPINE) / f"{ALPINE}.qcow2", "user.one.STATE") == "READY"


def test_rsync_of_images_is_the_original_and_a_second_run_copies_nothing(
    mount, cloud, tmp_path, tools
):
    names = ["tiny raw.raw", "ttylinux.qcow2", "boot.iso"]
    sources = [mount.image(name) for name in names]
    tools.run("rsync", "-a", *sources, tmp_path / "out/")
    files = originals(cloud)
    for name, number in zip(names, (0, 1, 3), strict=True):
        assert digest(tmp_path / "out" / name) == digest(files[number])
    again = tools.run("rsync", "-ai", *sources, tmp_path / "out/")
    assert again.stdout == ""


def test_every_readable_image_has_its_original_s_checksum(mount, cloud, cloud_root):
    sparse = make_images(cloud_root / "images").sparse
    for number, original in originals(cloud).items():
        link = mount.path / ".nebfs/by-id/images" / str(number)
        expected = sparse.sha256 if original.stat().st_size > 1 << 30 else digest(original)
        assert digest(link) == expected, number


def test_every_readable_app_has_its_published_checksum(mount, cloud, tools):
    checked = 0
    for record in cloud.apps.values():
        link = mount.path / ".nebfs/by-id/apps" / str(record.id)
        sums = link / "CHECKSUMS"
        if not sums.exists() or record.name == "Big Sparse Disk":  # it has a test of its own
            continue
        if record.name == "lost object":  # nothing is there any more
            done = tools.run("md5sum", "-c", "CHECKSUMS", cwd=link, check=False)
            assert "Input/output error" in done.stderr
            continue
        lines = sums.read_text().splitlines()
        for tool, length in (("md5sum", 32), ("sha256sum", 64)):
            if any(len(line.lstrip("\\").split("  ")[0]) == length for line in lines):
                assert "FAILED" not in tools.run(tool, "-c", "CHECKSUMS", cwd=link).stdout
                checked += 1
    assert checked >= 8


def test_the_largest_app_has_its_published_checksum(mount, tools):
    app = mount.app("Big Sparse Disk")
    done = tools.run("sha256sum", "-c", "CHECKSUMS", cwd=app, timeout=300)
    assert done.stdout == "Big Sparse Disk.raw: OK\n"
    assert mount.status()["cache"]["used"] < 64 << 20  # zeros take no space


def test_one_mebibyte_in_the_middle_fetches_at_most_four(mount, servers, tools):
    big = next(mount.path.glob("marketplaces/*/*/Big Sparse Disk*.raw"))
    assert big.stat().st_size == 4 << 30
    before = servers.bytes_sent()
    done = tools.run("dd", f"if={big}", "of=/dev/null", "bs=1M", "count=1", "skip=2048")
    assert "1048576 bytes" in done.stderr
    assert servers.bytes_sent() - before <= 4 << 20


def test_qemu_img_reads_both_formats(mount, tools):
    image = mount.app(ALPINE) / f"{ALPINE}.qcow2"
    assert "file format: qcow2" in tools.run("qemu-img", "info", image).stdout
    assert "No errors" in tools.run("qemu-img", "check", image).stdout
    same = tools.run(
        "qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, mount.image("tiny raw.raw")
    )
    assert "identical" in same.stdout


def test_tar_with_sparse_files_keeps_every_byte(mount, tmp_path, tools):
    tools.run(
        "tar", "-cSf", tmp_path / "a.tar", "-C", mount.path / "datastores/default", "tiny raw.raw"
    )
    tools.run("tar", "-xf", tmp_path / "a.tar", "-C", tmp_path)
    assert digest(tmp_path / "tiny raw.raw") == digest(mount.image("tiny raw.raw"))


def test_find_and_ls_see_everything_without_an_error(mount, tools):
    assert tools.run("ls", "-lR", mount.path).stderr == ""
    found = tools.run("find", mount.path, "-print0").stdout.split("\0")
    assert len(found) > 60


def test_killed_and_mounted_again_nothing_is_fetched_twice(mount, servers, tools):
    image = mount.app(ALPINE) / f"{ALPINE}.qcow2"
    first = digest(image)
    mount.kill()
    with pytest.raises(OSError, match="Transport endpoint"):
        os.statvfs(mount.path)
    mount.start()
    before = servers.bytes_sent()
    assert digest(image) == first
    assert servers.bytes_sent() - before <= 4096  # one question: is it still this version?


def test_killed_while_streaming_the_rest_is_right(mount, servers, tools):
    big = next(mount.path.glob("marketplaces/*/*/Big Sparse Disk*.raw"))
    with open(big, "rb") as file:
        file.seek(2 << 30)
        piece = file.read(8 << 20)
    mount.kill()
    mount.start()
    with open(big, "rb") as file:
        file.seek((2 << 30) - (1 << 20))
        assert file.read(9 << 20)[1 << 20 :] == piece


def test_the_fetcher_killed_under_a_read_is_not_noticed(mount, servers, tools):
    first = mount.status()["fetcher"]["restarts"]
    children = Path(f"/proc/{mount.pid}/task/{mount.pid}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    image = mount.app(ALPINE) / f"{ALPINE}.qcow2"
    assert digest(image)
    assert mount.status()["fetcher"]["restarts"] == first + 1


def test_nginx_sends_at_most_four_mebibytes_for_one(make_mount, servers, cloud, nginx, tools):
    """The same over a real web server, counted in its own log."""
    app = next(a for a in cloud.apps.values() if a.marketplace_id == 100 and a.source)
    app.source = f"{nginx.url}/big.raw"
    app.md5 = ""
    mount = make_mount(servers.frontend_url)
    mount.start()
    big = next((mount.path / ".nebfs/by-id/apps" / str(app.id)).glob("*.raw"))
    assert big.stat().st_size == 4 << 30
    with open(big, "rb") as file:
        file.seek(2 << 30)
        got = file.read(1 << 20)
    with open(nginx.root / "big.raw", "rb") as file:
        file.seek(2 << 30)
        assert got == file.read(1 << 20)
    mount.stop()
    assert nginx.bytes_sent("/big.raw") <= 4 << 20
