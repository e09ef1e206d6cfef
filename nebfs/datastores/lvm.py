"""``lvm``: images are logical volumes of a group that all hosts share over a SAN.

SOURCE is ``vg-one-<datastore>/img-one-<image>``, below /dev; an image's snapshot is the volume
``img-one-<image>_one_s<snapshot>``, in 7.2 without the ``_one``. Before OpenNebula 5 SOURCE was
``HOST:VG_NAME.lv-one-<image>``, of a group that all hosts have.
Source: OpenNebula's datastore driver of this name (7.2, 7.4 and 4.4).
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from nebfs.content import lvm_report as report
from nebfs.content.layers.activated import why_not
from nebfs.content.layers.extents import etag_of
from nebfs.datastores.state import listed, trouble_of
from nebfs.errors import Missing, NebfsError, Unsupported
from nebfs.fetcher.messages import Call
from nebfs.model import (
    Content,
    Datastore,
    Holding,
    Image,
    ImageType,
    Locator,
    Part,
    Revision,
    Trouble,
)

TRANSPORT = "lvm"
ACTIVE_ONLY, ACTIVATE, EXTENTS = "active-only", "activate", "extents"

_TIMEOUT = 15.0
"""Seconds for the report on a group; the catalog has a limit on a whole place, 20 by default."""

_SOURCE = re.compile(r"(vg-one-[0-9]{1,10})/(img-one-[0-9]{1,10})", re.ASCII)
_OLD_SOURCE = re.compile(r"[^:/\s]{1,255}:(?P<volume>[^/\s]+\.lv-one-[0-9]{1,10})", re.ASCII)
_OLD_GROUP = "vg-one"  # VG_NAME's default
_SNAPSHOT_MARKS = ("_one_s", "_s")


@dataclass(frozen=True, slots=True)
class _Name:
    group: str
    volume: str

    @property
    def whole(self) -> str:
        return f"{self.group}/{self.volume}"


@dataclass(frozen=True, slots=True)
class _Group:
    """What this machine knows about a group: its volumes, or why LVM does not tell."""

    volumes: Mapping[str, report.Volume]
    failure: NebfsError | None = None


class LvmDatastore:
    """Asks LVM once about each group, and looks which volumes are active here."""

    def __init__(
        self,
        *,
        paths: Mapping[str, str],  # noqa: ARG002 - volumes are not below directories
        call: Call | None = None,  # noqa: ARG002 - nor on other machines
        settings: Mapping[str, Any] | None = None,
        devices: str = "/dev",
    ) -> None:
        """See DriverFactory. `settings`: ``mode``, one of content.layers.here.MODES. `devices` is
        where active volumes are.
        """
        self._mode = str((settings or {}).get("mode", ACTIVE_ONLY))
        self._devices = devices
        self._limiters: dict[int, trio.CapacityLimiter] = {}

    async def holdings(self, datastore: Datastore, images: Sequence[Image]) -> tuple[Holding, ...]:
        """See DatastoreDriver. Raises Unreachable and the like when LVM does not answer."""
        shown = listed(datastore, images)
        # One at a time: a report that hangs with a disk must not be asked for again and again.
        limiter = self._limiters.setdefault(datastore.id, trio.CapacityLimiter(1))
        return await trio.to_thread.run_sync(
            self._examine, datastore, shown, limiter=limiter, abandon_on_cancel=True
        )

    def _examine(self, datastore: Datastore, images: Sequence[Image]) -> tuple[Holding, ...]:
        judged = {i.id: trouble_of(i, datastore) or _name_of(i, datastore) for i in images}
        groups = _look({name.group for name in judged.values() if isinstance(name, _Name)})
        return tuple(self._holding(image, judged[image.id], groups) for image in images)

    def _holding(
        self, image: Image, name: Trouble | _Name, groups: Mapping[str, _Group]
    ) -> Holding:
        if isinstance(name, Trouble):
            return Holding(image, trouble=name)
        snapshots = tuple(self._snapshots(image, name, groups))
        found = self._content(image, name, groups)
        if isinstance(found, Trouble):
            return Holding(image, trouble=found, snapshots=snapshots)
        return Holding(image, found, snapshots=snapshots)

    def _snapshots(self, image: Image, name: _Name, groups: Mapping[str, _Group]) -> Iterator[Part]:
        for snapshot in image.snapshots:
            called = f"{snapshot.id}-{snapshot.name}" if snapshot.name else str(snapshot.id)
            names = [f"{name.volume}{mark}{snapshot.id}" for mark in _SNAPSHOT_MARKS]
            known = groups[name.group].volumes
            volume = next((one for one in names if one in known), names[0])
            found = self._content(image, _Name(name.group, volume), groups, frozen=True)
            if isinstance(found, Content):
                yield Part(called, found, date=snapshot.date)
            else:
                yield Part(called, trouble=found, date=snapshot.date)

    def _content(
        self, image: Image, name: _Name, groups: Mapping[str, _Group], *, frozen: bool = False
    ) -> Content | Trouble:
        group = groups[name.group]
        path = f"{self._devices}/{name.whole}"
        volume = group.volumes.get(name.volume)
        if group.failure is None and volume is None:
            # Not ENOENT: rsync takes that for "vanished" and carries on without the image.
            return Trouble(
                errno.EIO, f"the group has no volume {name.volume}; OpenNebula's record is wrong"
            )
        if not _is_active(path):
            trouble = self._why_not(group, volume, name)
            if trouble is not None:
                return trouble
        return Content(
            Locator(TRANSPORT, path, (("volume", name.whole), ("mode", self._mode))),
            format=image.format or "raw",
            media="cdrom" if image.type is ImageType.CDROM else "",
            version=f"{image.regtime}.{image.modtime}",
            revision=None if volume is None else Revision(volume.size, etag_of(volume)),
            # A VM on another host may be given a persistent image while it is read here.
            volatile=image.persistent and not frozen,
        )

    def _why_not(self, group: _Group, volume: report.Volume | None, name: _Name) -> Trouble | None:
        """Say why an inactive volume cannot be read, or None."""
        match group.failure:
            case None:
                pass
            case Missing():
                return Trouble(
                    errno.EIO,
                    f"the volume group {name.group} is not on this machine, or nebfs's own user may"
                    " not read its disks: run nebfs as root on a host that has them",
                )
            case failure:
                return Trouble(failure.errno, f"its volume is not active here, and {failure}")
        assert volume is not None  # noqa: S101 - _content() has looked
        if self._mode == ACTIVATE:
            reason = why_not(volume)
            return Trouble(errno.EBUSY, f"{reason} {name.whole}") if reason else None
        if self._mode == EXTENTS:
            if volume.is_plain and volume.kind == "linear":
                return None
            return Trouble(
                errno.EBUSY,
                "its volume is not active on this machine, and from its disks only linear ones are"
                f" read: this one is {volume.kind}",
            )
        return Trouble(
            errno.EBUSY,
            f"its volume is not active on this machine: lvchange -K -ay {name.whole}, where no VM"
            " uses it, or let nebfs read it with [datastores] lvm_mode",
        )


def _name_of(image: Image, datastore: Datastore) -> Trouble | _Name:
    """Return the image's volume, or why it has none, by the text alone."""
    source = image.source.strip()
    new = _SOURCE.fullmatch(source)
    if new is not None:
        name, group = _Name(new[1], new[2]), f"vg-one-{datastore.id}"
    else:
        old = _OLD_SOURCE.fullmatch(source)
        if old is None:
            return Trouble(errno.EIO, "the image's SOURCE is not one that OpenNebula gives here")
        group = datastore.template.get("VG_NAME").strip() or _OLD_GROUP
        name = _Name(*old["volume"].rsplit(".", 1))
    if name.group != group or not report.NAME.fullmatch(name.group):
        return Trouble(
            errno.EACCES, "its volume is not in the datastore's group, where nebfs does not read"
        )
    return name


def _look(groups: Iterable[str]) -> dict[str, _Group]:
    """Ask LVM about each group. Blocks. Raises what passes: Unreachable, TimedOut, BadAnswer."""
    found: dict[str, _Group] = {}
    for group in groups:
        try:
            found[group] = _Group(report.volumes(group, _TIMEOUT))
        except (Missing, Unsupported) as exc:
            found[group] = _Group({}, exc)
    return found


def _is_active(path: str) -> bool:
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False
