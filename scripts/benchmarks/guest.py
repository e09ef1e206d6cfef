"""The guest that is booted: a Debian with systemd, from the distribution's own packages.

Its kernel is the one that scripts/install-needs fetches for the tests, started from outside of the
disk. Its disk is made once, by --install-peers, and kept (see toolbox.py): debootstrap's smallest
system with systemd, udev, D-Bus and cron, and so many of this machine's own files, which no boot
reads, that it is an image of a usual size.
"""

from __future__ import annotations

import lzma
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from nebfs.units import MIB
from scripts.benchmarks.disks import make_disk
from scripts.benchmarks.processes import Failed, run
from scripts.benchmarks.toolbox import HERE, find, kept

KERNEL = HERE.parent.parent / ".venv/guest-kernel"
MARKER = "NEBFS-GUEST-IS-UP"
SIZE, BALLAST = 1024 * MIB, 640 * MIB
"""Bytes of the disk, and of the files that are there to be there."""

PACKAGES = "systemd-sysv,udev,dbus,kmod,iproute2,cron"
LIMIT = 900.0
"""Seconds that making the disk may take: four minutes on a machine that does nothing else."""

MODULES = (
    *("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev"),
    *("virtio_pci", "virtio_blk"),
)
"""In the order in which they need each other; a kernel that has one built in has no file of it."""

FIRST = f"""\
#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs none /dev
for m in {" ".join(MODULES)}; do [ -e /$m.ko ] && $b insmod /$m.ko; done
for i in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vda ] && break; $b sleep 0.1; done
$b mount -t ext4 -o ro,noload /dev/vda /new || $b poweroff -f
$b mount --move /dev /new/dev
exec $b switch_root /new /sbin/init
"""

UNIT = f"""\
[Unit]
After=cron.service dbus.service systemd-user-sessions.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo {MARKER} >/dev/ttyS0'
[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True, slots=True)
class Guest:
    """What a boot needs. `disk` is a qcow2 image."""

    kernel: Path
    initrd: Path
    disk: Path

    def command(self, disk: Path) -> list[str | Path]:
        """Return how QEMU boots it, slowly but without anything that a machine may not have (KVM),
        from `disk`, which it only reads. What the guest says goes to stdout.
        """
        drive = f"file={disk},format=qcow2,if=none,id=disk,readonly=on,cache=none,aio=threads"
        words = "console=ttyS0 quiet panic=-1 systemd.show_status=0"
        return [
            *("qemu-system-x86_64", "-accel", "tcg", "-smp", "1", "-m", "768", "-nodefaults"),
            *("-nographic", "-no-reboot", "-serial", "stdio", "-kernel", self.kernel),
            *("-initrd", self.initrd, "-append", words, "-drive", drive),
            *("-device", "virtio-blk-pci,drive=disk"),
        ]


def guest() -> Guest:
    """Return the guest. Failed: it has not been made, or there is no QEMU."""
    if find("qemu-system-x86_64") is None:
        raise Failed("qemu-system-x86_64 is missing: scripts/install-needs --tests installs it")
    home = kept() / "guest"
    made = Guest(_kernel(), home / "initrd", home / "disk.qcow2")
    if not made.disk.exists():
        raise Failed("there is no guest; --install-peers makes one with debootstrap")
    return made


def _kernel() -> Path:
    found = next(KERNEL.glob("boot/vmlinuz-*"), None)
    if found is None:
        raise Failed("there is no kernel: scripts/install-needs --tests fetches it")
    return found


def make_guest() -> None:
    """Make the guest, if there is none yet. Failed: it cannot be made."""
    home = kept() / "guest"
    if (home / "disk.qcow2").exists():
        return
    if os.geteuid() != 0:
        raise Failed("only root may make the guest's disk")
    _kernel()
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    _make_initrd(home / "initrd")
    root, raw = home / "root", home / "disk.raw"
    mirror, release = _mirror()
    run(
        "debootstrap",
        "--variant=minbase",
        f"--include={PACKAGES}",
        release,
        root,
        mirror,
        limit=LIMIT,
    )
    (root / "etc/systemd/system/guest-is-up.service").write_text(UNIT)
    run("systemctl", f"--root={root}", "enable", "guest-is-up.service")
    (root / "etc/fstab").write_text("")
    shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)
    make_disk(root / "opt/files", BALLAST)
    run(
        find("mke2fs") or "mke2fs",
        "-q",
        "-t",
        "ext4",
        "-F",
        "-d",
        root,
        raw,
        f"{SIZE >> 10}k",
        limit=LIMIT,
    )
    shutil.rmtree(root)
    unfinished = home / "unfinished"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, unfinished, limit=LIMIT)
    raw.unlink()
    unfinished.replace(home / "disk.qcow2")


def _mirror() -> tuple[str, str]:
    """Return where this machine's own packages come from, and the release's name."""
    words = ("--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages")
    for line in run("apt-get", "indextargets", *words).splitlines():
        address, _, release = line.partition(" ")
        if "-" not in release and "security" not in address:
            return address, release
    raise Failed("apt knows no mirror")


def _make_initrd(path: Path) -> None:
    """Write the archive that the kernel unpacks first: `newc` of cpio(5)."""
    busybox = find("busybox")
    if busybox is None:
        raise Failed("busybox is missing: scripts/install-needs --tests installs it")
    files = {"bin/busybox": Path(busybox).read_bytes(), "init": FIRST.encode()}
    for name in MODULES:
        for found in KERNEL.rglob(f"{name}.ko*"):
            data = found.read_bytes()
            files[f"{name}.ko"] = lzma.decompress(data) if found.suffix == ".xz" else data
    entries = [(name, 0o40755, b"") for name in ("bin", "dev", "new")]
    entries += [(name, 0o100755, data) for name, data in files.items()]
    with path.open("wb") as archive:
        for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
            numbers = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
            head = b"070701" + b"".join(b"%08X" % n for n in numbers) + name.encode() + b"\0"
            for part in (head, data):
                archive.write(part + bytes(-len(part) % 4))
