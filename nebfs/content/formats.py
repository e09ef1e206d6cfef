"""What the first bytes of a disk image say about its format.

Marketplaces and datastores only claim a format (a public app says ``qcow`` for a qcow2 file, and a
compressed file keeps the name of what is inside), so names are made from the bytes. Signatures are
from the formats' own specifications: QEMU's docs/interop (qcow2, qed, parallels), RFC 1952 (gzip),
RFC 8878 (zstd), the XZ file format, VMware's Virtual Disk Format 5.0, Microsoft's VHD and VHDX,
ECMA-119 (ISO), and POSIX (tar).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from nebfs.content.layers import qcow2_header
from nebfs.errors import NebfsError

HEAD = 1024
"""How many first bytes ``sniff`` wants to see."""

_SIGNATURES = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, b"conectix", "vhd"),
    (0, b"vhdxfile", "vhdx"),
    (64, b"\x7f\x10\xda\xbe", "vdi"),
    (0, b"hsqs", "squashfs"),
    (0, b"QED\0", "qed"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (257, b"ustar", "tar"),
)
"""Also of formats that nebfs does not read: what is no raw disk must not look like one."""
_COMPRESSED = (
    (0, b"\x1f\x8b", "gz"),
    (0, b"BZh", "bz2"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zst"),
)
_UNSIGNED = frozenset({"raw", "iso", "tar", "json", "vhd"})
"""What has no signature among the first bytes, or none that matters: the claim is believed. A vhd
of fixed size has its signature at the end."""

_CLAIMS = {"qcow": "qcow2", "iso9660": "iso", "img": "raw", "vpc": "vhd", "": "raw"}


@dataclass(frozen=True, slots=True)
class Format:
    """A format by QEMU's name for it, and the compression around it (or an empty string)."""

    name: str
    compression: str = ""

    @property
    def extension(self) -> str:
        """What a file of this format is called: ``qcow2``, ``raw.gz``, ``iso``."""
        return f"{self.name}.{self.compression}" if self.compression else self.name


def sniff(head: bytes, claim: str = "", media: str = "") -> Format:
    """Return the format that `head`, the first HEAD bytes or fewer, shows.

    Inside a compression only the claim can be given. That a tar archive is an OVA is claimed, too.
    Without a signature it is a raw disk unless the claim is of something that has none, and a raw
    disk of media ``cdrom`` is an ISO image (its own signature is 32 KiB further on).
    """
    plain = next((name for at, sign, name in _SIGNATURES if head.startswith(sign, at)), "")
    if plain:
        return Format("ova" if plain == "tar" and claim.lower() == "ova" else plain)
    wrapped = next((name for at, sign, name in _COMPRESSED if head.startswith(sign, at)), "")
    inside = claimed(claim, media).name
    if wrapped:
        # A claim that names the compression itself says nothing about what is inside.
        return Format("raw" if inside == wrapped else inside, wrapped)
    return Format(inside if inside in _UNSIGNED else "raw")


@functools.lru_cache(maxsize=256)
def claimed(name: str, media: str = "") -> Format:
    """Return the format that was claimed, for bytes that were not looked at."""
    inside = _CLAIMS.get(name.lower(), name.lower())
    if not inside.isalnum():  # a claim is somebody's text, and becomes part of a file name
        inside = "raw"
    return Format("iso" if inside == "raw" and media == "cdrom" else inside)


def disk_flaw(head: bytes) -> str:
    """Say why the disk in a qcow2 image cannot be read by itself; empty if it can, or is none."""
    if not head.startswith(qcow2_header.MAGIC):
        return ""
    try:
        flaw = qcow2_header.parse(head, named=False).flaw
    except NebfsError as exc:
        return str(exc)
    if not flaw and qcow2_header.names_backing(head):
        return "it is a layer over another file, which it names and which is not followed"
    return flaw


def disk_size(head: bytes) -> int | None:
    """Return the length of the disk in a qcow2 image whose first bytes are `head`; else None.

    At offset 24, after magic, version, and the place of a backing file's name.
    """
    if not head.startswith(b"QFI\xfb") or len(head) < 32:
        return None
    return int.from_bytes(head[24:32], "big")
