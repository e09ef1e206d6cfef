"""``fs``: images are files below the datastore's BASE_PATH.

Where the file is on this machine, or mounted on it, it is read in place. Else it is read through
SFTP from one of the datastore's bridges, or from the host that ``[datastores.paths]`` names.

SOURCE is ``BASE_PATH/<32 hex digits>``; snapshots are in ``SOURCE.snap/``, see chains.py. An image
that is a chain of qcow2 files is given as the raw disk that a VM would see, any other as its file.
Source: OpenNebula's datastore driver of this name and the transfer drivers that go with it
(shared, qcow2, ssh, local), 7.4.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from nebfs.datastores import snapshots
from nebfs.datastores.bridges import Elsewhere, elsewhere
from nebfs.datastores.chains import Files
from nebfs.datastores.look import Looked, look
from nebfs.datastores.places import PathMap, is_inside, plain
from nebfs.datastores.state import listed, trouble_of
from nebfs.errors import NebfsError, Unreachable, Unsupported
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
    shown_line,
)

# One lstat() takes microseconds on a local disk and a round trip on NFS: a batch is long enough to
# pay for its thread, and four at a time hide the round trips.
_BATCH = 256
_THREADS = 4

_FAR_BATCH = 2000
"""Files that are looked at on another machine with one question."""


class FilesystemDatastore:
    """Looks at the images' files, in worker threads that are abandoned when a disk hangs."""

    def __init__(
        self,
        *,
        paths: Mapping[str, str],
        call: Call | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """See DriverFactory. `settings`: ``user`` who logs in on other machines, ``identity`` and
        ``known-hosts``, files to use there; each may be missing.
        """
        self._map = PathMap(paths)
        self._call = call
        self._settings = dict(settings or {})
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
        looked_at = [one.looked.failed for one in examined if one.looked is not None]
        if looked_at and _DISK_TROUBLE.issuperset(looked_at):
            # Not one file could be looked at: what was known of the place before is better.
            base = datastore.base_path
            raise Unreachable("the datastore's disk gives errors", path=base, n=looked_at[0])
        place = None if self._call is None else elsewhere(datastore, self._map, self._settings)
        if place is None:
            names = _names(shown)
            return tuple(one.holding(datastore, names) for one in examined)
        return await self._with_those_elsewhere(datastore, examined, *place)

    async def _with_those_elsewhere(
        self,
        datastore: Datastore,
        examined: Sequence[_Examined],
        place: Elsewhere,
        base: str,
    ) -> tuple[Holding, ...]:
        """Look for the files that are not here. Raises what `call` raises if no file is here."""
        theirs = plain(datastore.base_path)
        names = _names(one.image for one in examined)
        paths = {
            one.image.id: base + source[len(theirs) :]
            for one in examined
            if one.looked is not None
            and one.looked.failed in _NOT_HERE
            and is_inside(source := plain(one.image.source), theirs)
        }
        try:
            looked_at = await self._look_elsewhere(place, base, list(paths.values()))
        except NebfsError as exc:
            if isinstance(exc, Unsupported):
                number = errno.EOPNOTSUPP
            elif any(one.looked is not None and not one.looked.failed for one in examined):
                number = exc.errno
            else:
                raise
            trouble = Trouble(number, f"its file is on another machine ({place.shown}): {exc}")
            return tuple(
                _without(one.image, trouble)
                if one.image.id in paths
                else one.holding(datastore, names)
                for one in examined
            )
        found = dict(zip(paths, looked_at, strict=True))
        return tuple(
            _holding(one.image, found[one.image.id], datastore, place, names)
            if one.image.id in paths
            else one.holding(datastore, names)
            for one in examined
        )

    async def _look_elsewhere(
        self, place: Elsewhere, base: str, paths: Sequence[str]
    ) -> list[Looked]:
        assert self._call is not None  # noqa: S101 - else no place was looked for
        found: list[Looked] = []
        for start in range(0, len(paths), _FAR_BATCH):
            found += await place.look(self._call, base, paths[start : start + _FAR_BATCH])
        if found and _DISK_TROUBLE.issuperset(one.failed for one in found):
            raise Unreachable("the datastore's disk gives errors", hosts=place.shown)
        return found

    def _examine(self, datastore: Datastore, images: Sequence[Image]) -> tuple[_Examined, ...]:
        """Judge `images` and look at their files. Blocks."""
        base = self._map.local(plain(datastore.base_path))
        judged = {i.id: trouble_of(i, datastore) or self._locate(i, base) for i in images}
        paths = [path for path in judged.values() if isinstance(path, str)]
        looked_at = dict(zip(paths, look(base, paths), strict=True))
        return tuple(
            _Examined(image, where, None)
            if isinstance(where := judged[image.id], Trouble)
            else _Examined(image, None, looked_at[where])
            for image in images
        )

    def _locate(self, image: Image, base: str) -> Trouble | str:
        """Return the path of the image's file here, or why there is none, by the text alone."""
        if not base or base == "/":
            return Trouble(errno.EIO, "the datastore has no usable BASE_PATH")
        source = plain(image.source)
        if not source:
            return Trouble(errno.EIO, "OpenNebula's record of the image has no path to its file")
        path = self._map.local(source)
        return path if is_inside(path, base) else _OUTSIDE


@dataclass(frozen=True, slots=True)
class _Examined:
    """An image, and either why it has no file or what there is on this machine."""

    image: Image
    trouble: Trouble | None
    looked: Looked | None

    def holding(self, datastore: Datastore, names: frozenset[str]) -> Holding:
        """Return what is known from this machine alone."""
        if self.looked is None:
            assert self.trouble is not None  # noqa: S101 - one of the two is there
            return _without(self.image, self.trouble)
        return _holding(self.image, self.looked, datastore, None, names)


_OUTSIDE = Trouble(
    errno.EACCES,
    "its file is outside the datastore's directory, where nebfs does not read; if a"
    " [datastores.paths] entry maps only a part of the datastore, map all of it",
)
_NO_SNAPSHOTS = Trouble(errno.EIO, "there are no snapshots beside the image's file")
_NOT_HERE = frozenset({errno.ENOENT, errno.ENOTDIR})
_DISK_TROUBLE = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENODEV, errno.EREMOTEIO})


def _names(images: Iterable[Image]) -> frozenset[str]:
    """Return what the files of `images` are called in their directories."""
    return frozenset(image.source.rpartition("/")[2] for image in images)


def _without(image: Image, trouble: Trouble) -> Holding:
    """Return an image that cannot be had now, nor what it was before."""
    lost = snapshots.parts(image, trouble, _here)
    return Holding(image, trouble=trouble, snapshots=lost)


def _here(path: str) -> Locator:
    return Locator("file", path)


def _holding(
    image: Image,
    looked: Looked,
    datastore: Datastore,
    place: Elsewhere | None,
    names: frozenset[str],
) -> Holding:
    """Return what was found of an image; `names` are those of all files of the datastore."""
    trouble = _trouble(looked, datastore, place)
    if trouble is not None:
        return _without(image, trouble)
    locate = _here if place is None else partial(place.locator, turn=image.id)
    if looked.chain is not None:
        files = Files(looked.chain, image, datastore.transfer, names)
        content = snapshots.current(files, image, locate)
        parts = snapshots.parts(image, files, locate)
        if isinstance(content, Trouble):
            return Holding(image, trouble=content, snapshots=parts)
        return Holding(image, content, snapshots=parts)
    # The resolved path, so that a link that is changed later leads nowhere else.
    content = Content(
        locator=locate(looked.path),
        format=image.format,
        media="cdrom" if image.type is ImageType.CDROM else "",
        version=snapshots.state_of(image),
        revision=Revision(
            size=looked.size,
            modified=str(looked.modified_ns),
            etag="" if place is not None else f"{looked.device}:{looked.inode}",
        ),
        allocated=looked.allocated,
    )
    return Holding(image, content, snapshots=snapshots.parts(image, _NO_SNAPSHOTS, locate))


def _trouble(looked: Looked, datastore: Datastore, place: Elsewhere | None) -> Trouble | None:
    match looked.failed:
        case 0:
            pass
        case errno.ENOENT | errno.ENOTDIR:
            return _not_here(datastore, place)
        case errno.EACCES | errno.EPERM:
            who = "nebfs's own user" if place is None else f"who logs in at {place.shown}"
            return Trouble(errno.EACCES, f"{who} may not enter the datastore's directory")
        case errno.ELOOP:
            return Trouble(errno.EIO, "its file is a link that leads to itself")
        case other:
            return Trouble(errno.EIO, f"its file cannot be looked at (error {other})")
    if looked.outside:
        return _OUTSIDE
    if looked.kind != "file" and not (looked.chain is not None and looked.kind == "link"):
        return Trouble(
            errno.EOPNOTSUPP, f"its SOURCE is a {looked.kind}: nebfs reads only files here"
        )
    return None


def _not_here(datastore: Datastore, place: Elsewhere | None) -> Trouble:
    # Not ENOENT: rsync takes that for "vanished" and carries on, and a backup would lack the image
    # with nothing more than a warning.
    if place is not None:
        return Trouble(errno.EIO, f"its file is neither on this machine nor on {place.shown}")
    bridges = shown_line(datastore.template.get("BRIDGE_LIST"))
    if bridges:
        return Trouble(
            errno.EOPNOTSUPP, f"its file is on a bridge ({bridges}) that nebfs has no way to"
        )
    return Trouble(
        errno.EIO,
        "its file is not on this machine; the datastore's BASE_PATH may be on another host: mount"
        " it here, and map it with [datastores.paths], or name the host there: sftp://user@host/path",
    )
