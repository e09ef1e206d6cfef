"""Promise 6: the cache can only make things faster.

Disks are real ones, a tmpfs of a few megabytes that fills up or that nobody may write to, and one
that is slow, rots or fails when it is told to (tests/faults/disk.py).
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import pytest

import nebfs.content.layers.kept
from nebfs.content.stack import read
from nebfs.model import Content, Locator
from nebfs.units import KIB, MIB
from tests.content.decoding import pack
from tests.faults.disk import disk_of, failing_disk
from tests.faults.house import House
from tests.fetcher.conftest import Origin, ScriptedServer
from tests.mounted.conftest import NEBFS, run, wait_until

pytestmark = pytest.mark.mounted

ALPINE = "Alpine Linux 3.20"


def url_of(cloud, end):
    return next(u for u in cloud.published if u.endswith(end))


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
            # What is on its way when they have ended still comes, and nothing is set aside then.
            wait_until(lambda: max(taken) > limit // 2)
        finally:
            over.set()
            measuring.join()
        # The lists, the indexes and the lock are beside the blocks, and are not theirs to limit.
        assert limit // 2 < max(taken) <= limit + (1 << 20)
        mount.stop()


# --- a disk that fails while reads go on, under the real stack and the real fetcher -------------

SIZE = 6 * MIB + 1000
STEP = 128 * KIB


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    with failing_disk(tmp_path_factory.mktemp("failing") / "disk") as made:
        yield made


@pytest.fixture(scope="module")
def house(disk):
    with House(disk.path) as made:
        yield made


class Published:
    """One image on a server, and the house that reads it over a cache on that disk."""

    def __init__(self, house, disk, server, data, view=""):
        self.house, self.disk, self.server, self.data = house, disk, server, data
        self.content = Content(Locator("http", server.url + "/image"), format="raw", view=view)
        self.open()

    def read(self, start=0, stop=0):
        """Read, in pieces as the kernel's; compare each byte. Return the seconds that it took."""
        began, stop = time.monotonic(), stop or len(self.data)
        for at in range(start, stop, STEP):
            length = min(STEP, stop - at)
            got = self.house.run(self._taken, at, length)
            assert got == self.data[at : at + length], f"wrong bytes at {at}"
        return time.monotonic() - began

    async def _taken(self, at, length):
        return bytes(await read(self.reader, at, length))  # before anybody else reads

    def reopen(self):
        """Read by a stack of its own from now on, whose blocks are to be proven anew."""
        self.close()
        self.open()

    def open(self):
        self.reader = self.house.run(self.house.open, self.content)

    def close(self):
        """Have nobody have it open: not what was begun and ends late, either. So long what was
        proven is proven, and what fails is not forgiven.
        """
        self.house.run(self.reader.aclose)
        wait_until(lambda: not self.house.store.open_files())

    def told(self):
        return self.house.store.statistics()

    def empty(self):
        """Have nothing left of what is open."""
        store = self.house.store
        for file in store.open_files():
            self.house.run(partial(store.discard, file.key, force=True))

    def forgive(self):
        """Skip the seconds for which a disk that has failed is not asked again."""
        self.house.store._full_until = 0.0

    def recovers(self):
        """What is read once the disk works again is kept there, and nothing is wrong any more."""
        self.disk.set()
        self.close()
        self.forgive()
        self.open()
        self.read()
        self.reopen()  # the kernel has pages of it that are rotten, of indexes, too
        self.read()
        assert self.reader.facts().where == "disk"
        assert self.told().trouble == ""
        asked = len(self.server.requests)
        self.reopen()
        self.read()
        assert len(self.server.requests) == asked


@contextmanager
def published(house, disk, data, packed=None):
    """Publish an image of this `data`; of a `packed` one it is the disk inside that is read."""
    server = ScriptedServer(Origin(data if packed is None else packed))
    made = Published(house, disk, server, data, "" if packed is None else "raw")
    yield made
    disk.set()
    made.forgive()
    made.close()
    server.close()


@pytest.fixture
def image(house, disk):
    with published(house, disk, random.Random(6).randbytes(SIZE)) as made:
        yield made


@pytest.mark.parametrize(
    ("switches", "said"),
    [
        ({"write": "EIO"}, "Input/output error"),
        ({"write": "ENOSPC"}, "No space left on device"),
        ({"write": "EROFS", "changes": "EROFS"}, "Read-only file system"),
    ],
    ids=["EIO", "ENOSPC", "EROFS"],
)
def test_a_disk_that_refuses_writes_while_it_is_read_from_costs_no_read(image, switches, said):
    image.read(0, STEP)
    faults = image.told().faults
    image.disk.set(**switches)
    image.read()
    image.read()
    assert image.told().faults > faults
    assert said in image.told().trouble
    assert image.reader.facts().where == "memory"
    until = image.house.store._full_until
    image.reopen()  # also what is opened only then
    image.read()
    assert image.house.store._full_until == until, "it is asked again however much is opened"
    assert said in image.told().trouble
    image.recovers()


def test_a_disk_that_cannot_be_read_costs_no_read(image):
    image.read()
    image.reopen()
    faults = image.told().faults
    image.disk.set(read="EIO")
    image.read()
    assert image.told().faults > faults
    assert "Input/output error" in image.told().trouble
    image.recovers()


def test_a_disk_that_rots_is_found_out_by_checksums_counted_and_fetched_again(image):
    image.read()
    image.reopen()
    corrupt = image.told().corrupt
    image.disk.set(flips=True)
    image.read()
    assert image.told().corrupt > corrupt
    assert "checksum" in image.told().trouble
    image.recovers()


def test_one_rotten_block_is_fetched_again_and_the_disk_stays_in_use(image):
    image.read()
    image.reopen()
    data = max(image.disk.backing.rglob("*.dat"), key=lambda path: path.stat().st_mtime_ns)
    with data.open("r+b") as file:
        file.seek(5 * STEP)
        file.write(b"rot")
    before, asked = image.told(), len(image.server.requests)
    image.read()
    assert image.told().corrupt == before.corrupt + 1
    assert len(image.server.requests) > asked
    assert (image.told().trouble, image.reader.facts().where) == ("", "disk")


def test_what_is_open_uses_a_disk_again_that_works_again(image):
    # Pieces here and there: what is read in a row is fetched ahead, and nothing would be missing.
    image.read(0, STEP)
    image.disk.set(write="EIO")
    image.read(20 * STEP, 21 * STEP)
    assert image.reader.facts().where == "memory"
    image.forgive()
    image.read(10 * STEP, 11 * STEP)  # it still fails
    assert image.reader.facts().where == "memory"
    image.disk.set()
    image.forgive()
    image.read()
    assert image.reader.facts().where == "disk"
    assert image.told().trouble == ""
    image.read()
    asked = len(image.server.requests)
    image.reopen()
    image.read()
    assert len(image.server.requests) == asked


def test_a_disk_that_is_too_slow_to_write_to_is_left_after_two_seconds(image, monkeypatch):
    monkeypatch.setattr(nebfs.content.layers.kept, "SLOW", 1000.0)
    image.read(0, STEP)
    image.disk.set(slow=2.1)
    took = image.read()
    assert took < 8, "each of 48 blocks would have taken as long, or each order under way"
    assert "slow" in image.told().trouble
    assert image.reader.facts().where == "memory"
    image.recovers()


def test_a_disk_that_is_too_slow_to_read_from_is_left(image, monkeypatch):
    monkeypatch.setattr(nebfs.content.layers.kept, "SLOW", 0.3)
    image.read()
    image.reopen()
    image.disk.set(slow=0.4)
    took = image.read()
    assert took < 6, "each of 48 blocks would have taken as long"
    assert "slow" in image.told().trouble
    monkeypatch.undo()
    image.recovers()


# --- the same under what is decompressed into the cache ------------------------------------------

PACKED = {
    "gzip": ("gzip", "-c", "-1"),
    "xz": ("xz", "-c", "-0"),
    "xz, in blocks": ("xz", "-c", "-0", "-T2", "--block-size=1000000"),
}


@pytest.fixture(params=[*PACKED, "larger than memory"])
def compressed(request, house, disk):
    size = 20 * MIB if request.param == "larger than memory" else SIZE
    data = random.Random(7).randbytes(size // 2) + bytes(size // 2 + 999)
    packed = pack(data, *PACKED.get(request.param, PACKED["gzip"]))
    with published(house, disk, data, packed) as made:
        yield made


@pytest.mark.parametrize(
    ("switches", "said"),
    [
        ({"write": "ENOSPC"}, "No space left on device"),
        ({"read": "EIO"}, "Input/output error"),
        ({"flips": True}, "checksum"),
    ],
    ids=["full", "unreadable", "rotten"],
)
def test_a_disk_that_fails_costs_no_read_of_what_is_decompressed(compressed, switches, said):
    compressed.read()
    compressed.reopen()
    if "write" in switches:
        compressed.empty()
    faults = compressed.told().faults
    compressed.disk.set(**switches)
    compressed.read()
    compressed.read(SIZE // 2, SIZE // 2 + 8 * STEP)  # again, backwards
    assert compressed.told().faults > faults
    assert said in compressed.told().trouble
    assert compressed.reader.facts().where == "memory"
    compressed.recovers()


@pytest.mark.parametrize("compressed", ["xz", "xz, in blocks"], indirect=True)
def test_a_disk_that_is_too_slow_is_left_by_what_is_decompressed(compressed):
    compressed.read(0, STEP)
    compressed.empty()
    compressed.disk.set(slow=2.1)
    took = compressed.read()
    assert took < 25, "each of 25 blocks would have taken as long"
    assert "slow" in compressed.told().trouble
    assert compressed.reader.facts().where == "memory"
    compressed.recovers()


# --- what people see of it ----------------------------------------------------------------------


def told_by(mount, *words):
    return run(*NEBFS, *words, "--run-dir", mount.run_dir, check=False).stdout


def test_status_and_doctor_name_a_disk_that_fails_under_a_mount(
    make_mount, servers, cloud, tmp_path
):
    path = f"{ALPINE}/{ALPINE}.qcow2"
    content = cloud.published[url_of(cloud, "alpine.qcow2")].read_bytes()
    with failing_disk(tmp_path / "failing") as disk:
        mount = cached_on(make_mount, servers, disk.path)
        disk.set(write="EIO", changes="EROFS")
        assert (mount.path / "marketplaces/OpenNebula Public" / path).read_bytes() == content
        said = told_by(mount, "status", "-l")
        assert "1 faults of the cache disk" in said
        assert "Read-only file system" in said
        assert mount.status()["cache"]["trouble"]
        said = told_by(mount, "doctor", "--cache-dir", disk.path / "cache")
        assert f"the filesystem of {disk.path}/cache is read-only" in said
        disk.set()
        mount.stop()


def test_a_cache_directory_that_is_removed_under_a_mount_costs_no_read(make_mount, servers, cloud):
    mount = make_mount(servers.frontend_url)
    mount.start()
    content = cloud.published[url_of(cloud, "alpine.qcow2")].read_bytes()
    path = mount.app(ALPINE) / f"{ALPINE}.qcow2"
    with open(path, "rb") as file:
        assert file.read(4096) == content[:4096]
        shutil.rmtree(mount.cache)
        assert file.read() == content[4096:]
    assert path.read_bytes() == content
    mount.refresh()
    md5 = next(a.md5 for a in cloud.apps.values() if a.name == "Debian 12")
    other = mount.app("Debian 12") / "Debian 12.raw"  # opened only now
    assert hashlib.md5(other.read_bytes(), usedforsecurity=False).hexdigest() == md5
    said = told_by(mount, "status", "-l")
    assert "No such file or directory" in said
