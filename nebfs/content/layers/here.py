"""What is on this machine: which reader is for it. Nothing of it goes through the fetcher.

Transports: ``file``, a path; ``device``, a block device; ``lvm``, a logical volume, whose address
is its device and whose options are `volume` (``group/name``) and `mode`, one of MODES.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Final

import trio

from nebfs.content.layers import devices, inplace, waiting
from nebfs.content.layers.activated import Activations
from nebfs.content.layers.extents import Extents
from nebfs.content.layers.inplace import InPlace
from nebfs.content.stack import Reader
from nebfs.errors import Busy, Missing
from nebfs.model import Locator, Revision

TRANSPORTS: Final = frozenset({"file", "device", "lvm"})

MODES: Final = ("active-only", "activate", "extents")
"""How a volume is read that is not active: not at all, by activating it, or from its disks."""

_COMMAND = 30.0
"""Seconds for one of LVM's commands. It takes fractions of one; a disk that is gone takes the
kernel's own time, mostly 30 s for each try."""

_DM_PREFIX = "LVM-"
_UUID = 32  # letters of a group's or volume's identifier, without dashes


def look_at(locator: Locator, length: int) -> tuple[Revision, bytes]:
    """Return the revision of what is at `locator` and its first `length` bytes. Blocks.

    Raises Missing, Refused, Busy (a volume that is not active) or NebfsError.
    """
    match _kind(locator):
        case "file":
            return inplace.look_at(locator, length)
        case "device":
            return devices.look_at(locator, length)
    options = dict(locator.options)
    try:
        revision, head = devices.look_at(locator, length)
    except Missing as exc:
        if options.get("mode") != "extents":
            raise _inactive(options["volume"]) from exc
        volume = Extents(options["volume"], _COMMAND)
        try:
            volume.find()
            return volume.revision, volume.read(min(length, volume.size), 0)
        finally:
            volume.close()
    return replace(revision, etag=_etag(locator.address) or revision.etag), head


class Here:
    """Opens what is on this machine. What outlives an opening runs in `nursery`."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._activations = Activations(nursery, _COMMAND)

    async def open(self, locator: Locator, revision: Revision, *, volatile: bool) -> Reader:
        """Return a reader of this very version.

        Raises Missing, Refused, Changed, Busy (a volume that is not active) or NebfsError.
        """
        match _kind(locator):
            case "file":
                return await InPlace.open(locator, revision, volatile=volatile)
            case "device":
                return await devices.open_reader(locator, revision, volatile=volatile)
        options = dict(locator.options)
        volume, mode = options["volume"], options.get("mode", MODES[0])

        async def opened() -> InPlace:
            return await _opened(locator, volume, revision, volatile=volatile)

        if mode == "activate":
            return await self._activations.open(volume, locator.address, revision.etag, opened)
        try:
            return await opened()
        except Busy:
            if mode != "extents":
                raise
        return await Extents.open(volume, revision, _COMMAND)


def _kind(locator: Locator) -> str:
    """Return what a locator is for; a ``file`` below /dev is a device."""
    if locator.transport == "file" and locator.address.startswith("/dev/"):
        return "device"
    return locator.transport


async def _opened(locator: Locator, volume: str, revision: Revision, *, volatile: bool) -> InPlace:
    """Open an active volume. Raises Busy when it is not active."""

    def open_it() -> int:
        try:
            return devices.open_device(locator.address, fresh=volatile)
        except Missing as exc:
            raise _inactive(volume) from exc

    fd = await waiting.opened(locator.address, open_it)
    # Where the kernel does not say which volume it is, its name and length have to do.
    etag = _etag_of(fd) or revision.etag

    def look(fd: int) -> Revision:
        return replace(devices.revision_of(fd), etag=etag)

    return devices.reader(fd, revision, place=locator.address, volatile=volatile, look=look)


def _inactive(volume: str) -> Busy:
    return Busy(
        f"its volume is not active on this machine: lvchange -K -ay {volume}, where no VM uses it,"
        " or let nebfs read it with [datastores] lvm_mode"
    )


def _etag(path: str) -> str:
    fd = devices.open_device(path, fresh=False)
    try:
        return _etag_of(fd)
    finally:
        os.close(fd)


def _etag_of(fd: int) -> str:
    """Return what the kernel says about which volume a device is; empty when it says nothing."""
    number = os.fstat(fd).st_rdev
    entry = f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/dm/uuid"
    try:
        with open(entry, errors="replace") as file:
            said = file.read(256).strip()
    except OSError:
        return ""
    if not said.startswith(_DM_PREFIX):
        return ""
    return f"lv:{said[len(_DM_PREFIX) + _UUID : len(_DM_PREFIX) + 2 * _UUID]}"
