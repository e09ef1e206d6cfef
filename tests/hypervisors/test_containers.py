"""A disk of the mount as a loop device, and its filesystem as the root of containers.

The loop devices, the mounts and the programs that run containers are this machine's own.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.hypervisors.guest import PARTITION, START
from tests.hypervisors.machine import version
from tests.hypervisors.world import AS_PUBLISHED, INSIDE

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts, and starts containers"),
]

DISKS = [
    ("http", "raw", AS_PUBLISHED),
    ("fs", "raw", AS_PUBLISHED),
    ("http", "qcow2", INSIDE),
    ("fs", "qcow2", INSIDE),
]
PROGRAM = ("/bin/busybox", "sha256sum", "/proof")


@contextlib.contextmanager
def mounted(what, where, *options):
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", ",".join(["ro", *options]), what, where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)


@contextlib.contextmanager
def looped(tool, *words):
    device = tool("losetup", "--find", "--show", *words).strip()
    try:
        yield Path(device)
    finally:
        tool("losetup", "--detach", device)


@pytest.fixture
def root(request, world, tmp_path):
    """The guest's root filesystem, mounted from the mount."""
    disk = world.disk(*getattr(request, "param", DISKS[-1]))
    part = [f"offset={START}", f"sizelimit={PARTITION}", "noload", "loop"]
    with mounted(disk.path, tmp_path / "root", *part) as where:
        yield where


@pytest.mark.parametrize("root", DISKS, indirect=True, ids="-".join)
def test_a_partition_is_mounted(root, guest, tool, request, seen):
    assert guest.proof in tool("sha256sum", root / "proof")
    _, kind, face = request.node.callspec.params["root"]
    seen("uses", "`mount -o loop,ro,offset=…`", f"{kind}, {face}", version("mount", "--version"))


@pytest.mark.parametrize("words", [("-r",), ("-r", "--direct-io=on"), ()], ids=" ".join)
def test_a_loop_device_with_partitions(words, world, guest, tool, tmp_path, seen):
    """Where the kernel does not look for partitions by itself (its parsers are a matter of how it
    was built), partx tells it of them, as it does for any device. Without -r losetup asks for a
    device to write, and takes what it is given.
    """
    with looped(tool, "--partscan", *words, world.disk("http", "qcow2", INSIDE).path) as device:
        assert tool("blockdev", "--getro", device).strip() == "1"
        listed = tool("partx", "--show", "--noheadings", "-o", "START,SECTORS", device).split()
        assert [int(word) for word in listed] == [START >> 9, PARTITION >> 9]
        part = Path(f"{device}p1")
        if not part.exists():
            tool("partx", "--add", device)
        with mounted(part, tmp_path / "root", "noload") as where:
            assert guest.proof in tool("sha256sum", where / "proof")
    seen("uses", "`losetup -P`, partitions", f"qcow2, {INSIDE}", version("losetup", "--version"))


def test_lxc(root, guest, tool, tmp_path, seen):
    config = tmp_path / "config"
    config.write_text(
        f"lxc.rootfs.path = dir:{root}\nlxc.rootfs.options = ro\nlxc.net.0.type = none\n"
    )
    words = ("-n", "guest", "-P", tmp_path, "-f", config)
    assert guest.proof in tool("lxc-execute", *words, "--", *PROGRAM)
    seen("uses", "LXC, a mounted partition as its root", f"qcow2, {INSIDE}",
         f"LXC {version('lxc-execute', '--version')}")  # fmt: skip


def test_nspawn(root, guest, tool, seen):
    words = ("--quiet", "--read-only", "--register=no", "--keep-unit", "--pipe")
    assert guest.proof in tool("systemd-nspawn", *words, "-D", root, *PROGRAM)
    seen("uses", "systemd-nspawn, a mounted partition as its root", f"qcow2, {INSIDE}",
         version("systemd-nspawn", "--version"))  # fmt: skip
