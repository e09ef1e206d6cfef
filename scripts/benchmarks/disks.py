"""The disks that are packed: a machine's own files, as they lie in an image, and qcow2s of them.

Random bytes would tell nothing about what unpacks, and nothing about zeros. These files are those
of the system that the harness runs on, programs and libraries for the most part. With what is empty
between them, an image is packed to a third of its size.
"""

from __future__ import annotations

import os
import random
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from nebfs.units import KIB, MIB
from scripts.benchmarks.processes import Failed, run

SOURCES = ("/usr/bin", "/usr/lib")
PACKED = (".bz2", ".gz", ".jar", ".png", ".whl", ".xz", ".zip", ".zst")
"""What cannot be packed again, and of which an image has less than a machine for development."""

LONGEST = 16 * MIB
"""Bytes of one file that are taken: no single one shall decide how well the disk can be packed."""

PAGE = 4 * KIB
EMPTY_EVERY, EMPTY = 32 * MIB, 8 * MIB
"""After so many bytes of files so many are empty, as a fifth of an image that is in use is."""

CLUSTER = 64 * KIB
LAYOUTS = {
    "plain": (),
    "fragmented": (),
    "extended-l2": ("-o", "extended_l2=on,cluster_size=128k"),
    "zlib": ("-c",),
    "zstd": ("-c", "-o", "compression_type=zstd"),
}
"""Each kind of qcow2 that is measured, and what qemu-img is told to make one."""

_COMPRESSED, _OFFSET = 1 << 62, 0x00FFFFFFFFFFFE00


def _files() -> Iterator[Path]:
    """Yield the machine's files in an order that mixes them, the same one each time."""
    found = []
    for source in SOURCES:
        for place, directories, names in os.walk(source):
            directories.sort()
            found += [Path(place, name) for name in names if not name.endswith(PACKED)]
    found.sort()
    random.Random(1).shuffle(found)  # noqa: S311
    yield from found


def make_disk(path: Path, size: int) -> None:
    """Write a disk of `size` bytes, and wait until it is on the disk. Failed: too few files."""
    with path.open("wb") as disk:
        at = 0
        for file in _files():
            try:
                if not stat.S_ISREG(file.lstat().st_mode):
                    continue
                with file.open("rb") as source:
                    data = source.read(min(LONGEST, size - at))
            except OSError:
                continue
            disk.seek(at)
            disk.write(data)
            before, at = at, at + -(-len(data) // PAGE) * PAGE
            if at // EMPTY_EVERY != before // EMPTY_EVERY:
                at += EMPTY
            if at >= size:
                break
        else:
            raise Failed(f"this machine has too few files for a disk of {size // MIB} MiB")
        disk.truncate(size)
        os.fsync(disk.fileno())


def make_qcow2(disk: Path, layout: str, path: Path) -> None:
    """Write a qcow2 of a disk in one of the LAYOUTS, and have it read into the page cache."""
    words = ("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *LAYOUTS[layout])
    run(*words, disk, path, limit=300)
    if layout == "fragmented":
        _scatter(path)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        while file.read(MIB):
            pass


def _scatter(path: Path) -> None:
    """Put the clusters of a plain qcow2 into random order: QEMU's docs/interop/qcow2.txt.

    Each takes another's place, so that all else about the image stays as it was.
    """
    with path.open("r+b") as file:
        file.seek(36)
        count, l1 = struct.unpack(">IQ", file.read(12))
        file.seek(l1)
        tables = [e & _OFFSET for e in struct.unpack(f">{count}Q", file.read(8 * count))]
        entries = []  # where each is, and where its cluster is
        for table in filter(None, tables):
            file.seek(table)
            found = struct.unpack(f">{CLUSTER // 8}Q", file.read(CLUSTER))
            entries += [(table + 8 * i, entry) for i, entry in enumerate(found) if entry & _OFFSET]
        hosts = [entry & _OFFSET for _, entry in entries]
        order = list(range(len(hosts)))
        random.Random(2).shuffle(order)  # noqa: S311
        clusters = []
        for host in hosts:
            file.seek(host)
            clusters.append(file.read(CLUSTER))
        for (at, entry), cluster, new in zip(entries, clusters, order, strict=True):
            file.seek(hosts[new])
            file.write(cluster)
            file.seek(at)
            file.write(struct.pack(">Q", entry & ~_OFFSET | hosts[new]))
