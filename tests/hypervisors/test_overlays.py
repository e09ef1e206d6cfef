"""Guests that write: into a file of this machine, over a disk of the mount."""

from __future__ import annotations

import pytest

from tests.hypervisors.conftest import FULL
from tests.hypervisors.machine import QEMU, version
from tests.hypervisors.world import AS_PUBLISHED, INSIDE

pytestmark = pytest.mark.mounted

DISKS = [
    ("http", "qcow2", AS_PUBLISHED),
    ("fs", "qcow2", AS_PUBLISHED),
    ("http", "raw", AS_PUBLISHED),
    ("fs", "raw", AS_PUBLISHED),
    ("http", "qcow2", INSIDE),
    ("fs", "qcow2", INSIDE),
]


@pytest.mark.parametrize(("place", "kind", "face"), DISKS if FULL else DISKS[:1])
def test_a_temporary_snapshot(place, kind, face, world, guest, boots, seen):
    drive = world.disk(place, kind, face).drive("cache=none,aio=native")
    said = boots(drive, append="nebfs.rw", more=["-snapshot"])
    assert (said["disk"], said["written"]) == (guest.proof, guest.written)
    assert "kept" not in said
    seen("uses", "QEMU, `-snapshot`: a guest that writes", f"{kind}, {face}",
         version(QEMU, "--version"))  # fmt: skip


@pytest.mark.parametrize(("place", "kind", "face"), DISKS if FULL else DISKS[1:2])
def test_an_overlay_of_this_machine(place, kind, face, world, guest, boots, tool, tmp_path, seen):
    """What a guest wrote is in the overlay, and there the next time; the image stays as it is."""
    disk = world.disk(place, kind, face)
    overlay = tmp_path / "overlay.qcow2"
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-F", disk.form, "-b", disk.path, overlay)
    on = f"file={overlay},format=qcow2,cache=none,aio=io_uring"
    said = boots(on, append="nebfs.rw")
    assert (said["disk"], said["written"]) == (guest.proof, guest.written)
    again = boots(on, append="nebfs.rw")
    assert (again["disk"], again["kept"]) == (guest.proof, guest.written)
    assert overlay.stat().st_blocks << 9 < 8 << 20
    compared = ["qemu-img", "compare", "-f", disk.form, "-F", "raw", disk.path, guest.disk]
    assert "identical" in tool(*compared)
    with pytest.raises(AssertionError, match="Read-only file system"):
        tool("qemu-img", "commit", overlay)
    seen("uses", "QEMU, a local overlay, twice: a guest that writes", f"{kind}, {face}",
         version(QEMU, "--version"))  # fmt: skip
