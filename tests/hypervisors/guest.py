"""A guest that boots in seconds, and says what its disk holds.

Its kernel is the distribution's own (scripts/install-needs fetches it), started by QEMU from
outside of the disk, as OpenNebula does for a VM with KERNEL and INITRD; all else that runs comes
from the disk: busybox, the script below, and a file of random bytes whose SHA-256 the guest prints.
A guest that read a wrong byte, or zeros, prints another one.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import random
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
ROOT = Path(__file__).resolve().parents[2]
KERNEL = ROOT / ".venv/guest-kernel"

START = MIB
"""Where the partition begins: where every tool puts the first one today."""
PARTITION = 40 * MIB
PROOF = 12 * MIB
"""More than is read ahead at once (4 MiB), and summed up by the guest in a second."""

MODULES = (
    "virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci",
    "virtio_blk",
)  # fmt: skip
"""In the order in which Linux 6.1 wants them; others may want another one, so all are tried twice.
A kernel that has one built in has no file of it.
"""

FIRST = """\
#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs none /dev; $b mount -t proc none /proc
for m in MODULES; do [ -e /$m.ko ] && $b insmod /$m.ko 2>/dev/null; done
how=ro,noload
for word in $($b cat /proc/cmdline); do case $word in nebfs.rw) how=rw ;; esac; done
for i in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vda1 ] && break; $b sleep 0.1; done
$b mount -t ext4 -o $how /dev/vda1 /new || { echo "nebfs: no disk" >/dev/ttyS0; $b poweroff -f; }
$b mount --move /dev /new/dev; $b mount --move /proc /new/proc
exec $b switch_root /new /sbin/init
""".replace("MODULES", " ".join(MODULES * 2))

INIT = """\
#!/bin/busybox sh
b=/bin/busybox
sum() { $b sha256sum "$1" | $b cut -d' ' -f1; }
tell() { echo "nebfs: $*" >/dev/ttyS0; }
tell disk $(sum /proof)
if [ -b /dev/vdb ]; then tell second $(sum /dev/vdb); fi
if $b grep -q nebfs.rw /proc/cmdline; then
    if [ -e /written ]; then tell kept $(sum /written); fi
    $b dd if=/proof of=/written bs=64k count=16 conv=fsync 2>/dev/null
    echo 3 >/proc/sys/vm/drop_caches
    tell written $(sum /written)
    $b mount -o remount,ro /
fi
tell done
$b poweroff -f
"""


@dataclass(frozen=True, slots=True)
class Guest:
    """What a boot needs, and what the guest says when it read what we wrote."""

    kernel: Path
    initrd: Path
    disk: Path
    """A raw disk of one partition."""
    proof: str
    written: str
    """SHA-256 of what a guest with a writable disk copies."""


def make_guest(home: Path) -> Guest:
    """Make the initial RAM disk and the disk below `home`."""
    (kernel,) = KERNEL.glob("boot/vmlinuz-*")
    return Guest(kernel, _make_initrd(home), *_make_disk(home))


def _make_initrd(home: Path) -> Path:
    busybox = Path(shutil.which("busybox") or "/bin/busybox").read_bytes()
    files = [("bin/busybox", busybox), ("init", FIRST.encode())]
    for name in MODULES:
        for path in KERNEL.rglob(f"{name}.ko*"):
            data = path.read_bytes()
            files.append((f"{name}.ko", lzma.decompress(data) if path.suffix == ".xz" else data))
    made = home / "initrd"
    made.write_bytes(_cpio(("bin", "dev", "proc", "new"), files))
    return made


def _cpio(directories: tuple[str, ...], files: list[tuple[str, bytes]]) -> bytes:
    """Return the archive that a kernel unpacks: `newc` of cpio(5)."""
    parts = []
    entries = [(name, 0o40755, b"") for name in directories]
    entries += [(name, 0o100755, data) for name, data in files]
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        parts += [head, bytes(-len(head) % 4), data, bytes(-len(data) % 4)]
    return b"".join(parts)


def _make_disk(home: Path) -> tuple[Path, str, str]:
    tree = home / "tree"
    for name in ("bin", "dev", "etc", "proc", "root", "run", "sbin", "sys", "tmp", "usr", "var"):
        (tree / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", tree / "bin/busybox")
    (tree / "bin/sh").symlink_to("busybox")
    (tree / "sbin/init").write_text(INIT)
    (tree / "sbin/init").chmod(0o755)
    # A container's manager wants to know what this is.
    (tree / "etc/os-release").write_text("ID=nebfs-guest\n")
    proof = random.Random(11).randbytes(PROOF)
    (tree / "proof").write_bytes(proof)
    disk = home / "disk.raw"
    with open(disk, "wb") as file:
        file.truncate(START + PARTITION + MIB)
        # The master boot record: one entry, of type Linux (0x83), in sectors of 512 bytes.
        entry = struct.pack("<B3sB3sII", 0, bytes(3), 0x83, bytes(3), START >> 9, PARTITION >> 9)
        file.seek(446)
        file.write(entry)
        file.seek(510)
        file.write(b"\x55\xaa")
    words = ["mke2fs", "-q", "-t", "ext4", "-F", "-d", tree, "-E", f"offset={START}", disk]
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    subprocess.run([*words, f"{PARTITION >> 10}k"], check=True, env={**os.environ, "PATH": path})
    shutil.rmtree(tree)
    return disk, hashlib.sha256(proof).hexdigest(), hashlib.sha256(proof[:MIB]).hexdigest()
