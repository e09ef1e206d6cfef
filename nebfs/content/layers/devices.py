"""Block devices of this machine: their length, which one it is, and reading what is on them now.

A device on a SAN is written to by other machines, and this one's page cache does not learn of it.
What others may write to is therefore read past the page cache (O_DIRECT). Where the device refuses
that, what the cache holds of the range is thrown away before each read.

Source: open(2) (O_DIRECT), posix_fadvise(2), and <linux/fs.h> for the ioctl.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import struct
from collections.abc import Callable

from nebfs.content.layers.inplace import InPlace, open_read_only
from nebfs.content.layers.waiting import opened
from nebfs.errors import Missing, NebfsError, Refused
from nebfs.model import Locator, Revision

UNIT = 4096
"""Bytes: offsets, lengths and addresses in memory of a direct read are multiples of it. It is the
largest logical block of ordinary disks; one that has larger ones says so."""

_LARGEST_UNIT = 64 << 10
_BLKSSZGET = 0x1268  # ioctl: the size of a logical block, in bytes

_GONE = {errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM}


def revision_of(fd: int) -> Revision:
    """Return what tells a device's content from another's: its length, and which device it is."""
    number = os.fstat(fd).st_rdev
    size = os.lseek(fd, 0, os.SEEK_END)
    return Revision(size, f"device:{os.major(number)}:{os.minor(number)}")


def look_at(locator: Locator, length: int) -> tuple[Revision, bytes]:
    """Return a device's revision and its first `length` bytes, or all if it has fewer. Blocks.

    Raises Missing, Refused or NebfsError.
    """
    fd = open_device(locator.address, fresh=True)
    try:
        revision = revision_of(fd)
        return revision, read_fresh(fd, min(length, revision.size), 0)
    except OSError as exc:
        raise NebfsError(f"cannot read the image's device: {exc.strerror}") from exc
    finally:
        os.close(fd)


async def open_reader(locator: Locator, revision: Revision, *, volatile: bool) -> InPlace:
    """Open a device for reading, as others may have it open at the same time.

    Raises Missing, Refused, NebfsError, or Changed (it is another one than was listed).
    """
    place = locator.address
    fd = await opened(place, lambda: open_device(locator.address, fresh=volatile))
    return reader(fd, revision, place=place, volatile=volatile)


def reader(
    fd: int,
    revision: Revision,
    *,
    place: str,
    volatile: bool,
    look: Callable[[int], Revision] = revision_of,
) -> InPlace:
    """Return a reader of the device that is open as `fd`, which it closes. Raises Changed."""
    if volatile:
        return InPlace(
            fd, revision, place=place, volatile=True, look=look, read=read_fresh, cached=False
        )
    return InPlace(fd, revision, place=place, look=look)


def open_device(path: str, *, fresh: bool) -> int:
    """Open the block device at `path`: read-only, and not for oneself. Blocks.

    `fresh`: it is to be read with ``read_fresh``. Raises Missing, Refused or NebfsError.
    """
    try:
        fd = open_read_only(path)
        if not stat.S_ISBLK(os.fstat(fd).st_mode):
            os.close(fd)
            raise Refused("what is there is no block device", path=path)
    except FileNotFoundError as exc:
        raise Missing("the image's device is not on this machine any more", path=path) from exc
    except PermissionError as exc:
        raise Refused(
            "the image's device may not be read by nebfs's own user: root may, or the group disk",
            path=path,
        ) from exc
    except OSError as exc:
        words = "there is nothing behind it" if exc.errno in _GONE else exc.strerror
        raise NebfsError(f"cannot open the image's device: {words}", path=path) from exc
    if fresh:
        _set_direct(fd, direct=True)
    return fd


def read_fresh(fd: int, length: int, offset: int) -> bytes:
    """Return `length` bytes at `offset` as they are on the device now; fewer at its end. Blocks."""
    unit = _unit(fd)
    start = offset - offset % unit
    stop = -(-(offset + length) // unit) * unit
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
        try:
            return _read(fd, start, stop)[offset - start : offset - start + length]
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            # Some drivers take the flag and refuse the read.
            _set_direct(fd, direct=False)
    os.posix_fadvise(fd, start, stop - start, os.POSIX_FADV_DONTNEED)
    return os.pread(fd, length, offset)


def _read(fd: int, start: int, stop: int) -> bytes:
    # The memory of an anonymous mapping starts at a page; a bytes object's does not.
    view = memoryview(mmap.mmap(-1, stop - start))
    got = 0
    while got < stop - start:
        n = os.preadv(fd, (view[got:],), start + got)
        if n == 0:
            break
        got += n
    return bytes(view[:got])


def _unit(fd: int) -> int:
    try:
        logical = int(struct.unpack("i", fcntl.ioctl(fd, _BLKSSZGET, b"\0" * 4))[0])
    except OSError:
        return UNIT
    return max(UNIT, min(logical, _LARGEST_UNIT))


def _set_direct(fd: int, *, direct: bool) -> None:
    flags = fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_DIRECT
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | (os.O_DIRECT if direct else 0))
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
