"""libvirt on the mount's files: a real libvirtd of our own, with QEMU as another user."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from tests.hypervisors.conftest import FULL
from tests.hypervisors.libvirtd import USER, Libvirt
from tests.hypervisors.machine import version

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


READ_ONLY = [("http", "raw"), ("fs", "qcow2"), ("http", "qcow2, its raw face")]
OVER = [("fs", "qcow2"), ("http", "qcow2"), ("http", "raw"), ("fs", "qcow2, its raw face")]


def face_of(world, place, face):
    kind, _, inside = face.partition(", ")
    stored = world.stored(place, kind)
    return (stored.inside, "raw") if inside else (stored.published, kind)


@pytest.mark.parametrize(("place", "face"), READ_ONLY if FULL else READ_ONLY[:1])
def test_a_read_only_disk(place, face, libvirt, world, guest, owners, seen):
    path, form = face_of(world, place, face)
    before = path.stat()
    libvirt.create("plain", path, form, "<readonly/>")
    # QEMU's lock of the image is in the kernel's table: nebfs has none of its own.
    assert f":{before.st_ino} " in Path("/proc/locks").read_text()
    assert libvirt.wait("plain")["disk"] == guest.proof
    after = path.stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (
        before.st_uid,
        before.st_gid,
        before.st_mode,
    )
    assert before.st_uid != USER
    seen("uses", f"libvirt, a disk with `<readonly/>`; {owners}", face,
         version("virsh", "--version"))  # fmt: skip


@pytest.mark.parametrize(("place", "face"), OVER if FULL else OVER[:1])
def test_an_overlay_whose_backing_file_is_on_the_mount(
    place, face, libvirt, world, guest, tool, owners, seen
):
    path, form = face_of(world, place, face)
    overlay = libvirt.disks / "overlay.qcow2"
    overlay.unlink(missing_ok=True)
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-F", form, "-b", path, overlay)
    os.chown(overlay, USER, USER)
    libvirt.create("over", overlay, "qcow2", append="nebfs.rw")
    said = libvirt.wait("over")
    assert (said["disk"], said["written"]) == (guest.proof, guest.written)
    seen("uses", f"libvirt, a local overlay; {owners}", face, version("virsh", "--version"))


@pytest.mark.parametrize(("what", "more"), [("neither", ""), ("`<transient/>`", "<transient/>")])
def test_a_disk_that_is_to_be_written_is_refused(what, more, libvirt, world, owners, seen):
    """`<transient/>` makes an overlay itself, after it opened the image to write."""
    with pytest.raises(AssertionError, match="Read-only file system"):
        libvirt.create("bold", world.stored("fs", "raw").published, "raw", more)
    row = "libvirt, a disk with `<transient/>`" if more else "libvirt, a disk without `<readonly/>`"
    seen("uses", row, "refused: `Read-only file system`", version("virsh", "--version"))
