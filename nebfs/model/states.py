"""OpenNebula's numbers for states and types, from its own include files (7.4).

Unknown numbers of newer versions become ``UNKNOWN`` instead of failing a whole pool.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Self


class Tolerant(IntEnum):
    """An enumeration in which a number that we do not know is UNKNOWN, not an error."""

    @classmethod
    def _missing_(cls, value: object) -> Self:  # noqa: ARG003 - whatever it is
        return cls(-1)


class AppState(Tolerant):
    """MARKETPLACEAPP/STATE."""

    UNKNOWN = -1
    INIT = 0
    READY = 1
    LOCKED = 2
    ERROR = 3
    DISABLED = 4


class AppType(Tolerant):
    """MARKETPLACEAPP/TYPE. OpenNebula itself calls 0 UNKNOWN."""

    UNKNOWN = -1
    NONE = 0
    IMAGE = 1
    VMTEMPLATE = 2
    SERVICE_TEMPLATE = 3


class ImageState(Tolerant):
    """IMAGE/STATE."""

    UNKNOWN = -1
    INIT = 0
    READY = 1
    USED = 2
    DISABLED = 3
    LOCKED = 4
    ERROR = 5
    CLONE = 6
    DELETE = 7
    USED_PERS = 8
    LOCKED_USED = 9
    LOCKED_USED_PERS = 10


class ImageType(Tolerant):
    """IMAGE/TYPE."""

    UNKNOWN = -1
    OS = 0
    CDROM = 1
    DATABLOCK = 2
    KERNEL = 3
    RAMDISK = 4
    CONTEXT = 5
    BACKUP = 6
    FILESYSTEM = 7


class DiskType(Tolerant):
    """IMAGE/DISK_TYPE. OpenNebula has 255 for none."""

    UNKNOWN = -1
    FILE = 0
    CD_ROM = 1
    BLOCK = 2
    RBD = 3
    RBD_CDROM = 4
    GLUSTER = 5
    GLUSTER_CDROM = 6
    SHEEPDOG = 7
    SHEEPDOG_CDROM = 8
    ISCSI = 9
    FILESYSTEM = 10
    NONE = 255


class MachineState(Tolerant):
    """VM/STATE."""

    UNKNOWN = -1
    INIT = 0
    PENDING = 1
    HOLD = 2
    ACTIVE = 3
    STOPPED = 4
    SUSPENDED = 5
    DONE = 6
    POWEROFF = 8
    UNDEPLOYED = 9
    CLONING = 10
    CLONING_FAILURE = 11


class DatastoreType(Tolerant):
    """DATASTORE/TYPE."""

    UNKNOWN = -1
    IMAGE = 0
    SYSTEM = 1
    FILE = 2
    BACKUP = 3
