"""QEMU's own tools, and who speaks NBD with them, on every form of the disk."""

from __future__ import annotations

import filecmp
import itertools
import json
import subprocess
import time

import pytest

from tests.hypervisors.machine import version
from tests.hypervisors.world import AS_PUBLISHED, KINDS, REFUSED

pytestmark = pytest.mark.mounted


@pytest.mark.parametrize("kind", KINDS)
def test_qemu_img(kind, world, guest, tool, tmp_path, seen):
    disks = [
        world.disk(*one) for one in itertools.product(("http", "fs"), [kind], KINDS[kind].faces)
    ]
    for path, how in [(disk.path, disk.form) for disk in disks]:
        told = json.loads(tool("qemu-img", "info", "--output=json", path))
        assert (told["format"], told["virtual-size"]) == (how, guest.disk.stat().st_size)
        same = tool("qemu-img", "compare", "-f", how, "-F", "raw", path, guest.disk)
        assert "identical" in same
        (tmp_path / "copy").unlink(missing_ok=True)
        tool("qemu-img", "convert", "-f", how, "-O", "raw", "-T", "none", "-m", "8", "-W", path,
             tmp_path / "copy")  # fmt: skip
        assert filecmp.cmp(tmp_path / "copy", guest.disk, shallow=False)
        parts = json.loads(tool("qemu-img", "map", "-f", how, "--output=json", path))
        assert sum(part["length"] for part in parts) == told["virtual-size"]
        # It knows no check of raw images, nor of these.
        if how not in {"raw", "vpc"}:
            assert "No errors" in tool("qemu-img", "check", "-f", how, path)
    seen("uses", "`qemu-img info`, `check`, `compare`, `convert`, `map`",
         "all formats, each face that QEMU reads",
         version("qemu-img", "--version"))  # fmt: skip


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_qemu_nbd(kind, world, guest, tool, tmp_path, seen):
    disk = world.disk("http", kind, AS_PUBLISHED)
    socket = tmp_path / "socket"
    words = [
        "qemu-nbd",
        "-r",
        "-f",
        disk.form,
        "-k",
        socket,
        "--cache=none",
        "--aio=native",
        disk.path,
    ]
    with subprocess.Popen(words) as server:
        try:
            end = time.monotonic() + 30
            while not socket.exists():
                assert server.poll() is None
                assert time.monotonic() < end
                time.sleep(0.02)
            # It ends by itself when its one client has gone.
            tool("nbdcopy", f"nbd+unix:///?socket={socket}", tmp_path / "copy")
            server.wait(30)
        finally:
            server.kill()
    assert filecmp.cmp(tmp_path / "copy", guest.disk, shallow=False)
    seen("uses", "`qemu-nbd -r`, read by `nbdcopy`", f"{kind}, {AS_PUBLISHED}",
         version("qemu-nbd", "--version"))  # fmt: skip


def test_nothing_is_written_by_any_of_them(world, tool, seen):
    path = world.disk("fs", "qcow2", AS_PUBLISHED).path
    for words in (
        ("qemu-io", "-f", "qcow2", "-c", "write 0 4k", path),
        ("qemu-img", "resize", "-f", "qcow2", path, "+1M"),
        ("qemu-img", "snapshot", "-c", "x", path),
        ("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "", path),
        ("qemu-img", "amend", "-f", "qcow2", "-o", "lazy_refcounts=on", path),
    ):
        with pytest.raises(AssertionError, match="Read-only file system"):
            tool(*words)
    seen("uses", "`qemu-img resize`, `snapshot -c`, `rebase`, `amend`, a writing `qemu-io`",
         REFUSED, version("qemu-img", "--version"))  # fmt: skip
