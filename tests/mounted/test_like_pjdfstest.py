"""What pjdfstest asks of each system call, so far as it can be asked where nothing can be written.

Its groups are the calls; its cases are the errors of a path (too long, no directory, nothing there,
a bad address) and of what is there. What of it does not apply, and why: docs/reliability.md.
Where two errors are due, the kernel's order is what is expected: it asks whether a mount is
read-only before it looks up what is to be removed, and after it looked up what is to be made.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import stat

import pytest

pytestmark = pytest.mark.mounted

LIBC = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
FILE, DIRECTORY, NEW = "datastores/default/tiny raw.raw", "datastores/default", "datastores/new"
LINKS = "marketplaces/OpenNebula Public/Alpine with Data"

MAKING = {
    "link": lambda path, mount: LIBC.link(os.fsencode(mount / FILE), path),
    "mkdir": lambda path, _: LIBC.mkdir(path, 0o755),
    "mkfifo": lambda path, _: LIBC.mkfifo(path, 0o644),
    "mknod": lambda path, _: LIBC.mknod(path, stat.S_IFREG | 0o644, ctypes.c_uint64(0)),
    "symlink": lambda path, _: LIBC.symlink(b"target", path),
    "create": lambda path, _: LIBC.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644),
}
CHANGING = {
    "chmod": lambda path, _: LIBC.chmod(path, 0o600),
    "chown": lambda path, _: LIBC.chown(path, 1, 1),
    "lchown": lambda path, _: LIBC.lchown(path, 1, 1),
    "truncate": lambda path, _: LIBC.truncate(path, ctypes.c_long(1)),
    "utimensat": lambda path, _: LIBC.utimensat(AT_FDCWD, path, None, 0),
    "open to write": lambda path, _: LIBC.open(path, os.O_RDWR),
}
REMOVING = {
    "rename": lambda path, mount: LIBC.rename(path, os.fsencode(mount / NEW)),
    "rmdir": lambda path, _: LIBC.rmdir(path),
    "unlink": lambda path, _: LIBC.unlink(path),
}
LOOKING = {
    "open": lambda path, _: LIBC.open(path, os.O_RDONLY),
    "access": lambda path, _: LIBC.access(path, os.R_OK),
    "readlink": lambda path, _: LIBC.readlink(path, ctypes.create_string_buffer(9), 9),
    "getxattr": lambda path, _: LIBC.getxattr(path, b"user.one.ID", None, 0),
}
EVERY = MAKING | CHANGING | REMOVING | LOOKING


@pytest.fixture(scope="module")
def mount(shared):
    return shared.mount.path


def error(call, path, mount):
    """Make a call and return its error; 0: there was none."""
    ctypes.set_errno(0)
    if isinstance(path, os.PathLike):
        path = os.fsencode(path)
    result = EVERY[call](path, mount)
    return ctypes.get_errno() if result == -1 else 0


@pytest.mark.parametrize("call", EVERY)
def test_errors_of_a_path(mount, call):
    assert error(call, mount / FILE / "below", mount) == errno.ENOTDIR
    assert error(call, mount / "datastores/none/below", mount) == errno.ENOENT
    assert error(call, ctypes.c_void_p(1), mount) == errno.EFAULT
    assert error(call, b"", mount) == errno.ENOENT
    long = os.fsencode(mount / DIRECTORY) + b"/." * 2048
    assert error(call, long, mount) == errno.ENAMETOOLONG


@pytest.mark.parametrize("call", EVERY)
def test_a_name_of_256_bytes_is_too_long_and_one_of_255_is_not(mount, call):
    asked_first = errno.EROFS if call in REMOVING else 0
    longest, longer = mount / DIRECTORY / ("n" * 255), mount / DIRECTORY / ("n" * 256)
    assert error(call, longer, mount) == (asked_first or errno.ENAMETOOLONG)
    assert error(call, longest, mount) == (errno.EROFS if call in MAKING else asked_first or 2)
    assert os.pathconf(mount, "PC_NAME_MAX") == 255


@pytest.mark.parametrize("call", CHANGING | REMOVING)
def test_what_is_there_cannot_be_changed(mount, call):
    assert error(call, mount / FILE, mount) == errno.EROFS


@pytest.mark.parametrize("call", CHANGING)
def test_what_is_not_there_cannot_be_changed(mount, call):
    assert error(call, mount / NEW, mount) == errno.ENOENT


@pytest.mark.parametrize("call", MAKING)
def test_what_is_to_be_made_is_refused_and_what_is_there_exists(mount, call):
    assert error(call, mount / NEW, mount) == errno.EROFS
    assert error(call, mount / FILE, mount) == errno.EEXIST
    assert error(call, mount / DIRECTORY, mount) == errno.EEXIST


@pytest.mark.parametrize(
    ("flags", "path", "expected"),
    [
        (os.O_RDWR, DIRECTORY, errno.EISDIR),
        (os.O_CREAT, DIRECTORY, errno.EISDIR),
        (os.O_DIRECTORY, FILE, errno.ENOTDIR),
        (os.O_RDONLY, f"{FILE}/", errno.ENOTDIR),
        (os.O_TRUNC, FILE, errno.EROFS),
        (os.O_CREAT, FILE, 0),
        (os.O_APPEND, FILE, 0),
        (os.O_NOATIME, FILE, 0),
        (os.O_PATH | os.O_NOFOLLOW, FILE, 0),
        (os.O_TMPFILE | os.O_RDWR, DIRECTORY, errno.EROFS),
    ],
)
def test_flags_of_open(mount, flags, path, expected):
    fd = LIBC.open(os.fsencode(f"{mount}/{path}"), flags, 0o644)
    assert (ctypes.get_errno() if fd == -1 else 0) == expected
    if fd >= 0:
        os.close(fd)


def test_a_link_is_not_followed_where_it_may_not_be(mount):
    links = [p for p in (mount / LINKS).iterdir() if p.is_symlink()]
    with pytest.raises(OSError) as caught:
        os.open(links[0], os.O_RDONLY | os.O_NOFOLLOW)
    assert caught.value.errno == errno.ELOOP
    assert os.path.isdir(links[0])
    with pytest.raises(OSError) as caught:
        os.readlink(mount / FILE)
    assert caught.value.errno == errno.EINVAL


def test_names_are_not_moved_to_another_filesystem(mount, tmp_path):
    with pytest.raises(OSError) as caught:
        os.rename(mount / FILE, tmp_path / "moved")
    assert caught.value.errno == errno.EXDEV
    with pytest.raises(OSError) as caught:
        os.link(mount / FILE, tmp_path / "linked")
    assert caught.value.errno == errno.EXDEV
    assert os.listdir(tmp_path) == []


def test_a_descriptor_that_reads_does_not_write(mount):
    fd = os.open(mount / FILE, os.O_RDONLY)
    try:
        for change, expected in (
            (lambda: os.write(fd, b"x"), errno.EBADF),
            (lambda: os.pwrite(fd, b"x", 0), errno.EBADF),
            (lambda: os.ftruncate(fd, 0), errno.EINVAL),
            (lambda: os.posix_fallocate(fd, 0, 1), errno.EBADF),
            (lambda: os.fchmod(fd, 0o600), errno.EROFS),
            (lambda: os.fchown(fd, 1, 1), errno.EROFS),
            (lambda: os.utime(fd), errno.EROFS),
            (lambda: mmap.mmap(fd, 4096, prot=mmap.PROT_WRITE), errno.EACCES),
        ):
            with pytest.raises(OSError) as caught:
                change()
            assert caught.value.errno == expected
        os.fsync(fd)
        os.fdatasync(fd)
    finally:
        os.close(fd)


def test_a_directory_is_not_read_as_a_file(mount):
    fd = os.open(mount / DIRECTORY, os.O_RDONLY)
    with pytest.raises(IsADirectoryError):
        os.read(fd, 10)
    os.close(fd)
    with pytest.raises(NotADirectoryError):
        os.listdir(mount / FILE)
