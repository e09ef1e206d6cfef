"""``dev``: images are block devices of the hosts, such as LUNs, as they are (raw device mapping).

SOURCE is the device's path on the hosts; OpenNebula never copies it, does not know its
length, and gives it only to one VM at a time. The path comes from a database and is below no
directory of a datastore, so the administrator says which devices may be read (``devices``).
Source: OpenNebula's datastore and transfer drivers of this name, 7.4.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import trio

from nebfs.datastores.places import PathMap, plain
from nebfs.datastores.state import listed, trouble_of
from nebfs.fetcher.messages import Call
from nebfs.model import Content, Datastore, Holding, Image, ImageType, Locator, Trouble, shown_line

TRANSPORT = "device"

_THREADS = 2
"""Looks at a time: udev's directories are in memory."""


class DeviceDatastore:
    """Looks whether the images' devices are on this machine, and does not open them."""

    def __init__(
        self,
        *,
        paths: Mapping[str, str],
        call: Call | None = None,  # noqa: ARG002 - devices of other machines are not read
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """See DriverFactory. `settings`: ``devices``, patterns of paths on this machine; a ``*``
        stands for a part of one name.
        """
        self._map = PathMap(paths)
        patterns = (settings or {}).get("devices", ())
        # A relative one would fit the end of any path.
        self._allowed = tuple(str(one) for one in patterns if str(one).startswith("/"))
        self._limiters: dict[int, trio.CapacityLimiter] = {}

    async def holdings(self, datastore: Datastore, images: Sequence[Image]) -> tuple[Holding, ...]:
        """See DatastoreDriver."""
        shown = listed(datastore, images)
        limiter = self._limiters.setdefault(datastore.id, trio.CapacityLimiter(_THREADS))
        return await trio.to_thread.run_sync(
            self._examine, datastore, shown, limiter=limiter, abandon_on_cancel=True
        )

    def _examine(self, datastore: Datastore, images: Sequence[Image]) -> tuple[Holding, ...]:
        return tuple(self._holding(datastore, image) for image in images)

    def _holding(self, datastore: Datastore, image: Image) -> Holding:
        found = trouble_of(image, datastore) or self._located(image)
        if isinstance(found, str):
            found = _looked(found) or found
        if isinstance(found, Trouble):
            return Holding(image, trouble=found)
        content = Content(
            # Not what links lead to: names such as /dev/sdb are given anew at each start, and the
            # link is what says which disk is meant.
            Locator(TRANSPORT, found),
            format=image.format or "raw",
            media="cdrom" if image.type is ImageType.CDROM else "",
            version=f"{image.regtime}.{image.modtime}",
            volatile=True,
        )
        return Holding(image, content)

    def _located(self, image: Image) -> Trouble | str:
        """Return the path of the image's device here, or why there is none, by the text alone."""
        source = plain(image.source)
        if not source:
            return Trouble(errno.EIO, "OpenNebula's record of the image has no path to a device")
        host, _ = self._map.remote(source)
        if host:
            return Trouble(
                errno.EOPNOTSUPP,
                "it is a device of another machine: SFTP cannot tell its length, so nebfs reads"
                " devices only of the machine that it runs on",
            )
        path = self._map.local(source)
        if not any(PurePosixPath(path).match(pattern) for pattern in self._allowed):
            return Trouble(
                errno.EACCES,
                f"nebfs may not read {shown_line(path)}: the setting [datastores] devices says"
                " which devices it may, as patterns such as /dev/disk/by-id/*",
            )
        return path


def _looked(path: str) -> Trouble | None:
    """Say why there is no device at `path`, or None."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        # Not ENOENT: rsync takes that for "vanished" and carries on without the image.
        return Trouble(
            errno.EIO,
            "its device is not on this machine: it is one of the hosts'. Run nebfs on one of them,"
            " or map its path with [datastores.paths] if it has another name here",
        )
    except PermissionError:
        return Trouble(errno.EACCES, "nebfs's own user may not look at its device")
    except (OSError, ValueError) as exc:  # ValueError: a name that a file cannot have
        number = exc.errno if isinstance(exc, OSError) and exc.errno else errno.EIO
        return Trouble(errno.EIO, f"its device cannot be looked at (error {number})")
    if not stat.S_ISBLK(found.st_mode):
        return Trouble(errno.EACCES, "what its SOURCE names is no block device")
    return None
