"""Holes in cache files: what leaves gives its space back to the filesystem."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

import structlog

log = structlog.get_logger()


def runs(slots: Sequence[int]) -> list[tuple[int, int]]:
    """Return ascending `slots` as (first, stop) runs of neighbours."""
    found: list[tuple[int, int]] = []
    for slot in slots:
        if found and found[-1][1] == slot:
            found[-1] = (found[-1][0], slot + 1)
        else:
            found.append((slot, slot + 1))
    return found


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give the space of a range back to the filesystem; it reads as zeros afterwards. Blocking.

    A filesystem that cannot punch holes keeps the bytes; the index has forgotten them already.
    """
    try:
        _fallocate(fd, offset, length)
    except OSError as exc:
        if exc.errno not in {errno.EOPNOTSUPP, errno.ENOSYS}:
            log.warning("cache.punch_failed", error=str(exc))


def _fallocate(fd: int, offset: int, length: int) -> None:
    import ctypes  # noqa: PLC0415 - only eviction needs it

    # fallocate(2); os has only posix_fallocate. FALLOC_FL_KEEP_SIZE 1 | FALLOC_FL_PUNCH_HOLE 2.
    libc = ctypes.CDLL(None, use_errno=True)
    off_t = ctypes.c_int64
    if libc.fallocate64(fd, 3, off_t(offset), off_t(length)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
