"""libvirt on the mount's files: a real libvirtd of our own, with QEMU as another user."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from tests.hypervisors.conftest import FULL
from tests.hypervisors.libvirtd import USER, Libvirt
from tests.hypervisors.machine import version
from tests.hypervisors.world import AS_PUBLISHED, INSIDE, REFUSED

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.skipif(os.geteuid() != 0, reason="a libvirtd that changes the owners of files"),
]

OWNERS = {"owners are changed": True, "owners are left alone": False}
"""Debian's setting, and that of OpenNebula's packages (dynamic_ownership = 0)."""


@pytest.fixture(scope="module", params=OWNERS if FULL else ["owners are changed"])
def owners(request):
    return request.param


@pytest.fixture(scope="module")
def libvirt(guest, owners):
    with tempfile.TemporaryDirectory(prefix="nebfs-libvirt-") as name:
        home = Path(name)
        home.chmod(0o755)
        libvirt = Libvirt(home, guest, dynamic=OWNERS[owners])
        with libvirt.running():
            yield libvirt


DISKS = [
    ("http", "raw", AS_PUBLISHED),
    ("fs", "qcow2", AS_PUBLISHED),
    ("http", "qcow2", INSIDE),
    ("fs", "raw", AS_PUBLISHED),
]


@pytest.mark.parametrize(("place", "kind", "face"), DISKS if FULL else DISKS[:1])
def test_a_read_only_disk(place, kind, face, libvirt, world, guest, owners, seen):
    disk = world.disk(place, kind, face)
    before = disk.path.stat()
    libvirt.create("plain", disk.path, disk.form, "<readonly/>")
    # QEMU's lock of the image is in the kernel's table: nebfs has none of its own.
    assert f":{before.st_ino} " in Path("/proc/locks").read_text()
    assert libvirt.wait("plain")["disk"] == guest.proof
    after = disk.path.stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (
        before.st_uid,
        before.st_gid,
        before.st_mode,
    )
    assert before.st_uid != USER
    seen("uses", f"libvirt, a disk with `<readonly/>`; {owners}", f"{kind}, {face}",
         version("virsh", "--version"))  # fmt: skip


@pytest.mark.parametrize(("place", "kind", "face"), DISKS if FULL else DISKS[1:2])
def test_an_overlay_whose_backing_file_is_on_the_mount(
    place, kind, face, libvirt, world, guest, tool, owners, seen
):
    disk = world.disk(place, kind, face)
    overlay = libvirt.disks / "overlay.qcow2"
    overlay.unlink(missing_ok=True)
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-F", disk.form, "-b", disk.path, overlay)
    os.chown(overlay, USER, USER)
    libvirt.create("over", overlay, "qcow2", append="nebfs.rw")
    said = libvirt.wait("over")
    assert (said["disk"], said["written"]) == (guest.proof, guest.written)
    seen("uses", f"libvirt, a local overlay; {owners}", f"{kind}, {face}",
         version("virsh", "--version"))  # fmt: skip


@pytest.mark.parametrize(("what", "more"), [("neither", ""), ("`<transient/>`", "<transient/>")])
def test_a_disk_that_is_to_be_written_is_refused(what, more, libvirt, world, owners, seen):
    """`<transient/>` makes an overlay itself, after it opened the image to write."""
    with pytest.raises(AssertionError, match="Read-only file system"):
        libvirt.create("bold", world.disk("fs", "raw", AS_PUBLISHED).path, "raw", more)
    row = "libvirt, a disk with `<transient/>`" if more else "libvirt, a disk without `<readonly/>`"
    seen("uses", row, REFUSED, version("virsh", "--version"))
