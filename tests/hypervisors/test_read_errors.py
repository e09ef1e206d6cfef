"""What a guest lives through when its disk cannot be read for a while."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hypervisors.machine import (
    BOOT,
    QEMU,
    SMALL,
    accelerated,
    started,
    told,
    version,
)
from tests.hypervisors.world import AS_PUBLISHED, add_disks, disk_of
from tests.mounted.conftest import cloud, cloud_root, home, make_mount, servers

__all__ = ["cloud", "cloud_root", "home", "make_mount", "servers"]

pytestmark = pytest.mark.mounted


class Monitor:
    """QEMU's monitor (QMP): commands go there, events come from it."""

    def __init__(self, path: Path, process: subprocess.Popen):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(BOOT)
        end = time.monotonic() + BOOT
        while True:
            try:
                self._socket.connect(str(path))
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.02)
        self._file = self._socket.makefile("rw")
        self._file.readline()  # its greeting
        self.ask("qmp_capabilities")

    def ask(self, command: str) -> None:
        """Tell it a command, whose answer is one of the lines of `events`."""
        self._file.write(json.dumps({"execute": command}) + "\n")
        self._file.flush()

    def events(self) -> Iterator[dict]:
        """Yield what happens, until QEMU ends."""
        for line in self._file:
            said = json.loads(line)
            if "event" in said:
                yield said

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def test_a_guest_stands_still_and_goes_on(
    cloud, make_mount, servers, guest, accelerator, tmp_path, seen
):
    """rerror=stop: the guest sees no error of its disk, however long its place is away."""
    add_disks(cloud, {"raw": guest.disk})
    mount = make_mount(servers.frontend_url, "-o", "deadline=2s")
    mount.start()
    disk = disk_of(mount.path, "http", "raw", AS_PUBLISHED)
    drive = disk.drive("readonly=on,cache=none,aio=native,rerror=stop,if=none,id=d0")
    control, console = tmp_path / "monitor", tmp_path / "console"
    words = [QEMU, *accelerated(accelerator), *SMALL, *started(guest), "-drive", drive]
    words += ["-device", "virtio-blk-pci,drive=d0", "-S", "-qmp", f"unix:{control},server=on"]
    switches = servers.files.switches("/market/guest-0.raw")
    stopped = []
    with open(console, "wb") as output, subprocess.Popen(words, stdout=output) as process:
        try:
            monitor = Monitor(control, process)
            switches.fail_next = 1 << 30
            monitor.ask("cont")
            for event in monitor.events():
                if event["event"] == "BLOCK_IO_ERROR":
                    stopped.append(event["data"]["action"])
                if event["event"] == "STOP":
                    switches.fail_next = 0
                    monitor.ask("cont")
            process.wait(BOOT)
            monitor.close()
        finally:
            process.kill()
    assert set(stopped) == {"stop"}
    assert told(console.read_text())["disk"] == guest.proof
    seen("uses", "QEMU, `rerror=stop`: the place is away for a while, then `cont`",
         f"raw, {AS_PUBLISHED}", version(QEMU, "--version"))  # fmt: skip
