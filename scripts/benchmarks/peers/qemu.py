"""What QEMU makes of a qcow2: its storage daemon's own filesystem, and qemu-img's conversion."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nebfs.units import MIB
from scripts.benchmarks.images import Image
from scripts.benchmarks.peers.local import READ_AHEAD_KB
from scripts.benchmarks.peers.peer import Mounted, is_mount, unmount
from scripts.benchmarks.processes import run, running, wait_until
from scripts.benchmarks.sites import Site
from scripts.benchmarks.toolbox import find


def _absent(command: str, package: str) -> str | None:
    if find(command) is None:
        return f"{command} is missing (package {package}); scripts/install-needs --tests has it"
    return None


class StorageDaemon:
    """qemu-storage-daemon's FUSE export: the disk in a local qcow2, as a file."""

    name = "qemu-storage-daemon"

    def missing(self) -> str | None:
        """Return why it cannot be run, or None."""
        return _absent("qemu-storage-daemon", "qemu-system-common")

    def version(self) -> str:
        """Return what it says of itself."""
        return run("qemu-storage-daemon", "--version").split()[2]

    @contextmanager
    def mount(
        self, site: Site, home: Path, images: list[Image], tls: bool = False
    ) -> Iterator[Mounted]:
        """Show the disk in one image, over a file that it mounts itself on."""
        del site, tls
        (image,) = images
        home.mkdir(parents=True)
        shown, log = home / "disk.raw", home / "output"
        shown.touch()
        file = f"driver=file,node-name=file,read-only=on,filename={image.path}"
        export = f"type=fuse,id=disk,node-name=disk,writable=off,mountpoint={shown}"
        argv: list[str | Path] = ["qemu-storage-daemon", "--blockdev", file, "--blockdev"]
        argv += ["driver=qcow2,node-name=disk,read-only=on,file=file", "--export", export]
        with running(argv, log) as process:
            try:
                wait_until(lambda: is_mount(shown), process, log)
                device = shown.stat().st_dev
                bdi = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
                if os.access(bdi, os.W_OK):
                    bdi.write_text(READ_AHEAD_KB)
                yield Mounted(shown, lambda _: shown, process.pid)
            finally:
                unmount(shown)


class QemuImg:
    """qemu-img, which reads a whole image and throws it away: into QEMU's null device."""

    name = "qemu-img"

    def missing(self) -> str | None:
        """Return why it cannot be run, or None."""
        return _absent("qemu-img", "qemu-utils")

    def version(self) -> str:
        """Return what it says of itself."""
        return run("qemu-img", "--version").split()[2]

    def seconds(self, image: Image) -> float:
        """Convert the disk in `image`; Failed: it cannot, or there is none inside."""
        into = f"driver=null-co,size={image.size}"
        words = ("qemu-img", "convert", "-n", "-f", "qcow2", "--target-image-opts")
        began = time.perf_counter()
        run(*words, image.path, into)
        return time.perf_counter() - began

    def starting(self, home: Path) -> float:
        """Return the seconds that it takes without anything to convert, the least of several."""
        empty = home.with_suffix(".qcow2")
        run("qemu-img", "create", "-q", "-f", "qcow2", empty, str(MIB))
        image = Image(0, empty, MIB, "")
        return min(self.seconds(image) for _ in range(5))


STORAGE_DAEMON, QEMU_IMG = StorageDaemon(), QemuImg()
