"""``fs``: images are files below the datastore's BASE_PATH, on this machine or mounted on it.

SOURCE is ``BASE_PATH/<32 hex digits>``; snapshots are in ``SOURCE.snap/``.
Source: OpenNebula's datastore driver of this name and the transfer drivers that go with it
(shared, qcow2, ssh, local), 7.4.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from nebfs.datastores.look import Looked, look
from nebfs.datastores.places import PathMap, is_inside, plain
from nebfs.datastores.state import listed, trouble_of
from nebfs.errors import Unreachable
from nebfs.fetcher.messages import Call
from nebfs.model import (
    Content,
    Datastore,
    Holding,
    Image,
    ImageType,
    Locator,
    Revision,
    Trouble,
)

# One lstat() takes microseconds on a local disk and a round trip on NFS: a batch is long enough to
# pay for its thread, and four at a time hide the round trips.
_BATCH = 256
_THREADS = 4


class FilesystemDatastore:
    """Looks at the images' files, in worker threads that are abandoned when a disk hangs."""

    def __init__(
        self,
        *,
        paths: Mapping[str, str],
        call: Call | None = None,  # noqa: ARG002 - files elsewhere are not read yet
    ) -> None:
        """See DriverFactory."""
        self._map = PathMap(paths)
        # One per datastore: threads that a dead NFS server holds must not delay the others, and
        # refreshing again and again must not collect more of them.
        self._limiters: dict[int, trio.CapacityLimiter] = {}

    async def holdings(self, datastore: Datastore, images: Sequence[Image]) -> tuple[Holding, ...]:
        """See DatastoreDriver. Raises Unreachable when the disk gives an I/O error."""
        shown = listed(datastore, images)
        limiter = self._limiters.setdefault(datastore.id, trio.CapacityLimiter(_THREADS))
        results: dict[int, tuple[_Examined, ...]] = {}

        async def batch(start: int) -> None:
            work = partial(self._examine, datastore, shown[start : start + _BATCH])
            results[start] = await trio.to_thread.run_sync(
                work, abandon_on_cancel=True, limiter=limiter
            )

        async with trio.open_nursery() as nursery:
            for start in range(0, len(shown), _BATCH):
                nursery.start_soon(batch, start)
        examined = [one for start in sorted(results) for one in results[start]]
        looked_at = [one.failed for one in examined if one.failed is not None]
        if looked_at and _DISK_TROUBLE.issuperset(looked_at):
            # Not one file could be looked at: what was known of the place before is better.
            base = datastore.base_path
            raise Unreachable("the datastore's disk gives errors", path=base, n=looked_at[0])
        return tuple(one.holding for one in examined)

    def _examine(self, datastore: Datastore, images: Sequence[Image]) -> tuple[_Examined, ...]:
        """Judge `images` and look at their files. Blocks."""
        base = self._map.local(plain(datastore.base_path))
        judged = {i.id: trouble_of(i, datastore) or self._locate(i, base) for i in images}
        paths = [path for path in judged.values() if isinstance(path, str)]
        looked_at = dict(zip(paths, look(base, paths), strict=True))
        examined: list[_Examined] = []
        for image in images:
            where = judged[image.id]
            if isinstance(where, Trouble):
                examined.append(_Examined(Holding(image, trouble=where), None))
            else:
                looked = looked_at[where]
                examined.append(_Examined(_holding(image, looked, datastore), looked.failed))
        return tuple(examined)

    def _locate(self, image: Image, base: str) -> Trouble | str:
        """Return the path of the image's file here, or why there is none, by the text alone."""
        if image.snapshots:
            return _CHAINED
        if not base or base == "/":
            return Trouble(errno.EIO, "the datastore has no usable BASE_PATH")
        source = plain(image.source)
        if not source:
            return Trouble(errno.EIO, "OpenNebula's record of the image has no path to its file")
        path = self._map.local(source)
        return path if is_inside(path, base) else _OUTSIDE


@dataclass(frozen=True, slots=True)
class _Examined:
    """A holding, and the errno of looking at its file: 0 when that went well, None without one."""

    holding: Holding
    failed: int | None


_CHAINED = Trouble(errno.EOPNOTSUPP, "it has snapshots: snapshot chains are not read yet")
_OUTSIDE = Trouble(
    errno.EACCES,
    "its file is outside the datastore's directory, where nebfs does not read; if a"
    " [datastores.paths] entry maps only a part of the datastore, map all of it",
)
_DISK_TROUBLE = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENODEV, errno.EREMOTEIO})


def _holding(image: Image, looked: Looked, datastore: Datastore) -> Holding:
    trouble = _trouble(looked, datastore)
    if trouble is not None:
        return Holding(image, trouble=trouble)
    content = Content(
        # The resolved path, so that a link that is changed later leads nowhere else.
        locator=Locator("file", looked.path),
        format=image.format,
        media="cdrom" if image.type is ImageType.CDROM else "",
        revision=Revision(
            size=looked.size,
            modified=str(looked.modified_ns),
            etag=f"{looked.device}:{looked.inode}",
        ),
        allocated=looked.allocated,
    )
    return Holding(image, content)


def _trouble(looked: Looked, datastore: Datastore) -> Trouble | None:
    match looked.failed:
        case 0:
            pass
        case errno.ENOENT | errno.ENOTDIR:
            return _not_here(datastore)
        case errno.EACCES | errno.EPERM:
            return Trouble(errno.EACCES, "nebfs's own user may not enter the datastore's directory")
        case errno.ELOOP:
            return Trouble(errno.EIO, "its file is a link that leads to itself")
        case other:
            return Trouble(errno.EIO, f"its file cannot be looked at (error {other})")
    if looked.chained:
        return _CHAINED
    if looked.outside:
        return _OUTSIDE
    if looked.kind != "file":
        return Trouble(
            errno.EOPNOTSUPP, f"its SOURCE is a {looked.kind}: nebfs reads only files here"
        )
    return None


def _not_here(datastore: Datastore) -> Trouble:
    bridges = datastore.template.get("BRIDGE_LIST").strip()
    if bridges:
        return Trouble(
            errno.EOPNOTSUPP,
            f"its file is on a bridge ({bridges}), and nebfs does not read through bridges yet",
        )
    # Not ENOENT: rsync takes that for "vanished" and carries on, and a backup would lack the image
    # with nothing more than a warning.
    return Trouble(
        errno.EIO,
        "its file is not on this machine; the datastore's BASE_PATH may be on another host: mount"
        " it here, and map it with [datastores.paths]",
    )
