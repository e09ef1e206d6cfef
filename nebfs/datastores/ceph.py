"""``ceph``: images are RBD images of one pool of a Ceph cluster.

SOURCE is ``POOL/one-<ID>``; its snapshots are RBD's own, called by their ids. The bridges that
OpenNebula uses have a key of the cluster, and this machine needs one of its own: what the settings
say about the datastore comes first, then what they say about all, then the datastore's CEPH_USER,
CEPH_CONF and CEPH_KEY (paths on the bridges: used where there is such a file here), then Ceph's own
defaults.
Source: OpenNebula's datastore and transfer drivers of this name, 7.4.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

import trio

from nebfs.datastores.snapshots import state_of
from nebfs.datastores.state import listed, snapshot_part, trouble_of
from nebfs.errors import BadAnswer, Unsupported
from nebfs.fetcher.messages import Call, CallRequest
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

TRANSPORT = "rbd"
_POOL = "one"  # OpenNebula's default
_TIMEOUT = 60.0  # seconds; the catalog has a shorter limit on a place, and gives up by itself
_MAX_SIZE = 1 << 62

ALL = ""
"""The name in the settings of what holds for every datastore."""

_Found = dict[tuple[str, str], Content | Trouble]
"""Name of an image, name of a snapshot of it or nothing -> what there is."""

Settings = Mapping[str, Mapping[str, str]]
"""Datastore's id or name, or ALL -> those of ``conf``, ``keyring`` and ``user`` that are set."""


@dataclass(frozen=True, slots=True)
class _Door:
    """How the cluster is entered; the options of the transport (its rbd_places.py)."""

    conf: str = ""
    keyring: str = ""
    user: str = ""
    monitors: str = ""


class CephDatastore:
    """Asks the cluster what its images are; nothing of a cluster is on this machine."""

    def __init__(
        self,
        *,
        paths: Mapping[str, str],  # noqa: ARG002 - it has no directories
        call: Call | None,
        settings: Settings | None = None,
    ) -> None:
        """See DriverFactory."""
        self._call = call
        self._settings = settings or {}

    async def holdings(self, datastore: Datastore, images: Sequence[Image]) -> tuple[Holding, ...]:
        """See DatastoreDriver. Raises what the cluster says about a whole pool, such as Refused."""
        shown = listed(datastore, images)
        pool = datastore.template.get("POOL_NAME").strip() or _POOL
        judged = {i.id: trouble_of(i, datastore) or _name_of(i, pool) for i in shown}
        wanted = {
            (name, snapshot)
            for image in shown
            if isinstance(name := judged[image.id], str)
            for snapshot in ("", *(str(one.id) for one in image.snapshots))
        }
        found: _Found = {}
        if wanted:
            door = await trio.to_thread.run_sync(self._door, datastore, abandon_on_cancel=True)
            found = await self._look(door, pool, sorted(wanted))
        return tuple(_holding(image, judged[image.id], found) for image in shown)

    def _door(self, datastore: Datastore) -> _Door:
        """Say how the datastore's cluster is entered from here. Looks for files."""
        told: dict[str, str] = {}
        for name in (ALL, datastore.name, str(datastore.id)):
            told |= {k: v for k, v in self._settings.get(name, {}).items() if v}
        template = datastore.template
        return _Door(
            conf=told.get("conf") or _if_here(template.get("CEPH_CONF")),
            keyring=told.get("keyring") or _if_here(template.get("CEPH_KEY")),
            user=told.get("user") or template.get("CEPH_USER").strip(),
            monitors=" ".join(template.get("CEPH_HOST").split()),
        )

    async def _look(self, door: _Door, pool: str, wanted: Sequence[tuple[str, str]]) -> _Found:
        if self._call is None:
            elsewhere = Trouble(errno.EOPNOTSUPP, "a Ceph cluster cannot be reached from here")
            return dict.fromkeys(wanted, elsewhere)
        names = [name for name, snapshot in wanted if not snapshot]
        snapshots = [one for one in wanted if one[1]]
        question = {"door": asdict(door), "images": names, "snapshots": snapshots}
        request = CallRequest(
            "LOOK",
            # Which cluster it is the answer says.
            f"rbd://ceph/{quote(pool, safe='')}",
            body=json.dumps(question).encode(),
            timeout=_TIMEOUT,
            transport=TRANSPORT,
        )
        try:
            answer = json.loads((await self._call(request)).body)
        except Unsupported as exc:
            # It is not that the cluster is away: something is missing here, and stays so.
            return dict.fromkeys(wanted, Trouble(exc.errno, str(exc)))
        cluster, images = answer["cluster"], answer["images"] + answer["snapshots"]
        if len(images) != len(wanted):
            raise BadAnswer("not every image was looked at", asked=len(wanted), told=len(images))
        place = f"rbd://{cluster}/{quote(pool, safe='')}"
        options = tuple((key, text) for key, text in asdict(door).items() if text)
        asked = [*((name, "") for name in names), *snapshots]
        return {
            one: _found(place, one[1], options, facts)
            for one, facts in zip(asked, images, strict=True)
        }


def _name_of(image: Image, pool: str) -> Trouble | str:
    """Return the image's name in the pool, or why it has none, by the text alone."""
    where, slash, name = image.source.strip().partition("/")
    if not slash or not where or not name:
        return Trouble(errno.EIO, "OpenNebula's record of the image has no pool and name of it")
    # A slash would lead into a namespace, and @ to a snapshot: OpenNebula uses neither here.
    if set(name) & set("/@") or not name.isprintable():
        return Trouble(errno.EIO, "the image's name in its pool is not one that OpenNebula gives")
    if where != pool:
        return Trouble(
            errno.EACCES,
            "it is outside the datastore's pool (POOL_NAME), where nebfs does not read",
        )
    return name


def _holding(image: Image, name: Trouble | str, found: _Found) -> Holding:
    if isinstance(name, Trouble):
        return Holding(image, trouble=name)
    snapshots = tuple(
        snapshot_part(one, _with(found[name, str(one.id)], image)) for one in image.snapshots
    )
    known = _with(found[name, ""], image)
    if isinstance(known, Trouble):
        return Holding(image, trouble=known, snapshots=snapshots)
    return Holding(image, known, snapshots=snapshots)


def _found(
    place: str, snapshot: str, options: tuple[tuple[str, str], ...], facts: Mapping[str, Any]
) -> Content | Trouble:
    """Make of what the cluster said about an image where its bytes are, or why there are none."""
    match facts:
        case {"errno": errno.ENOENT}:
            # Not ENOENT: rsync takes that for "vanished" and carries on without the image.
            what = "snapshot" if snapshot else "image"
            return Trouble(errno.EIO, f"the pool has no such {what}; OpenNebula's record is wrong")
        case {"errno": int(number), "reason": str(reason)}:
            return Trouble(number, reason)
        case {
            "name": str(name),
            "size": int(size),
            "id": str(number),
            "modified": int(modified),
        } if 0 <= size <= _MAX_SIZE:
            address = f"{place}/{quote(name, safe='')}"
            if snapshot:
                address += f"@{quote(snapshot, safe='')}"
            locator = Locator(TRANSPORT, address, options)
            written = str(modified * 10**9) if modified else ""
            return Content(locator, format="raw", revision=Revision(size, number, written))
        case _:
            return Trouble(errno.EIO, "the cluster's answer about the image is not understood")


def _with(content: Content | Trouble, image: Image) -> Content | Trouble:
    """Return the content with what OpenNebula says about it."""
    if isinstance(content, Trouble):
        return content
    return Content(
        content.locator,
        format=content.format,
        media="cdrom" if image.type is ImageType.CDROM else "",
        # A VM may have written within the minute in which the cluster notes no second time.
        version=f"{image.regtime}.{image.modtime}{state_of(image)}",
        revision=content.revision,
    )


def _if_here(path: str) -> str:
    path = path.strip()
    return path if path.startswith("/") and os.path.isfile(path) else ""
