"""Block devices read in place, on real loop devices."""

from __future__ import annotations

import errno
import fcntl
import os
import random

import pytest

from nebfs.content.layers import devices, inplace
from nebfs.content.layers.here import TRANSPORTS, Here, look_at
from nebfs.content.layers.inplace import InPlace
from nebfs.errors import Changed, Missing, NebfsError, Refused
from nebfs.model import Locator, Revision
from tests.disks import LoopDevice

SIZE = (1 << 20) + 512  # not a multiple of what a direct read is aligned to


@pytest.fixture
def data():
    return random.Random(3).randbytes(SIZE)


@pytest.fixture
def loop(tmp_path, data):
    loop = LoopDevice(tmp_path / "disk.img", data)
    yield loop
    loop.close()


@pytest.fixture
def locator(loop):
    return Locator("device", loop.path)


@pytest.fixture
def open_here(nursery, locator):
    """Opens the device as the library does, and closes what was opened."""
    here = Here(nursery)

    async def opened(*, volatile=True, revision=None):
        found = revision or look_at(locator, 0)[0]
        return await here.open(locator, found, volatile=volatile)

    return opened


async def test_a_look_tells_the_real_length_and_the_first_bytes(loop, locator, data):
    revision, head = look_at(locator, 1024)
    number = os.stat(loop.path).st_rdev
    assert revision == Revision(SIZE, f"device:{os.major(number)}:{os.minor(number)}")
    assert head == data[:1024]


@pytest.mark.parametrize("volatile", [True, False])
async def test_any_offset_and_length_to_the_last_byte(open_here, data, volatile):
    reader = await open_here(volatile=volatile)
    source = random.Random(9)
    spans = [(0, 1), (SIZE - 1, 1), (SIZE - 5000, 5000), (0, SIZE), (4095, 2), (512, 512)]
    spans += [(at := source.randrange(SIZE), source.randint(1, SIZE - at)) for _ in range(30)]
    for offset, length in spans:
        assert await reader.pread(offset, length) == data[offset : offset + length]
    await reader.aclose()


async def test_what_another_machine_writes_is_seen_at_the_next_read(open_here, loop, data):
    """The page cache of this machine must not answer for what others write to."""
    reader = await open_here()
    with open(loop.path, "rb") as cached:  # somebody has the old bytes in this machine's cache
        assert cached.read(SIZE) == data
    assert await reader.pread(5000, 10) == data[5000:5010]
    loop.write_behind(5000, b"0123456789")
    assert reader.warm(5000, 10) is None
    assert await reader.pread(5000, 10) == b"0123456789"
    await reader.aclose()


async def test_where_direct_reads_are_refused_the_cache_is_dropped_before_each(
    open_here, loop, data, monkeypatch
):
    """A driver that takes O_DIRECT and refuses to read so, which no device here does."""
    refused = []
    real = os.preadv

    def preadv(fd, views, offset, *flags):
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(offset)
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(fd, views, offset, *flags)

    monkeypatch.setattr(os, "preadv", preadv)
    reader = await open_here()
    assert await reader.pread(5000, 10) == data[5000:5010]
    loop.write_behind(4990, b"x" * 40)
    assert await reader.pread(5000, 10) == b"x" * 10
    assert await reader.pread(SIZE - 100, 100) == data[-100:]
    assert len(refused) == 1
    await reader.aclose()


async def test_a_device_that_cannot_do_direct_reads_at_all_is_read_otherwise(
    open_here, data, monkeypatch
):
    real = fcntl.fcntl

    def no_direct(fd, command, argument=0):
        if command == fcntl.F_SETFL and argument & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(fd, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", no_direct)
    reader = await open_here()
    assert await reader.pread(7, 5000) == data[7:5007]
    await reader.aclose()


async def test_what_nobody_writes_to_may_come_from_the_page_cache(open_here, data):
    reader = await open_here(volatile=False)
    await reader.pread(0, 8192)
    assert bytes(reader.warm(100, 200)) == data[100:300]
    await reader.aclose()


async def test_another_open_of_the_device_is_no_hindrance(open_here, loop):
    fd = os.open(loop.path, os.O_RDWR | os.O_EXCL)
    reader = await open_here()
    await reader.pread(0, 512)
    await reader.aclose()
    os.close(fd)


async def test_a_device_that_grows_is_another_version(open_here, loop, locator):
    before = look_at(locator, 0)[0]
    reader = await open_here()
    loop.resize(SIZE + 4096)
    with pytest.raises(Changed, match="size"):
        await reader.pread(0, 10)
    await reader.aclose()
    with pytest.raises(Changed):
        await open_here(revision=before)
    assert look_at(locator, 0)[0].size == SIZE + 4096


async def test_another_device_under_the_same_name_is_another_version(
    open_here, tmp_path, loop, data, nursery
):
    other = LoopDevice(tmp_path / "other.img", data)
    link = tmp_path / "by-id"
    link.symlink_to(loop.path)
    listed = look_at(Locator("device", str(link)), 0)[0]
    link.unlink()
    link.symlink_to(other.path)
    with pytest.raises(Changed, match="etag"):
        await Here(nursery).open(Locator("device", str(link)), listed, volatile=True)
    other.close()


async def test_a_device_that_went_away_is_an_error_though_its_bytes_were_cached(
    tmp_path, data, nursery
):
    loop = LoopDevice(tmp_path / "away.img", data)
    locator = Locator("device", loop.path)
    reader = await Here(nursery).open(locator, look_at(locator, 0)[0], volatile=True)
    await reader.pread(0, 4096)
    os.truncate(loop.file, 0)  # what is behind the device
    with pytest.raises((NebfsError, Changed)):
        await reader.pread(0, 4096)
    assert reader.facts().last_error
    await reader.aclose()
    loop.close()


@pytest.mark.parametrize(
    ("make", "failure"),
    [
        (lambda p: None, Missing),
        (lambda p: p.write_bytes(b"x"), Refused),
        (lambda p: p.mkdir(), Refused),
        (os.mkfifo, Refused),
        (lambda p: p.symlink_to("/dev/zero"), Refused),
        (lambda p: p.symlink_to(p), NebfsError),
    ],
    ids=["nothing", "file", "directory", "pipe", "character device", "circle"],
)
async def test_what_is_no_block_device_is_refused(tmp_path, make, failure):
    path = tmp_path / "it"
    make(path)
    with pytest.raises(failure):
        look_at(Locator("device", str(path)), 10)


async def test_a_device_without_anything_behind_it_is_an_error(tmp_path):
    node = tmp_path / "empty"
    os.mknod(node, 0o60600, os.makedev(240, 0))  # S_IFBLK; 240 is for experiments, and nobody's
    with pytest.raises(NebfsError, match="nothing behind it"):
        devices.open_device(str(node), fresh=True)


async def test_a_file_that_became_a_device_is_not_read(tmp_path, loop):
    """Who may change a datastore's directory must not have a disk of this machine read to him."""
    path = tmp_path / "image"
    path.symlink_to(loop.path)
    with pytest.raises(Refused, match="something else"):
        inplace.look_at(Locator("file", str(path)), 10)
    with pytest.raises(Refused, match="something else"):
        await InPlace.open(Locator("file", str(path)), Revision(SIZE))


async def test_a_file_below_dev_is_a_device(loop, data, nursery):
    locator = Locator("file", loop.path)
    revision, head = look_at(locator, 3)
    assert (revision.size, head) == (SIZE, data[:3])
    reader = await Here(nursery).open(locator, revision, volatile=True)
    assert await reader.pread(SIZE - 2, 2) == data[-2:]
    await reader.aclose()


async def test_no_descriptor_is_left_open(open_here, locator):
    before = len(os.listdir("/proc/self/fd"))
    reader = await open_here()
    await reader.aclose()
    with pytest.raises(Changed):
        await open_here(revision=Revision(1))
    look_at(locator, 10)
    assert len(os.listdir("/proc/self/fd")) == before


def test_every_transport_of_this_machine_has_a_reader():
    assert {"file", "device", "lvm"} == TRANSPORTS
