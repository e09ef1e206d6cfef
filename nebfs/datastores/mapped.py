"""Datastores of which an administrator has said where their images are: ``[datastores.mappings]``.

For storage that nebfs has no driver for, or none that does what is wanted. See mapping.py for what
can be written. A file or a block device is read in place, and never outside of the directory that
the mapping begins with (for a device in /dev: of that). What is elsewhere is read by HTTP or SFTP.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from functools import partial

import trio

from nebfs.datastores.bridges import Elsewhere
from nebfs.datastores.look import Looked, look
from nebfs.datastores.mapping import Place, Unfit
from nebfs.datastores.places import is_inside
from nebfs.datastores.state import listed, trouble_of
from nebfs.errors import Unreachable, Unsupported
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

_THREADS = 4
"""Lookers at a time for each datastore: round trips of NFS overlap, and a dead one holds few."""

_BATCH = 256

_FAR_BATCH = 2000
"""Files that are looked at on another machine with one question."""

_DISK_TROUBLE = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENODEV, errno.EREMOTEIO})


_DEV = "/dev"
_OUTSIDE = Trouble(
    errno.EACCES, "its file is a link that leads out of the directory of the mapping"
)


class MappedDatastore:
    """Finds images by a mapping; `settings` are those of ``fs``, for SFTP."""

    def __init__(
        self, place: Place, *, call: Call | None, settings: Mapping[str, str] | None = None
    ) -> None:
        self._place = place
        self._call = call
        self._settings = dict(settings or {})
        self._limiters: dict[int, trio.CapacityLimiter] = {}

    async def holdings(self, datastore: Datastore, images: Sequence[Image]) -> tuple[Holding, ...]:
        """See DatastoreDriver. Raises Unreachable when no file can be looked at."""
        shown = listed(datastore, images)
        judged = {i.id: trouble_of(i, datastore) or self._named(i, datastore) for i in shown}
        troubles = {i: found for i, found in judged.items() if isinstance(found, Trouble)}
        names = _distinct({i: found for i, found in judged.items() if isinstance(found, str)})
        contents: dict[int, Content | Trouble] = dict(troubles)
        match self._place.scheme:
            case "file":
                contents |= await self._here(datastore, names)
            case "sftp":
                contents |= await self._there(names)
            case _:
                contents |= {
                    number: url if isinstance(url, Trouble) else Content(Locator("http", url))
                    for number, url in names.items()
                }
        return tuple(_holding(image, contents[image.id]) for image in shown)

    def _named(self, image: Image, datastore: Datastore) -> Trouble | str:
        """Return the path or the URL of an image, or why it has none, by the text alone."""
        try:
            if self._place.scheme in {"file", "sftp"}:
                return self._place.path_of(image, datastore)
            return self._place.url_of(image, datastore)
        except Unfit as exc:
            return Trouble(errno.EIO, f"it is not read by [datastores.mappings]: {exc}")

    async def _here(
        self, datastore: Datastore, names: Mapping[int, str | Trouble]
    ) -> dict[int, Content | Trouble]:
        limiter = self._limiters.setdefault(datastore.id, trio.CapacityLimiter(_THREADS))
        paths = {number: path for number, path in names.items() if isinstance(path, str)}
        numbers = list(paths)
        found: dict[int, Looked] = {}

        async def batch(some: list[int]) -> None:
            work = partial(look, self._place.directory, [paths[n] for n in some])
            looked = await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter)
            found.update(zip(some, looked, strict=True))

        async with trio.open_nursery() as nursery:
            for start in range(0, len(numbers), _BATCH):
                nursery.start_soon(batch, numbers[start : start + _BATCH])
        if found and _DISK_TROUBLE.issuperset(one.failed for one in found.values()):
            raise Unreachable("the disk gives errors", path=self._place.directory)
        contents: dict[int, Content | Trouble] = {}
        for number, path in names.items():
            contents[number] = path if isinstance(path, Trouble) else _local(found[number], path)
        return contents

    async def _there(self, names: Mapping[int, str | Trouble]) -> dict[int, Content | Trouble]:
        contents: dict[int, Content | Trouble] = {}
        if self._call is None:
            nobody = Trouble(errno.EOPNOTSUPP, "another machine cannot be reached from here")
            return dict.fromkeys(names, nobody)
        host = self._place.host
        user = self._settings.get("user", "")
        options = tuple(
            (name, self._settings[name])
            for name in ("identity", "known-hosts")
            if self._settings.get(name)
        )
        place = Elsewhere((f"{user}@{host}" if user and "@" not in host else host,), options)
        contents |= {n: path for n, path in names.items() if isinstance(path, Trouble)}
        paths = {n: path for n, path in names.items() if isinstance(path, str)}
        numbers = list(paths)
        for start in range(0, len(numbers), _FAR_BATCH):
            some = numbers[start : start + _FAR_BATCH]
            try:
                looked = await place.look(
                    self._call, self._place.directory, [paths[n] for n in some]
                )
            except Unsupported as exc:  # something is missing here, and stays so
                contents |= dict.fromkeys(some, Trouble(exc.errno, str(exc)))
                continue
            for number, one in zip(some, looked, strict=True):
                contents[number] = _far(one, place, number)
        return contents


def _distinct(names: Mapping[int, str]) -> dict[int, str | Trouble]:
    """Return `names`, with a Trouble for those that several images have: one of them would be shown
    with the bytes of another, which somebody may have wanted who gave it its name.
    """
    owners: dict[str, int] = {}
    for name in names.values():
        owners[name] = owners.get(name, 0) + 1
    twice = Trouble(
        errno.EIO, "[datastores.mappings] says that it is where another image is: use {id} in it"
    )
    return {number: name if owners[name] == 1 else twice for number, name in names.items()}


def _holding(image: Image, found: Content | Trouble) -> Holding:
    if isinstance(found, Trouble):
        return Holding(image, trouble=found)
    content = Content(
        found.locator,
        format=image.format,
        media="cdrom" if image.type is ImageType.CDROM else "",
        version="" if found.revision is not None else f"{image.regtime}.{image.modtime}",
        revision=found.revision,
        allocated=found.allocated,
        volatile=found.volatile,
    )
    return Holding(image, content)


def _local(looked: Looked, path: str) -> Content | Trouble:
    if looked.kind == "block device" and not looked.failed:
        # Directories in /dev are full of links that lead out of them, and root's alone.
        if looked.outside and not (is_inside(path, _DEV) and is_inside(looked.path, _DEV)):
            return _OUTSIDE
        # Not what a link leads to: that is given a new name at each start.
        return Content(Locator("device", path), volatile=True)
    trouble = _trouble(looked, "this machine")
    if trouble is not None:
        return trouble
    # The resolved path, so that a link that is changed later leads nowhere else.
    return Content(
        Locator("file", looked.path),
        revision=Revision(looked.size, f"{looked.device}:{looked.inode}", str(looked.modified_ns)),
        allocated=looked.allocated,
    )


def _far(looked: Looked, place: Elsewhere, turn: int) -> Content | Trouble:
    trouble = _trouble(looked, place.shown)
    if trouble is not None:
        return trouble
    return Content(
        place.locator(looked.path, turn),
        revision=Revision(looked.size, modified=str(looked.modified_ns)),
    )


def _trouble(looked: Looked, where: str) -> Trouble | None:
    match looked.failed:
        case 0:
            pass
        case errno.ENOENT | errno.ENOTDIR:
            # Not ENOENT: rsync takes that for "vanished" and carries on without the image.
            return Trouble(errno.EIO, f"{where} has no file where [datastores.mappings] says")
        case errno.EACCES | errno.EPERM:
            return Trouble(errno.EACCES, f"its file may not be looked at on {where}")
        case errno.ELOOP:
            return Trouble(errno.EIO, "its file is a link that leads to itself")
        case other:
            return Trouble(errno.EIO, f"its file cannot be looked at (error {other})")
    if looked.outside:
        return _OUTSIDE
    if looked.kind != "file":
        return Trouble(errno.EOPNOTSUPP, f"it is a {looked.kind}: nebfs reads only files here")
    return None
