"""Finding the device of this machine that is a logical unit of a storage array, by its WWID.

A WWID is ``3`` and the unit's NAA identifier in hexadecimal, as multipath and udev write it. Blocks
only as long as the kernel takes to look at its own tables: no device is opened, and none is asked.
Source: the names are those of multipath-tools and of udev's 60-persistent-storage.rules; sizes in
/sys/dev/block are in units of 512 bytes whatever the device's own blocks are.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

DIRECTORIES = ("/dev/mapper", "/dev/disk/by-id")
"""Where such devices have their names. With multipath's friendly names they are in the second."""

_SECTOR = 512


@dataclass(frozen=True, slots=True)
class Device:
    """A device here. `size` is None where the kernel does not tell it."""

    path: str
    size: int | None


def find_devices(directories: Sequence[str], wwids: Iterable[str]) -> Mapping[str, Device]:
    """Return the devices that are here, by WWID. A path over several links comes before one link.

    The path is the name that holds the WWID: what that leads to (dm-3, sdc) may be another unit
    tomorrow.
    """
    found = {}
    for wwid in wwids:
        device = _find(directories, wwid)
        if device is not None:
            found[wwid] = device
    return found


def _find(directories: Sequence[str], wwid: str) -> Device | None:
    for name in (wwid, f"dm-uuid-mpath-{wwid}", f"wwn-0x{wwid[1:]}", f"scsi-{wwid}"):
        for directory in directories:
            path = os.path.join(directory, name)
            try:
                looked = os.stat(path)
            except OSError:
                continue
            if stat.S_ISBLK(looked.st_mode):
                return Device(path, _size(looked.st_rdev))
    return None


def _size(device: int) -> int | None:
    path = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/size"
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read()) * _SECTOR
    except (OSError, ValueError):
        return None
