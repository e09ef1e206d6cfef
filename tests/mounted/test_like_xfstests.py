"""What xfstests' generic tests ask of any filesystem, so far as it needs nothing to be written.

Their numbers are named where a test follows one; which groups apply is in docs/reliability.md.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import signal
import struct
import threading
import time

import pytest

from tests.mounted.mapping import Map

pytestmark = pytest.mark.mounted

LIBC = ctypes.CDLL(None, use_errno=True)
PUBLIC = "marketplaces/OpenNebula Public"
FILE = f"{PUBLIC}/Debian 12/Debian 12.raw"
HERE = "datastores/default/vmlinuz"
FIEMAP, GETFLAGS, FITRIM, FREEZE = 0xC020660B, 0x80086601, 0xC0185879, 0xC0045877
AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
STATX = struct.Struct("<IIQIIIHHQQQQ")
"""struct statx, until its attributes_mask: statx(2)."""


@pytest.fixture(scope="module")
def mount(shared):
    return shared.mount.path


@pytest.fixture(scope="module")
def original(shared):
    return shared.cloud.published["/public/debian-12.raw"].read_bytes()


@pytest.fixture
def file(mount):
    fd = os.open(mount / FILE, os.O_RDONLY)
    yield fd
    os.close(fd)


# --- directories: 257, 310, 676 -------------------------------------------------------------------


class Directory:
    """opendir(3) and what belongs to it."""

    class Entry(ctypes.Structure):
        _fields_ = (
            ("ino", ctypes.c_uint64),
            ("off", ctypes.c_int64),
            ("reclen", ctypes.c_ushort),
            ("type", ctypes.c_ubyte),
            ("name", ctypes.c_char * 256),
        )

    def __init__(self, path):
        LIBC.opendir.restype = ctypes.c_void_p
        LIBC.readdir.restype = ctypes.POINTER(self.Entry)
        LIBC.telldir.restype = ctypes.c_long
        self._open = ctypes.c_void_p(LIBC.opendir(os.fsencode(path)))
        assert self._open

    def next(self):
        found = LIBC.readdir(self._open)
        return (found.contents.name, found.contents.ino) if found else None

    def rest(self):
        return list(iter(self.next, None))

    def tell(self):
        return LIBC.telldir(self._open)

    def seek(self, where):
        LIBC.seekdir(self._open, ctypes.c_long(where))

    def rewind(self):
        LIBC.rewinddir(self._open)

    def close(self):
        LIBC.closedir(self._open)


def test_places_in_a_directory_are_distinct_and_can_be_gone_back_to(mount):
    directory = Directory(mount / PUBLIC)
    places, entries = [], []
    while True:
        place = directory.tell()
        entry = directory.next()
        if entry is None:
            break
        places.append(place)
        entries.append(entry)
    assert len(entries) > 8
    assert len(set(places)) == len(places)
    assert len({name for name, _ in entries}) == len(entries)
    for place, entry in reversed(list(zip(places, entries, strict=True))):
        directory.seek(place)
        assert directory.next() == entry
    directory.rewind()
    assert directory.rest() == entries
    directory.close()


def test_inodes_of_a_listing_are_those_of_its_files(mount):
    directory = Directory(mount / PUBLIC)
    for name, inode in directory.rest():
        if name not in (b".", b".."):
            assert os.lstat(mount / PUBLIC / os.fsdecode(name)).st_ino == inode
    directory.close()


def test_one_directory_is_listed_by_many_while_names_are_looked_up(mount):
    """310, and what a listing and a look-up at the same time did to others."""
    expected = sorted(os.listdir(mount / PUBLIC))
    fd = os.open(mount / PUBLIC, os.O_RDONLY)
    wrong = []

    def use(what):
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            try:
                what()
            except Exception as error:
                wrong.append(error)
                return

    def list_all():
        assert sorted(os.listdir(mount / PUBLIC)) == expected

    def look_up():
        for name in expected:
            os.lstat(mount / PUBLIC / name)
            assert not os.path.exists(mount / PUBLIC / f"{name} not")

    def seek():
        os.lseek(fd, 0, os.SEEK_SET)
        with pytest.raises(IsADirectoryError):
            os.read(fd, 100)

    threads = [threading.Thread(target=use, args=[w]) for w in (list_all, look_up, seek) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(fd)
    assert wrong == []


# --- attributes: 532, and what the group attr asks ------------------------------------------------


def statx(path):
    out = ctypes.create_string_buffer(256)
    done = LIBC.statx(AT_FDCWD, os.fsencode(path), 0x100, 0x7FF, out)
    assert done == 0, os.strerror(ctypes.get_errno())
    return STATX.unpack_from(out)


def test_statx_agrees_with_stat_and_its_mask_with_its_attributes(mount):
    for path in (mount, mount / PUBLIC, mount / FILE, mount / "datastores/default/ttylinux.qcow2"):
        mask, block, attributes, links, uid, gid, mode, _, inode, size, blocks, able = statx(path)
        facts = os.lstat(path)
        assert (links, uid, gid, mode, inode, size, blocks, block) == (
            facts.st_nlink, facts.st_uid, facts.st_gid, facts.st_mode, facts.st_ino, facts.st_size,
            facts.st_blocks, facts.st_blksize,
        )  # fmt: skip
        assert mask & 0x7FF == 0x7FF
        assert attributes & ~able == 0


def test_reading_changes_no_time(mount, file):
    before = os.fstat(file)
    os.pread(file, 4096, 0)
    os.listdir(mount / PUBLIC)
    after = os.fstat(file)
    assert (before.st_atime_ns, before.st_mtime_ns, before.st_ctime_ns) == (
        after.st_atime_ns, after.st_mtime_ns, after.st_ctime_ns,
    )  # fmt: skip


def test_extended_attributes_are_all_there_and_whole(mount, file):
    names = os.listxattr(file)
    assert len(set(names)) == len(names)
    raw = ctypes.create_string_buffer(4096)
    for name in names:
        value = os.getxattr(file, name)
        size = LIBC.fgetxattr(file, name.encode(), None, 0)
        assert size == len(value)
        assert LIBC.fgetxattr(file, name.encode(), raw, size) == size
        assert raw.raw[:size] == value
        if size > 1:
            assert LIBC.fgetxattr(file, name.encode(), raw, size - 1) == -1
            assert ctypes.get_errno() == errno.ERANGE
    assert LIBC.flistxattr(file, raw, 1) == -1
    assert ctypes.get_errno() == errno.ERANGE
    for name, expected in (
        ("user.none", errno.ENODATA),
        ("security.selinux", errno.ENOTSUP),
        ("system.posix_acl_access", errno.ENOTSUP),
        ("nothing.known", errno.ENOTSUP),
    ):
        with pytest.raises(OSError) as caught:
            os.getxattr(file, name)
        assert caught.value.errno == expected, name


# --- maps: 091, 263, 647, 708 ---------------------------------------------------------------------


def test_the_last_page_of_a_map_ends_with_zeros_and_there_is_none_behind_it(mount):
    path = mount / PUBLIC / "Data Disk/Data Disk.raw.gz"
    size = path.stat().st_size
    pages = -(-size // 4096) * 4096
    assert pages > size
    content = path.read_bytes()
    with Map(path) as one:
        assert one.read(pages - 4096, 4096) == content[pages - 4096 :] + bytes(pages - size)
    behind = Map(path)
    assert behind.read(pages, 1) == b""
    assert behind.close() == -signal.SIGBUS


@pytest.mark.parametrize("flags", [0, os.O_DIRECT])
def test_a_read_into_a_map_of_the_same_file(mount, original, flags):
    """647, 708: the page fault within the read must not wait for the read."""
    fd = os.open(mount / FILE, os.O_RDONLY | flags)
    length, at = 256 << 10, 24 << 20
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    with mmap.mmap(
        fd, length, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE
    ) as own:
        assert os.preadv(fd, [own], at) == length
        assert own[:] == original[at : at + length]
    os.close(fd)


def test_direct_and_cached_reads_and_maps_agree(mount, original):
    """091, 263: the same bytes, whichever way was first."""
    plain, direct = (os.open(mount / FILE, os.O_RDONLY | flag) for flag in (0, os.O_DIRECT))
    with Map(mount / FILE) as memory:
        for at in range(1 << 20, 12 << 20, (1 << 20) + 4096):
            expected = original[at : at + 8192]
            assert os.pread(direct, 8192, at) == expected
            assert memory.read(at, 8192) == expected
            assert os.pread(plain, 8192, at) == expected
    os.close(plain)
    os.close(direct)


# --- descriptors, locks, handles: 131, 426, 467, 477 ----------------------------------------------


def test_many_open_files_of_one_image(mount, original, shared):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    fds = []
    try:
        for number in range(1500):
            fds.append(os.open(mount / FILE, os.O_RDONLY))
            if number % 100 == 0:
                assert os.pread(fds[-1], 100, number << 12) == original[number << 12 :][:100]
    finally:
        for fd in fds:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert os.listdir(f"/proc/{shared.mount.pid}/fd")  # it lives


def test_locks_of_readers(file, mount):
    other = os.open(mount / FILE, os.O_RDONLY)
    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(file, fcntl.LOCK_UN)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    os.close(other)
    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, 10)
    with pytest.raises(OSError) as caught:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10)
    assert caught.value.errno == errno.EBADF  # for that, it must be open to write


def test_a_file_handle_leads_to_the_file_or_to_a_clear_error(mount, file):
    """426, 467, 477: what NFS servers ask for."""
    handle = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0), 8 + 128)
    number = ctypes.c_int()
    path = os.fsencode(mount / FILE)
    done = LIBC.name_to_handle_at(AT_FDCWD, path, handle, ctypes.byref(number), 0)
    if done == -1:
        assert ctypes.get_errno() == errno.EOPNOTSUPP
        return
    top = os.open(mount, os.O_RDONLY)
    try:
        fd = LIBC.open_by_handle_at(top, handle, os.O_RDONLY)
        if fd == -1:
            assert ctypes.get_errno() == errno.ESTALE
        else:
            assert os.fstat(fd).st_ino == os.fstat(file).st_ino
            os.close(fd)
    finally:
        os.close(top)


@pytest.mark.parametrize("request_", [FIEMAP, GETFLAGS, FITRIM, FREEZE])
def test_what_only_filesystems_on_disks_do_is_refused(mount, file, request_):
    with pytest.raises(OSError) as caught:
        fcntl.ioctl(file, request_, bytearray(64))
    assert caught.value.errno in {errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS}


# --- the edges of a file: 130, 210, 430 to 434 ----------------------------------------------------


def test_reads_at_and_behind_the_end(mount, original):
    size = len(original)
    for flags in (0, os.O_DIRECT):
        fd = os.open(mount / FILE, os.O_RDONLY | flags)
        assert os.pread(fd, 4096, size - 512) == original[-512:]
        assert os.pread(fd, 4096, size) == b""
        assert os.pread(fd, 4096, (1 << 62)) == b""
        with pytest.raises(OSError) as caught:
            os.pread(fd, 1, -1)
        assert caught.value.errno == errno.EINVAL
        os.close(fd)


def test_a_copy_between_filesystems_is_left_to_who_copies(tmp_path, file):
    """As the kernel does it since 5.19: cp(1) then reads and writes."""
    with open(tmp_path / "copy", "wb") as copy:
        for words in ((file, copy.fileno(), 100), (copy.fileno(), file, 100)):
            with pytest.raises(OSError) as caught:
                os.copy_file_range(*words)
            assert caught.value.errno in {errno.EXDEV, errno.EBADF}
    assert (tmp_path / "copy").stat().st_size == 0
