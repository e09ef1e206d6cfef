"""``virtiofs``: an image is a directory of a host, which its VMs mount.

SOURCE is the directory's path, the same as PATH; SIZE is 0 and FORMAT ``dir``. Whoever may register
an image writes the path into OpenNebula's database, so it counts only below a directory that the
configuration names: ``[datastores] directories``, or one that ``[datastores.paths]`` maps.
VMs and the host write to it at any time, so a state in which a VM uses it changes nothing.
Source: OpenNebula's datastore driver of this name, 7.2.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import trio

from nebfs.datastores.places import PathMap, is_inside, plain
from nebfs.datastores.state import listed, trouble_of
from nebfs.errors import Unreachable
from nebfs.fetcher.messages import Call
from nebfs.model import Datastore, Holding, Image, ImageState, Locator, Trouble

_THREADS = 4  # for each datastore: a dead NFS server holds no more, and not those of the others

_USED = {ImageState.USED_PERS, ImageState.LOCKED_USED_PERS}

_DISK_TROUBLE = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENODEV, errno.EREMOTEIO})


class VirtiofsDatastore:
    """Looks where the directories are; what is in them is the tree's to show."""

    def __init__(
        self,
        *,
        paths: Mapping[str, str],
        call: Call | None = None,  # noqa: ARG002 - what is elsewhere is not reached
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """See DriverFactory. `settings`: ``directories`` of this machine that may be shown."""
        self._map = PathMap(paths)
        named = [plain(one) for one in (settings or {}).get("directories", ())]
        self._allowed = tuple(one for one in named if one not in {"", "/"})
        self._mapped = tuple(
            (plain(theirs), plain(ours))
            for theirs, ours in paths.items()
            if plain(theirs) and plain(ours) not in {"", "/"}
        )
        self._limiters: dict[int, trio.CapacityLimiter] = {}

    async def holdings(self, datastore: Datastore, images: Sequence[Image]) -> tuple[Holding, ...]:
        """See DatastoreDriver. Raises Unreachable when the disk gives an I/O error for all."""
        shown = listed(datastore, images)
        limiter = self._limiters.setdefault(datastore.id, trio.CapacityLimiter(_THREADS))
        found = await trio.to_thread.run_sync(
            partial(self._all, datastore, shown), abandon_on_cancel=True, limiter=limiter
        )
        failed = [one for one in found if isinstance(one, OSError)]
        if failed and len(failed) == len(found):
            raise Unreachable("the disk gives errors", n=failed[0].errno)
        return tuple(
            Holding(image, directory=Locator("file", one))
            if isinstance(one, str)
            else Holding(image, trouble=one if isinstance(one, Trouble) else _broken(one))
            for image, one in zip(shown, found, strict=True)
        )

    def _all(self, datastore: Datastore, images: Sequence[Image]) -> list[str | Trouble | OSError]:
        """Return the directory of each image, or why there is none. Blocks."""
        return [self._one(datastore, image) for image in images]

    def _one(self, datastore: Datastore, image: Image) -> str | Trouble | OSError:
        trouble = None if image.state in _USED else trouble_of(image, datastore)
        if trouble is None and image.unreadable:
            trouble = Trouble(errno.EIO, image.unreadable)
        if trouble is not None:
            return trouble
        source = plain(image.source.strip())
        if not source:
            return Trouble(errno.EIO, "OpenNebula's record of the image has no directory")
        host, _ = self._map.remote(source)
        if host:
            return Trouble(
                errno.EOPNOTSUPP,
                "its directory is on another machine: mount it here, and map it to where it is",
            )
        path = self._map.local(source)
        mapped = [ours for theirs, ours in self._mapped if _holds(theirs, source)]
        root = next((r for r in (*self._allowed, *mapped) if _holds(r, path)), "")
        if not root:
            return Trouble(
                errno.EACCES,
                f"its directory {source} is not one that may be shown: name it, or one above it, in"
                " [datastores] directories",
            )
        return _resolved(path, root)


def _holds(directory: str, path: str) -> bool:
    return path == directory or is_inside(path, directory)


def _resolved(path: str, root: str) -> str | Trouble | OSError:
    """Return `path` without links in it, or why it is not shown; an OSError is the disk's."""
    try:
        real_root = os.path.realpath(root, strict=True)
        real = os.path.realpath(path, strict=True)
        if not _holds(real_root, real):
            return Trouble(errno.EACCES, "its directory is a link that leads out of what is shown")
        if real == "/":
            return Trouble(errno.EACCES, "its directory is the whole machine")
        if not stat.S_ISDIR(os.lstat(real).st_mode):
            return Trouble(errno.EIO, "what OpenNebula says is its directory is none")
    except (OSError, ValueError) as exc:  # ValueError: what no file can be called
        number = exc.errno if isinstance(exc, OSError) else errno.ENOENT
        if isinstance(exc, OSError) and number in _DISK_TROUBLE:
            return exc
        if number in {errno.EACCES, errno.EPERM}:
            return Trouble(errno.EACCES, "nebfs's own user may not enter its directory")
        if number == errno.ELOOP:
            return Trouble(errno.EIO, "its directory is a link that leads to itself")
        # Not ENOENT: rsync takes that for "vanished" and carries on without it.
        return Trouble(errno.EIO, "its directory is not on this machine; mount it here")
    return real


def _broken(failure: OSError) -> Trouble:
    return Trouble(errno.EIO, f"its directory cannot be looked at (error {failure.errno})")
