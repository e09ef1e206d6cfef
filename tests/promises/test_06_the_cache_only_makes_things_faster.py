"""Promise 6: the cache can only make things faster.

Disks are real ones: a tmpfs of a few megabytes that fills up, or that nobody may write to.
"""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.mounted.conftest import run

pytestmark = pytest.mark.mounted

ALPINE = "Alpine Linux 3.20"


def url_of(cloud, end):
    return next(u for u in cloud.published if u.endswith(end))


@contextlib.contextmanager
def disk_of(path, options):
    """A real small disk: what it refuses, the kernel refuses."""
    path.mkdir()
    run("mount", "-t", "tmpfs", "-o", options, "tmpfs", path)
    try:
        yield path
    finally:
        run("umount", "-l", path)


@pytest.fixture
def tiny_disk(tmp_path):
    with disk_of(tmp_path / "disk", "size=3m") as disk:
        yield disk


def cached_on(make_mount, servers, disk, more=""):
    """A mount whose cache is on that disk, started."""
    mount = make_mount(servers.frontend_url, "-o", f"cache_dir={disk}/cache,cache_min_free=0{more}")
    at = mount.argv.index("--cache-dir")
    mount.argv[at : at + 2] = []
    mount.start()
    return mount


@pytest.fixture
def crowded(make_mount, servers, cloud, tiny_disk, tmp_path):
    """A mount whose cache is on a tiny disk, an app larger than that, and how to fill the disk."""
    large = tmp_path / "large.raw"
    large.write_bytes(os.urandom(16 << 20))
    number = next(a.id for a in cloud.apps.values() if a.name == "Debian 12")
    cloud.replace_app_content(number, large, "3.0")
    mount = cached_on(make_mount, servers, tiny_disk)

    def fill():
        with pytest.raises(OSError, match="No space"), open(tiny_disk / "other", "wb") as other:
            while True:
                other.write(bytes(4096))
                other.flush()

    return mount, mount.app("Debian 12") / "Debian 12.raw", large.read_bytes(), fill


def test_a_cache_disk_that_fills_up_never_fails_a_read(crowded):
    mount, path, content, fill = crowded
    with open(path, "rb") as file:
        first = file.read(1 << 20)  # while there is room
        fill()  # then somebody else takes all that is left
        assert first + file.read() == content
    assert mount.status()["cache"]["used"] < 3 << 20


def test_a_full_cache_disk_never_fails_a_read(crowded):
    mount, path, content, fill = crowded
    path.stat()
    fill()
    assert path.read_bytes() == content
    assert "cache.bypassed" in mount.log


def test_a_cache_that_cannot_be_made_is_said_and_reads_go_on(make_mount, servers, cloud):
    mount = make_mount(servers.frontend_url, "-o", "cache_dir=/proc/nebfs")
    at = mount.argv.index("--cache-dir")
    mount.argv[at : at + 2] = []
    mount.start()
    path = mount.app(ALPINE) / f"{ALPINE}.qcow2"
    assert path.read_bytes() == cloud.published[url_of(cloud, "alpine.qcow2")].read_bytes()
    assert mount.status()["cache"]["kind"] == "memory"


def test_a_cache_disk_that_nobody_may_write_to_is_said_and_reads_go_on(
    make_mount, servers, cloud, tmp_path
):
    with disk_of(tmp_path / "ro", "size=1m,ro") as disk:
        mount = cached_on(make_mount, servers, disk)
        path = mount.app(ALPINE) / f"{ALPINE}.qcow2"
        assert path.read_bytes() == cloud.published[url_of(cloud, "alpine.qcow2")].read_bytes()
        assert mount.status()["cache"]["kind"] == "memory"
        assert "Read-only file system" in mount.log
        mount.stop()


def test_the_limit_is_kept_while_many_readers_fill_the_cache(make_mount, servers, cloud, tmp_path):
    limit, size = 16 << 20, 48 << 20
    large = tmp_path / "large.raw"
    large.write_bytes(os.urandom(size))
    number = next(a.id for a in cloud.apps.values() if a.name == "Debian 12")
    cloud.replace_app_content(number, large, "3.0")
    content = large.read_bytes()
    with disk_of(tmp_path / "disk", "size=64m") as disk:
        mount = cached_on(make_mount, servers, disk, f",cache_size={limit >> 20}MiB")
        path = mount.app("Debian 12") / "Debian 12.raw"
        over = threading.Event()
        taken = []

        def measure():
            while not over.wait(0.01):
                facts = os.statvfs(disk)
                taken.append((facts.f_blocks - facts.f_bfree) * facts.f_frsize)

        def read(start):
            with open(path, "rb", buffering=0) as file:
                for offset in range(start, start + size // 4, 1 << 20):
                    assert (
                        os.pread(file.fileno(), 1 << 20, offset)
                        == content[offset : offset + (1 << 20)]
                    )

        measuring = threading.Thread(target=measure)
        measuring.start()
        try:
            with ThreadPoolExecutor(4) as readers:
                list(readers.map(read, range(0, size, size // 4)))
        finally:
            over.set()
            measuring.join()
        # The lists, the indexes and the lock are beside the blocks, and are not theirs to limit.
        assert limit // 2 < max(taken) <= limit + (1 << 20)
        mount.stop()
