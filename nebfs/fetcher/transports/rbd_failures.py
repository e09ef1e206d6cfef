"""What librados and librbd report as errno, in words that name the remedy."""

from __future__ import annotations

import errno
import os

from nebfs.errors import BadAnswer, Missing, NebfsError, Refused, Unreachable
from nebfs.fetcher.transports.rbd_places import Door, Place

DENIED = frozenset((errno.EACCES, errno.EPERM))
SHUT_OUT = errno.ESHUTDOWN
"""Ceph's EBLOCKLISTED: an administrator, or a timeout, has shut this client out."""


def number_of(exc: BaseException) -> int:
    """Return the errno that an exception of the binding carries; EIO if it has none."""
    number = getattr(exc, "errno", None)
    return abs(number) if isinstance(number, int) and number else errno.EIO


def of_entering(number: int, door: Door, after: float) -> NebfsError:
    """Say why the cluster cannot be entered."""
    if number in DENIED:
        return Refused(
            "the cluster does not know this user, or its key is another one", user=door.who
        )
    if number == errno.ENOENT:
        return Refused(
            "there is no key for this user here: name its file in [ceph] keyring, or put it to"
            f" /etc/ceph/ceph.{door.who}.keyring",
            user=door.who,
        )
    if number in (errno.EINVAL, errno.EIO):
        return Refused("the key or the configuration of Ceph cannot be used", user=door.who)
    if number == errno.ETIMEDOUT:
        where = door.conf or door.monitors
        return Unreachable("no monitor of the cluster answered in time", after=after, where=where)
    return Unreachable("the cluster cannot be entered", reason=os.strerror(number))


def of_asking(number: int, place: Place, door: Door, after: float) -> NebfsError:
    """Say why the cluster does not give what it was asked for."""
    if number in DENIED:
        return Refused(
            f"the cluster does not let {door.who} read the pool {place.pool}: give it the caps"
            f" mon 'profile rbd-read-only' osd 'profile rbd-read-only pool={place.pool}'",
            user=door.who,
            pool=place.pool,
        )
    if number == errno.ENOENT:
        if not place.image:
            return Missing("the cluster has no such pool", pool=place.pool)
        return Missing("the pool has no such image", image=place.shown)
    if number == errno.ETIMEDOUT:
        return Unreachable("the cluster fell silent", after=after, image=place.shown)
    if number == SHUT_OUT:
        return Unreachable("the cluster has shut this client out", image=place.shown)
    if number == errno.EINVAL:
        return BadAnswer("the image cannot be understood", image=place.shown)
    return Unreachable("the cluster gives an error", reason=os.strerror(number), image=place.shown)
