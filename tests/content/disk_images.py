"""Disk images of other formats than qcow2, made by qemu-img, and opening them."""

from __future__ import annotations

from pathlib import Path

from nebfs.content.layers.blockmap_formats import VDI, VHD, VHDX, VMDK
from nebfs.model import Revision
from tests.content.qcow2 import raw, run

FORMATS = {"vdi": VDI, "vhd": VHD, "vhdx": VHDX, "vmdk": VMDK}
QEMU = {"vdi": "vdi", "vhd": "vpc", "vhdx": "vhdx", "vmdk": "vmdk"}
"""What QEMU calls them."""


def make(kind: str, source: Path, path: Path, options: str = "") -> Path:
    words = ["-o", options] if options else []
    run("qemu-img", "convert", "-f", "raw", "-O", QEMU[kind], *words, source, path)
    return path


def oracle(kind: str, path: Path) -> bytes:
    """What qemu-img reads out of an image."""
    flat = path.with_suffix(".flat")
    run("qemu-img", "convert", "-f", QEMU[kind], "-O", "raw", path, flat)
    return flat.read_bytes()


async def opened(kind: str, path: Path, wrap=lambda reader: reader):
    return await FORMATS[kind].open(wrap(await raw(path)), None, Revision(0))


async def flaw(kind: str, path: Path) -> str:
    """Why an image has no raw view."""
    file = await raw(path)
    found = await FORMATS[kind].look(file)
    await file.aclose()
    return found.flaw
