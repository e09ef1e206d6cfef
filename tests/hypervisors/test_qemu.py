"""QEMU itself on the mount's files: every way of its cache and of its input and output.

Of the modes here, and of the places, a run tries each once, in pairs; with NEBFS_HYPERVISORS=full
each with each (scripts/hypervisors).
"""

from __future__ import annotations

import itertools

import pytest

from tests.hypervisors.conftest import FULL
from tests.hypervisors.machine import QEMU, version

pytestmark = pytest.mark.mounted

FACES = ("raw", "qcow2", "qcow2, its raw face")
MODES = [
    (cache, aio)
    for cache, aio in itertools.product(
        ("none", "directsync", "writeback"), ("threads", "native", "io_uring")
    )
    if (cache, aio) != ("writeback", "native")
]
"""All that QEMU takes: aio=native is for a cache that is off."""

PAIRS = [
    ("none", "threads", "http", "raw"),
    ("none", "native", "fs", "qcow2"),
    ("none", "io_uring", "http", "qcow2, its raw face"),
    ("directsync", "native", "http", "raw"),
    ("directsync", "threads", "http", "qcow2"),
    ("directsync", "io_uring", "fs", "raw"),
    ("writeback", "threads", "fs", "qcow2, its raw face"),
    ("writeback", "io_uring", "http", "qcow2"),
]
ALL = [(*mode, place, face) for mode in MODES for place in ("http", "fs") for face in FACES]


def drive(world, place, face, words="readonly=on"):
    """Return the value of -drive for a disk, through the face that is meant."""
    kind, _, inside = face.partition(", ")
    stored = world.stored(place, kind)
    path = stored.inside if inside else stored.published
    return f"file={path},format={'raw' if inside else kind.split()[0]},{words}"


@pytest.mark.parametrize(("cache", "aio", "place", "face"), ALL if FULL else PAIRS)
def test_a_guest_boots(cache, aio, place, face, world, guest, boots, seen):
    said = boots(drive(world, place, face, f"readonly=on,cache={cache},aio={aio}"))
    assert said["disk"] == guest.proof
    column = {"http": "app", "fs": "image"}[place]
    seen("modes", f"`cache={cache}`, `aio={aio}`", f"{column}: {face}", version(QEMU, "--version"))


@pytest.mark.parametrize(
    ("place", "face"),
    itertools.product(("one", "s3"), FACES) if FULL else [("one", "raw"), ("s3", "qcow2")],
)
def test_a_guest_boots_from_other_places(place, face, world, guest, boots, seen):
    assert boots(drive(world, place, face, "readonly=on,cache=none"))["disk"] == guest.proof
    seen("places", place, face, version(QEMU, "--version"))


def test_aio_native_wants_a_cache_that_is_off(world, tool, seen):
    """QEMU's own rule, the same for a local file."""
    path = world.stored("fs", "raw").published
    for cache, taken in (("writeback", False), ("none", True)):
        words = ["qemu-io", "-r", "-f", "raw", "-t", cache, "-i", "native", "-c", "read 0 4k", path]
        said = tool(*words, check=False) if taken else ""
        assert ("read 4096/4096" in said) is taken
    done = tool("qemu-io", "-r", "-f", "raw", "-t", "none", "-i", "native", "-c", "read 1 1", path)
    assert "read 1/1 bytes at offset 1" in done


def test_without_readonly_it_does_not_start(world, guest, boots, seen):
    with pytest.raises(AssertionError, match="Read-only file system"):
        boots(drive(world, "fs", "raw", "cache=none"))
    seen("uses", "QEMU, `-drive` without `readonly=on`", "refused: `Read-only file system`")
