"""Real block devices for tests: loop devices, and on one of them a real volume group of LVM.

Nothing of this machine's own disks is touched: LVM is shown nothing but the loop device.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path

MIB = 1 << 20

LVM_CONF = """
devices {{
    filter = ["a|^{0}$|", "r|.*|"]
    global_filter = ["a|^{0}$|", "r|.*|"]
    use_devicesfile = 0
    obtain_device_list_from_udev = 0
    external_device_info_source = "none"
}}
activation {{ udev_sync = 0 udev_rules = 0 }}
global {{ use_lvmpolld = 0 event_activation = 0 locking_dir = "{1}" }}
backup {{ backup = 0 archive = 0 }}
"""


class LoopDevice:
    """A block device over a file. Writing to the file is what another machine does to a LUN."""

    def __init__(self, file: Path, data: bytes):
        self.file = file
        file.write_bytes(data)
        self.path = _run("losetup", "--find", "--show", file).strip()

    def write_behind(self, offset: int, data: bytes):
        """Write to the bytes behind the device, so that its page cache learns nothing."""
        with open(self.file, "r+b") as file:
            file.seek(offset)
            file.write(data)

    def resize(self, size: int):
        os.truncate(self.file, size)
        _run("losetup", "--set-capacity", self.path)

    def close(self):
        _run("losetup", "--detach", self.path)


class VolumeGroup:
    """A volume group whose metadata is real. This machine has no device mapper, so nothing of it
    can be active: volumes are made with --driverloaded n.
    """

    def __init__(self, home: Path, name: str, size: int = 64 * MIB):
        self.name = name
        self.disk = LoopDevice(home / "pv.img", bytes(size))
        self.system = home / "lvm"
        self.system.mkdir()
        (self.system / "lvm.conf").write_text(LVM_CONF.format(self.disk.path, home / "locks"))
        self.environment = {"LVM_SYSTEM_DIR": str(self.system), "LVM_SUPPRESS_FD_WARNINGS": "1"}
        self.run("pvcreate", "-y", self.disk.path)
        self.run("vgcreate", "-y", name, self.disk.path)

    def run(self, *argv) -> str:
        return _run(*argv, env={**os.environ, **self.environment})

    def create(self, volume: str, extents: int):
        """Make a volume as OpenNebula does: inactive, with the flag that activation skips it."""
        self.run(
            "lvcreate", "--driverloaded", "n", "-an", "-ky", "-Wn", "-Zn", "-y",
            "-l", extents, "-n", volume, self.name,
        )  # fmt: skip

    def extend(self, volume: str, extents: int, where: str = ""):
        """Let the volume grow; `where` is ``first-last``, the extents of the disk to take."""
        whole = f"{self.name}/{volume}"
        disk = [f"{self.disk.path}:{where}"] if where else []
        self.run("lvextend", "--driverloaded", "n", "-l", f"+{extents}", whole, *disk)

    def remove(self, volume: str):
        self.run("lvremove", "--driverloaded", "n", "-y", f"{self.name}/{volume}")

    def extents(self, volume: str) -> list[int]:
        """Return the offsets on the disk of the volume's extents, in order."""
        report = self.run(
            "lvs", "--readonly", "--segments", "--noheadings", "-o", "seg_pe_ranges",
            f"{self.name}/{volume}",
        )  # fmt: skip
        found: list[int] = []
        for part in report.split():
            first, last = part.rpartition(":")[2].split("-")
            found += range(int(first), int(last) + 1)
        return [MIB + extent * self.extent for extent in found]

    extent = 4 * MIB

    def fill(self, volume: str, seed: int) -> bytes:
        """Write random bytes to the volume, through the file behind the disk; return them."""
        places = self.extents(volume)
        data = random.Random(seed).randbytes(len(places) * self.extent)
        for number, at in enumerate(places):
            self.disk.write_behind(at, data[number * self.extent :][: self.extent])
        return data

    def close(self):
        self.disk.close()


def _run(*argv, **options) -> str:
    done = subprocess.run(
        [os.fspath(a) if isinstance(a, os.PathLike) else str(a) for a in argv],
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )
    assert done.returncode == 0, f"{argv}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class FakeLvm:
    """Stands in for lvs and lvchange where volumes would become active: this machine's kernel has
    no device mapper. An active volume is a link to a loop device below `devices`.

    Real are the device, the commands' arguments and the form of the report (LVM 2.03.16).
    """

    UUID = "KYFGTD-7VC9-SkQw-QlsX-Ufkc-nVUP-bHvkvA"

    def __init__(self, home: Path, devices: Path):
        self.home = home
        self.devices = devices
        self.bin = home / "bin"
        self.bin.mkdir()
        self.volumes: dict[str, dict[str, str]] = {}
        self._script("lvs", _FAKE_LVS)
        self._script("lvchange", _FAKE_LVCHANGE)

    def add(self, volume: str, size: int, *, kind: str = "linear", target: str = "/nowhere"):
        """Let there be a volume of the group; `target` is the device that it becomes."""
        self.volumes[volume] = {
            "lv_name": volume, "lv_uuid": self.UUID, "lv_size": str(size),
            "lv_attr": "Vwi-XX--tk" if kind == "thin" else "-wi-XX---k", "segtype": kind,
            "seg_start": "0", "seg_size": str(size), "seg_pe_ranges": "/dev/loop0:0-1",
        }  # fmt: skip
        rows = list(self.volumes.values())
        (self.home / "report.json").write_text(json.dumps({"report": [{"seg": rows}]}))
        (self.home / volume).write_text(target)

    def set(self, switch: str, on: bool = True):
        """`open`: somebody has the volumes open; `fail`, `hang`: what lvchange does."""
        (self.home / switch).touch() if on else (self.home / switch).unlink()

    @property
    def changes(self) -> list[str]:
        """How lvchange was called."""
        log = self.home / "changes"
        return log.read_text().splitlines() if log.exists() else []

    def _script(self, name: str, text: str):
        path = self.bin / name
        path.write_text(f"#!/bin/sh\nset -e\nhome={self.home}\ndevices={self.devices}\n{text}")
        path.chmod(0o755)


_FAKE_LVS = """
case "$*" in
    *seg_pe_ranges*) cat $home/report.json ;;
    *lv_attr*)
        letter=-; [ ! -e $home/open ] || letter=o
        echo '{"report":[{"lv":[{"lv_attr":"-wi-a'$letter'---k"}]}]}' ;;
esac
"""

_FAKE_LVCHANGE = """
echo "$*" >>$home/changes
for volume; do :; done
if [ -e $home/fail ]; then echo '  device-mapper: reload ioctl failed' >&2; exit 5; fi
case "$*" in
    "-K -ay -- $volume")
        mkdir -p $devices/${volume%/*}
        ln -s $(cat $home/${volume#*/}) $devices/$volume ;;
    "-an -- $volume") rm $devices/$volume ;;
    *) exit 3 ;;
esac
if [ -e $home/hang ]; then exec sleep 60; fi
"""
