"""QEMU itself on the mount's files: every way of its cache and of its input and output.

Of the modes here, and of the places, a run tries each once, in pairs; with NEBFS_HYPERVISORS=full
each with each (scripts/hypervisors).
"""

from __future__ import annotations

import hashlib
import itertools

import pytest

from tests.hypervisors.conftest import FULL
from tests.hypervisors.machine import QEMU, version
from tests.hypervisors.world import AS_PUBLISHED, INSIDE, KINDS, REFUSED

pytestmark = pytest.mark.mounted

DISKS = (("raw", AS_PUBLISHED), ("qcow2", AS_PUBLISHED), ("qcow2", INSIDE))
MODE = "readonly=on,cache=none,aio=native"
"""What places and formats are tried with: no page cache stands between the guest and nebfs."""
MODES = [
    (cache, aio)
    for cache, aio in itertools.product(
        ("none", "directsync", "writeback"), ("threads", "native", "io_uring")
    )
    if (cache, aio) != ("writeback", "native")
]
"""All that QEMU takes: aio=native is for a cache that is off."""

PAIRS = [
    ("none", "threads", "http", "raw", AS_PUBLISHED),
    ("none", "native", "fs", "qcow2", AS_PUBLISHED),
    ("none", "io_uring", "http", "qcow2", INSIDE),
    ("directsync", "native", "http", "raw", AS_PUBLISHED),
    ("directsync", "threads", "http", "qcow2", AS_PUBLISHED),
    ("directsync", "io_uring", "fs", "raw", AS_PUBLISHED),
    ("writeback", "threads", "fs", "qcow2", INSIDE),
    ("writeback", "io_uring", "http", "qcow2", AS_PUBLISHED),
]
ALL = [(*mode, place, *disk) for mode in MODES for place in ("http", "fs") for disk in DISKS]


@pytest.mark.parametrize(("cache", "aio", "place", "kind", "face"), ALL if FULL else PAIRS)
def test_a_guest_boots(cache, aio, place, kind, face, world, guest, boots, seen):
    disk = world.disk(place, kind, face)
    assert boots(disk.drive(f"readonly=on,cache={cache},aio={aio}"))["disk"] == guest.proof
    what = {"http": "app", "fs": "image"}[place]
    seen("modes", f"`cache={cache}`, `aio={aio}`", f"{what}: {kind}, {face}")


PLACES = list(itertools.product(("one", "http", "s3", "fs"), DISKS))


@pytest.mark.parametrize(("place", "disk"), PLACES if FULL else PLACES[::7])
def test_every_place(place, disk, world, guest, boots, seen):
    kind, face = disk
    assert boots(world.disk(place, kind, face).drive(MODE))["disk"] == guest.proof
    seen(
        "places", f"{'datastore' if place == 'fs' else 'marketplace'} `{place}`", f"{kind}, {face}"
    )


FORMS = [(name, face) for name, kind in KINDS.items() for face in kind.faces]
SOME = [("qcow2, zlib", INSIDE), ("vmdk", INSIDE), ("raw, gzip", INSIDE)]


@pytest.mark.parametrize(("kind", "face"), FORMS if FULL else SOME)
def test_every_format(kind, face, world, guest, boots, seen):
    """As published, QEMU's own driver of the format reads it; the raw face is nebfs's."""
    assert boots(world.disk("http", kind, face).drive(MODE))["disk"] == guest.proof
    seen("formats", kind, face)


def test_a_cd_image_is_a_second_drive(world, guest, boots, seen):
    disk, cd = world.disk("fs", "raw", AS_PUBLISHED), world.mount.image("boot.iso")
    said = boots(disk.drive(MODE), f"file={cd},format=raw,{MODE}")
    assert said["second"] == hashlib.sha256(cd.read_bytes()).hexdigest()
    seen("uses", "QEMU, a CD image as a second drive", "iso", version(QEMU, "--version"))


def test_aio_native_wants_a_cache_that_is_off(world, tool):
    """QEMU's own rule, the same for a local file: why the mode is in no table."""
    path = world.disk("fs", "raw", AS_PUBLISHED).path
    words = ("qemu-io", "-r", "-f", "raw", "-i", "native", "-c", "read 1 1", path)
    assert "read 1/1 bytes at offset 1" in tool(*words, "-t", "none")
    with pytest.raises(AssertionError, match=r"cache\.direct"):
        tool(*words, "-t", "writeback")


def test_without_readonly_it_does_not_start(world, boots, seen):
    with pytest.raises(AssertionError, match="Read-only file system"):
        boots(world.disk("fs", "raw", AS_PUBLISHED).drive("cache=none"))
    seen("uses", "QEMU, `-drive` without `readonly=on`", REFUSED, version(QEMU, "--version"))
