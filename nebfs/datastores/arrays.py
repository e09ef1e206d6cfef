"""What the drivers of storage arrays share: each image is a volume with one logical unit in it.

The array is asked what the volume is. Its bytes are read from a device of this machine, where the
unit is one (a host of the cloud has a path to it), or by iSCSI, where the array lets the initiator
of the settings in. Nothing is ever changed on the array: what it does not show us stays unread.
The volume of an image is ``one_<datastore>_<image>``, and a suffix that the template names.
Source: OpenNebula 7.4, chapters "NetApp SAN Datastore" and "PureStorage SAN Datastore" of its
documentation; the drivers themselves are not public.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeGuard

import trio

from nebfs.datastores.rest import Login
from nebfs.datastores.scsi_devices import DIRECTORIES, Device, find_devices
from nebfs.datastores.state import listed, trouble_of
from nebfs.errors import Refused, Unsupported
from nebfs.model import Content, Datastore, Holding, Image, ImageType, Locator, Trouble

_THREADS = 4
"""Lookers at a time: /dev and /sys answer at once, unless the machine is in trouble."""

_SUFFIX = re.compile(r"[A-Za-z0-9_-]{0,64}")
_PORTAL = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::([0-9]{1,5}))?")
_NAME = re.compile(r"(?:iqn\.[0-9]{4}-[0-9]{2}\.|eui\.|naa\.)[A-Za-z0-9:._-]{1,215}")
_MAX_SIZE = 1 << 62
_MAX_LUN = 16383  # what a flat LUN has room for (SAM-5)

ISCSI_PORT = 3260

Settings = Mapping[str, Any]
"""``initiator``: the name by which iSCSI targets know us; ``directories``: where devices are. Both
may be missing."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A logical unit, as its array describes it. `version` tells it from an earlier one."""

    wwid: str
    size: int
    version: str


class Array(Protocol):
    """One array, to be asked about one datastore."""

    login: Login

    async def units(self, prefix: str) -> Mapping[str, Unit | Trouble]:
        """Return the units of the volumes whose names begin with `prefix`, by the volume's name.

        Raises NebfsError when nothing can be known.
        """
        ...

    async def ways(self, initiator: str) -> Mapping[str, str]:
        """Return the iSCSI addresses of the units that `initiator` may read, by WWID."""
        ...


@dataclass(frozen=True, slots=True)
class _Ways:
    """iSCSI addresses by WWID, or why they are unknown."""

    addresses: Mapping[str, str] = field(default_factory=dict)
    unknown: str = ""


class Reach:
    """How this machine gets at the units of arrays."""

    def __init__(self, settings: Settings) -> None:
        """See Settings."""
        self._initiator = str(settings.get("initiator", ""))
        self._directories = tuple(settings.get("directories") or DIRECTORIES)
        self._turns = trio.CapacityLimiter(_THREADS)

    async def hold(
        self, datastore: Datastore, images: Sequence[Image], array: Array | Trouble, suffix: str
    ) -> tuple[Holding, ...]:
        """Answer as DatastoreDriver.holdings, for a datastore on `array`."""
        shown = listed(datastore, images)
        judged = {image.id: trouble_of(image, datastore) for image in shown}
        wanted = [image for image in shown if judged[image.id] is None]
        if not _SUFFIX.fullmatch(suffix):
            array = Trouble(
                errno.EIO, "the suffix of its volumes is not one that a volume can have"
            )
        found: Mapping[str, Content | Trouble] = {}
        if wanted and not isinstance(array, Trouble):
            names = {_name(datastore, image, suffix) for image in wanted}
            found = await self._find(array, f"one_{datastore.id}_", names)
        holdings = []
        for image in shown:
            known = judged[image.id]
            if known is None and isinstance(array, Trouble):
                known = array
            content = known or found[_name(datastore, image, suffix)]
            if isinstance(content, Trouble):
                holdings.append(Holding(image, trouble=content))
            else:
                holdings.append(Holding(image, _of_image(content, image)))
        return tuple(holdings)

    async def _find(
        self, array: Array, prefix: str, names: set[str]
    ) -> Mapping[str, Content | Trouble]:
        """Say where the bytes of each volume are, or why they cannot be had."""
        try:
            volumes = await array.units(prefix)
            units = {n: u for n, u in volumes.items() if n in names and isinstance(u, Unit)}
            wwids = [unit.wwid for unit in units.values()]
            here = await trio.to_thread.run_sync(
                find_devices, self._directories, wwids, abandon_on_cancel=True, limiter=self._turns
            )
            ways = _Ways()
            if self._initiator and len(here) < len(wwids):
                ways = await self._ways(array)
        except Refused as exc:
            trouble = array.login.missing(exc)
            if trouble is None:
                raise
            return dict.fromkeys(names, trouble)
        except Unsupported as exc:
            # It is not that the array is away: something is missing here, and stays so.
            return dict.fromkeys(names, Trouble(exc.errno, str(exc)))
        found: dict[str, Content | Trouble] = {}
        for name in names:
            known = volumes.get(name, _NO_VOLUME)
            found[name] = known if isinstance(known, Trouble) else self._read(known, here, ways)
        return found

    async def _ways(self, array: Array) -> _Ways:
        try:
            return _Ways(await array.ways(self._initiator))
        except Refused as exc:
            # The user may see volumes and not interfaces: devices that are here need no more.
            return _Ways(unknown=f" ({exc})")

    def _read(self, unit: Unit, here: Mapping[str, Device], ways: _Ways) -> Content | Trouble:
        device = here.get(unit.wwid)
        if device is not None:
            if device.size not in {None, unit.size}:
                return Trouble(
                    errno.EIO,
                    f"its device here has {device.size} bytes and its unit on the array"
                    f" {unit.size}: let this machine look anew (rescan-scsi-bus.sh)",
                )
            return Content(
                Locator("device", device.path), format="raw", version=unit.version, volatile=True
            )
        address = ways.addresses.get(unit.wwid)
        if address is not None:
            options = (("initiator", self._initiator),)
            return Content(Locator("iscsi", address, options), format="raw", version=unit.version)
        if not self._initiator:
            also = "let nebfs in by iSCSI (iscsi_initiator)"
        else:
            also = f"let {self._initiator} in"
        return Trouble(
            errno.EOPNOTSUPP,
            f"its unit {unit.wwid} is no device of this machine, and nothing is changed on the"
            f" array: map it to this machine there, or {also}{ways.unknown}",
        )


_NO_VOLUME = Trouble(
    # Not ENOENT: rsync takes that for "vanished" and carries on without the image.
    errno.EIO,
    "the array has no such volume; OpenNebula's record is wrong, or this user may not see it",
)


def address_of(portal: str, target: str, lun: object) -> str:
    """Return the iSCSI address of a unit, or an empty string when an array says nonsense."""
    found = _PORTAL.fullmatch(portal)
    if found is None or not _NAME.fullmatch(target):
        return ""
    port = int(found[2] or ISCSI_PORT)
    if not 0 < port < 65536 or type(lun) is not int or not 0 <= lun <= _MAX_LUN:
        return ""
    return f"iscsi://{found[1]}:{port}/{target}/{lun}"


def is_size(value: object) -> TypeGuard[int]:
    """Whether this is how long a unit can be, in bytes."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_SIZE


def host_trouble(attribute: str) -> Trouble:
    """Say that a template's `attribute` is no address of an array."""
    return Trouble(errno.EIO, f"the datastore's {attribute} is no host that can be asked")


def _name(datastore: Datastore, image: Image, suffix: str) -> str:
    return f"one_{datastore.id}_{image.id}{suffix}"


def _of_image(content: Content, image: Image) -> Content:
    """Return the content with what OpenNebula says about it."""
    return replace(
        content,
        media="cdrom" if image.type is ImageType.CDROM else "",
        version=f"{content.version}.{image.regtime}.{image.modtime}",
        # A VM may have it next, and write to it. Others are written once.
        volatile=content.volatile or image.persistent,
    )
