"""Guests that write: into a file of this machine, over a disk of the mount."""

from __future__ import annotations

import pytest

from tests.hypervisors.conftest import FULL
from tests.hypervisors.machine import QEMU, version
from tests.hypervisors.test_qemu import drive

pytestmark = pytest.mark.mounted

SNAPSHOTS = [("http", "qcow2"), ("fs", "raw"), ("http", "qcow2, its raw face")]
OVERLAYS = [("fs", "qcow2"), ("http", "raw"), ("http", "qcow2"), ("fs", "qcow2, its raw face")]


@pytest.mark.parametrize(("place", "face"), SNAPSHOTS if FULL else SNAPSHOTS[:1])
def test_a_temporary_snapshot(place, face, world, guest, boots, seen):
    words = "cache=none,aio=native"
    said = boots(drive(world, place, face, words), append="nebfs.rw", more=["-snapshot"])
    assert (said["disk"], said["written"]) == (guest.proof, guest.written)
    assert "kept" not in said
    seen("uses", "QEMU, `-snapshot`: a guest that writes", face, version(QEMU, "--version"))


@pytest.mark.parametrize(("place", "face"), OVERLAYS if FULL else OVERLAYS[:1])
def test_an_overlay_of_this_machine(place, face, world, guest, boots, tool, tmp_path, seen):
    """What a guest wrote is in the overlay, and there the next time; the image stays as it is."""
    kind, _, inside = face.partition(", ")
    stored = world.stored(place, kind)
    image, form = (stored.inside, "raw") if inside else (stored.published, kind)
    overlay = tmp_path / "overlay.qcow2"
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-F", form, "-b", image, overlay)
    on = f"file={overlay},format=qcow2,cache=none,aio=io_uring"
    said = boots(on, append="nebfs.rw")
    assert (said["disk"], said["written"]) == (guest.proof, guest.written)
    again = boots(on, append="nebfs.rw")
    assert (again["disk"], again["kept"]) == (guest.proof, guest.written)
    assert overlay.stat().st_blocks << 9 < 8 << 20
    compared = ["qemu-img", "compare", "-f", form, "-F", "raw", image, guest.disk]
    assert "identical" in tool(*compared)
    with pytest.raises(AssertionError, match="Read-only file system"):
        tool("qemu-img", "commit", overlay)
    seen("uses", "QEMU, a local overlay, twice: a guest that writes", face,
         version(QEMU, "--version"))  # fmt: skip
