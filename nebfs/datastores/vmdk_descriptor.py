"""Reading the descriptor of a vSphere disk: a small text that names the file with its bytes.

Pure, and strict: the text is somebody's, and what it names is read.
Source: VMware's "Virtual Disk Format 5.0", chapter "The Descriptor".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SIGNATURE = b"# Disk DescriptorFile"

MOST = 64 << 10
"""Bytes: a descriptor has less than one KiB, and a disk that is not one usually far more."""

_SECTOR = 512
_NO_PARENT = "ffffffff"
_EXTENT = re.compile(r'(RW|RDONLY|NOACCESS)\s+([0-9]{1,16})\s+([A-Z0-9]+)(?:\s+"([^"]*)"(.*))?')
_NAME = re.compile(r"[^/\\\x00-\x1f\x7f]{1,255}")
_SETTING = re.compile(r'\s*([A-Za-z]+)\s*=\s*"?([^"]*)"?\s*')


@dataclass(frozen=True, slots=True)
class Extent:
    """The one file that a disk consists of: raw bytes. `content_id` changes with its content."""

    name: str
    size: int
    content_id: str


def is_descriptor(text: bytes) -> bool:
    """Whether a file that begins with `text` is a descriptor."""
    return text.startswith(SIGNATURE)


def flat_extent(text: bytes) -> Extent:
    """Return the file that has the disk's bytes. Raises ValueError, in words for people."""
    settings: dict[str, str] = {}
    extents: list[re.Match[str]] = []
    for line in text.decode("utf-8", "replace").splitlines():
        extent = _EXTENT.fullmatch(line.strip())
        setting = _SETTING.fullmatch(line)
        if extent is not None:
            extents.append(extent)
        elif setting is not None:
            settings.setdefault(setting[1].lower(), setting[2].strip().lower())
    if settings.get("parentcid", _NO_PARENT) != _NO_PARENT:
        raise ValueError("it is only the difference to another disk, which is not read")
    if len(extents) != 1:
        raise ValueError(f"its disk consists of {len(extents)} files, and only one is read")
    access, sectors, kind, name, rest = extents[0].groups()
    # FLAT is the same with an offset behind the name.
    plain = (kind == "VMFS" and not (rest or "").strip()) or (
        kind == "FLAT" and (rest or "").strip() == "0"
    )
    if access != "RW" or not plain:
        raise ValueError(f"its disk is of kind {kind}, which is not read")
    if not _NAME.fullmatch(name or "") or name in {".", ".."}:
        raise ValueError("the file with its bytes is not beside it")
    return Extent(name, int(sectors) * _SECTOR, settings.get("cid", ""))
