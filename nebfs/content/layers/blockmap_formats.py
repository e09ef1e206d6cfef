"""Looking at and opening the disks of formats that have a table of blocks: lines for disks.py."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import trio

from nebfs.content.layers.blockmap import Layout
from nebfs.content.layers.blockmap_reader import Mapped
from nebfs.content.layers.vdi import read_vdi
from nebfs.content.layers.vhd import read_vhd
from nebfs.content.layers.vhdx import read_vhdx
from nebfs.content.layers.vmdk import read_vmdk
from nebfs.content.layers.window import Span, Window
from nebfs.content.stack import Disk, Reader
from nebfs.errors import Damaged, Unsupported
from nebfs.model import Revision


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """One format. `read` finds out where its disk is: as blocks, or as one span of the file."""

    name: str
    read: Callable[[Reader], Awaitable[Layout | Span]]

    async def look(self, file: Reader) -> Disk:
        """Say how long the disk is, or why it has no raw view.

        Raises what reading the file raises.
        """
        try:
            found = await self.read(file)
        except (Damaged, Unsupported) as exc:
            return Disk(0, self.name, str(exc))
        return Disk(found.size, self.name)

    async def open(self, file: Reader, backing: Reader | None, revision: Revision) -> Reader:
        """Return a reader of the disk. From here on it owns both readers, also if it fails.

        Raises Damaged, Unsupported, and what reading the file raises.
        """
        try:
            if backing is not None:
                raise Unsupported(f"a {self.name} image over another file")
            found = await self.read(file)
            if isinstance(found, Span):
                return Window(file, found.offset, found.size, revision)
            return Mapped(file, found, revision)
        except BaseException:
            with trio.CancelScope(shield=True):
                try:
                    await file.aclose()
                finally:
                    if backing is not None:
                        await backing.aclose()
            raise


VDI: Final = BlockFormat("vdi", read_vdi)
VHD: Final = BlockFormat("vhd", read_vhd)
VHDX: Final = BlockFormat("vhdx", read_vhdx)
VMDK: Final = BlockFormat("vmdk", read_vmdk)
