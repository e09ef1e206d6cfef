"""What fsx does, so far as it reads: a random series of operations against the original, in every
way in which a file can be read, through each kind of stack.

Its checks of asynchronous reads are fio's, which marks every block of a file and knows them again.
"""

from __future__ import annotations

import errno
import os
import random
import subprocess

import pytest

from nebfs.demo.demonstration import PRIVATE_HTTP, demonstration_cloud
from nebfs.demo.records import AppRecord
from nebfs.demo.server import serve
from tests.mounted.conftest import Mounts
from tests.mounted.mapping import Map

pytestmark = pytest.mark.mounted

PUBLIC = "marketplaces/OpenNebula Public"
MARKED = 6 << 20
ENGINES = ("sync", "pvsync2", "mmap", "splice", "posixaio", "libaio", "io_uring")
OPERATIONS = 250


@pytest.fixture(scope="module")
def world(cloud_root, tmp_path_factory):
    """A mount of the demonstration, with one app more that fio has marked."""
    marked = tmp_path_factory.mktemp("fio") / "marked.raw"
    fio(marked, "--rw=write", "--do_verify=0", "--ioengine=sync")
    cloud = demonstration_cloud(cloud_root)
    cloud.published["/market/marked"] = marked
    cloud.add_app(
        AppRecord(
            900,
            "marked",
            marketplace_id=PRIVATE_HTTP,
            source="{files}/market/marked",
            size_mb=MARKED >> 20,
            format="raw",
        )
    )
    home = tmp_path_factory.mktemp("m")
    with serve(cloud) as servers:
        mounts = Mounts(home)
        mount = mounts(servers.frontend_url)
        mount.start()
        try:
            yield mount, cloud
        finally:
            mounts.stop()


def fio(path, *words):
    """Run fio over one file; it fails when a block is not what it has written there."""
    argv = ["fio", "--name=marked", f"--filename={path}", f"--size={MARKED}", "--bs=4k"]
    argv += ["--verify=crc32c", "--verify_fatal=1", "--allow_file_create=1", *words]
    argv += ["--verify_state_save=0"]  # it would be written to the working directory
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(params=["far raw", "far qcow2", "far gzip", "here raw"])
def pair(request, world):
    """A file of the mount, and its original."""
    mount, cloud = world
    disk = cloud.published["/public/debian-12.raw"]
    return {
        "far raw": (mount.path / PUBLIC / "Debian 12/Debian 12.raw", disk),
        "far qcow2": (
            mount.path / "raw" / PUBLIC / "Alpine Linux 3.20/Alpine Linux 3.20.raw",
            disk,
        ),
        "far gzip": (
            mount.path / "raw" / PUBLIC / "Data Disk/Data Disk.raw",
            disk.with_name("data.raw"),
        ),
        "here raw": (mount.path / "datastores/default/tiny raw.raw", disk),
    }[request.param]


class Both:
    """The same file in the mount and beside it, and one way to read both."""

    def __init__(self, path, original, choose, scratch):
        self.fd, self.other = (os.open(p, os.O_RDONLY) for p in (path, original))
        self.direct = os.open(path, os.O_RDONLY | os.O_DIRECT)
        self.size = os.fstat(self.fd).st_size
        assert self.size == os.fstat(self.other).st_size
        self.choose, self.scratch = choose, scratch
        self.map = Map(path)

    def close(self):
        self.map.close()
        for fd in (self.fd, self.other, self.direct):
            os.close(fd)

    def piece(self):
        """Return a random place, now and then one that reaches beyond the end."""
        length = self.choose.choice((1, 3, 511, 4096, 4097, 65_536, 131_073, 400_000))
        return self.choose.randrange(self.size + 10), length

    def pread(self, offset, length):
        return os.pread(self.fd, length, offset)

    def read(self, offset, length):
        os.lseek(self.fd, offset, os.SEEK_SET)
        return os.read(self.fd, length)

    def preadv(self, offset, length):
        parts = [bytearray(length // 3), bytearray(1), bytearray(length - length // 3 - 1)]
        got = os.preadv(self.fd, [p for p in parts if p], offset)
        return b"".join(bytes(p) for p in parts)[:got]

    def direct_read(self, offset, length):
        return os.pread(self.direct, length, offset)

    def mapped(self, offset, length):
        return self.map.read(offset, max(0, min(length, self.size - offset)))

    def advised(self, offset, length):
        advice = self.choose.choice(
            (
                os.POSIX_FADV_NORMAL,
                os.POSIX_FADV_SEQUENTIAL,
                os.POSIX_FADV_RANDOM,
                os.POSIX_FADV_WILLNEED,
                os.POSIX_FADV_DONTNEED,
                os.POSIX_FADV_NOREUSE,
            )
        )
        os.posix_fadvise(self.fd, offset, length, advice)
        return os.pread(self.fd, length, offset)

    def copied(self, offset, length):
        """Copy as cp(1) does: the kernel copies between filesystems with sendfile(2) alone."""
        out = os.open(self.scratch, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            return os.pread(out, os.sendfile(out, self.fd, offset, length), 0)
        finally:
            os.close(out)

    def spliced(self, offset, length):
        reading, writing = os.pipe()
        try:
            got = os.splice(self.fd, writing, min(length, 60_000), offset)
            return os.read(reading, got) if got else b""
        finally:
            os.close(reading)
            os.close(writing)


WAYS = (
    "pread", "read", "preadv", "direct_read", "mapped", "advised", "copied", "spliced"
)  # fmt: skip


def test_a_random_series_of_reads_equals_the_original(pair, tmp_path):
    seed = 20_26
    both = Both(*pair, random.Random(seed), tmp_path / "scratch")
    may_be_short = {"copied", "spliced"}
    try:
        for number in range(OPERATIONS):
            way = both.choose.choice(WAYS)
            offset, length = both.piece()
            got = getattr(both, way)(offset, length)
            expected = os.pread(both.other, length, offset)
            where = f"operation {number} of seed {seed}: {way} of {length} at {offset}"
            if way in may_be_short:
                assert bool(got) == bool(expected), where
                expected = expected[: len(got)]
            assert got == expected, where
    finally:
        both.close()


def test_holes_and_data_are_found_as_lseek_says(pair):
    """As of a filesystem that knows no holes: all is data, and there is a hole at the end."""
    path, _ = pair
    fd = os.open(path, os.O_RDONLY)
    size = os.fstat(fd).st_size
    try:
        for offset in (0, 1, 4096, size - 1):
            data = os.lseek(fd, offset, os.SEEK_DATA)
            hole = os.lseek(fd, offset, os.SEEK_HOLE)
            assert offset <= data < size
            assert offset <= hole <= size
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            for offset in (size, size + 1):
                with pytest.raises(OSError) as caught:
                    os.lseek(fd, offset, whence)
                assert caught.value.errno == errno.ENXIO
        # What is called a hole holds zeros: what does not is data.
        hole = os.lseek(fd, 0, os.SEEK_HOLE)
        while hole < size:
            end = os.lseek(fd, hole, os.SEEK_DATA)
            assert not any(os.pread(fd, min(end - hole, 1 << 20), hole))
            hole = os.lseek(fd, end, os.SEEK_HOLE)
        assert os.lseek(fd, -1, os.SEEK_END) == size - 1
        with pytest.raises(OSError) as caught:
            os.lseek(fd, -1, os.SEEK_SET)
        assert caught.value.errno == errno.EINVAL
    finally:
        os.close(fd)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_way_that_fio_knows_reads_what_it_has_written(world, engine):
    mount, _ = world
    path = mount.app("marked", "Private HTTP") / "marked.raw"
    direct = ["--direct=1"] if engine in ("libaio", "io_uring") else []
    deep = ["--iodepth=16"] if engine in ("posixaio", "libaio", "io_uring") else []
    fio(path, "--rw=randread", f"--ioengine={engine}", "--readonly", *direct, *deep)
