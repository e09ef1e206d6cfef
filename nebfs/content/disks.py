"""The formats of disk images that have a raw view: for each, how it is looked at and opened.

A format is one line in DISKS. What it needs is in a file of layers/, which imports ``Disk`` from
stack.py, as this file does: nothing below imports this table.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from nebfs.content import ova
from nebfs.content.formats import disk_flaw, disk_size
from nebfs.content.layers import qcow2_header
from nebfs.content.layers.blockmap_formats import VDI, VHD, VHDX, VMDK
from nebfs.content.layers.qcow2 import Qcow2
from nebfs.content.stack import Disk, Reader
from nebfs.model import Revision

__all__ = ["DISKS", "PLAIN", "Disk", "DiskFormat", "Inside"]

PLAIN: Final = frozenset({"raw", "iso", "squashfs"})
"""What a loop device or a hypervisor takes as it is."""


@dataclass(frozen=True, slots=True)
class DiskFormat:
    """`look` reads what a file says of the disk in it, and leaves the file open. `open` returns a
    reader of that disk over `backing`, of the given revision; it owns both readers from then on,
    also if it fails. Both raise Damaged, Unsupported, and what reading the file raises.
    """

    look: Callable[[Reader], Awaitable[Disk]]
    open: Callable[[Reader, Reader | None, Revision], Awaitable[Reader]]
    over: bool = False
    """Whether it may lie over another file; without it `backing` is always None."""
    early: bool = False
    """Whether the header alone tells the disk's length, and the reader asks for the file's length
    anew each time: it can be opened over a file whose end is not known yet."""


@dataclass(frozen=True, slots=True)
class Inside:
    """What a look into a file has shown, beyond its first bytes: it is remembered."""

    kind: str
    """The format of the disk: a name in DISKS, or in PLAIN."""
    disk: int | None
    """Bytes of the disk; None while that is known only when the file has been decoded."""
    flaw: str = ""
    """Why there is no raw view; or empty."""
    decoded: int | None = None
    """Bytes of the file without its compression, as far as that is known."""
    lasting: bool = True
    """Whether it is true beyond this process's life."""
    damaged: bool = False
    """Whether the flaw is in the bytes, and not that nebfs does not read them."""

    @property
    def is_unmeasured(self) -> bool:
        """Whether the file must be decoded before it is known how long the disk is."""
        return self.disk is None and not self.flaw


async def _look_at_qcow2(file: Reader) -> Disk:
    head = bytes(await file.pread(0, min(qcow2_header.HEAD, file.size))) if file.size else b""
    return Disk(disk_size(head) or 0, "qcow2", disk_flaw(head))


DISKS: Final[dict[str, DiskFormat]] = {
    "qcow2": DiskFormat(_look_at_qcow2, Qcow2.open, over=True, early=True),
    "ova": DiskFormat(ova.look, ova.open_disk),
    "tar": DiskFormat(ova.look, ova.open_disk),
    "vdi": DiskFormat(VDI.look, VDI.open),
    "vhd": DiskFormat(VHD.look, VHD.open),
    "vhdx": DiskFormat(VHDX.look, VHDX.open),
    "vmdk": DiskFormat(VMDK.look, VMDK.open),
}
