"""The archives of the demonstration's containers: root filesystems, the same every time.

Most of each is noise, which no compression makes smaller: what is read in the middle of an archive
is then far less than the archive.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from nebfs.demo.images import EPOCH
from nebfs.units import MIB

RECIPE = "1"
"""Counts changes of what is made: archives of another recipe are made again."""

_NOISE = 3 * MIB
_MADE = "made"


def make_archives(place: Path) -> Path:
    """Make all archives in `place`, or find them there; return it.

    ``alpine.squashfs`` is among them where mksquashfs is installed and works.
    """
    mark = place / _MADE
    if mark.exists() and mark.read_text() == RECIPE:
        return place
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for name in ("alpine", "debian"):
        # The fastest: what is inside cannot be compressed.
        packed = lzma.compress(_archive(_root_filesystem(name)), preset=0)
        (place / f"{name}.tar.xz").write_bytes(packed)
    for name in ("core", "wordpress"):
        packed = gzip.compress(_archive(_root_filesystem(name)), compresslevel=1, mtime=EPOCH)
        (place / f"{name}.tar.gz").write_bytes(packed)
    metadata = f"architecture: x86_64\ncreation_date: {EPOCH}\n".encode()
    (place / "incus.tar.xz").write_bytes(lzma.compress(_archive({"metadata.yaml": metadata})))
    if shutil.which("mksquashfs"):
        _make_squashfs(place / "alpine.squashfs", _root_filesystem("alpine"))
    mark.write_text(RECIPE)
    return place


def _root_filesystem(name: str) -> dict[str, bytes]:
    return {
        "etc/hostname": f"{name}\n".encode(),
        "etc/os-release": f"NAME={name}\nID={name}\n".encode(),
        "srv/noise.bin": hashlib.shake_256(name.encode()).digest(_NOISE),
    }


def _archive(files: Mapping[str, bytes]) -> bytes:
    """Return a tar archive, the same every time."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = len(content), EPOCH, 0o644
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def _make_squashfs(path: Path, files: Mapping[str, bytes]) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        for name, content in files.items():
            file = Path(scratch) / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        done = subprocess.run(
            ["mksquashfs", scratch, str(path), "-noappend", "-all-root", "-quiet", "-no-progress"],
            env={**os.environ, "LC_ALL": "C", "SOURCE_DATE_EPOCH": str(EPOCH)},
            capture_output=True,
            timeout=60,
            check=False,
        )
    if done.returncode != 0:
        path.unlink(missing_ok=True)  # nobody needs it
