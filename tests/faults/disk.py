"""Disks that fail: small real ones, and one that is slow, rots or refuses when a test says so.

The latter is a directory that a process of its own passes through FUSE:

    python -m tests.faults.disk BACKING MOUNTPOINT SWITCHES

SWITCHES is a file that is looked at before each operation: a JSON object with what of `Disk.set`
is not as usual. The kernel keeps nothing of what is read and written there.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyfuse3
import trio

from tests.mounted.conftest import run, wait_until


@contextlib.contextmanager
def disk_of(path: Path, options: str) -> Iterator[Path]:
    """Make a real small disk: what it refuses, the kernel refuses."""
    path.mkdir()
    run("mount", "-t", "tmpfs", "-o", options, "tmpfs", path)
    try:
        yield path
    finally:
        run("umount", "-l", path)


class Disk:
    """A disk at `path`. What it holds is at `backing` as well, where nothing ever fails."""

    def __init__(self, home: Path) -> None:
        self.path, self.backing = home / "disk", home / "backing"
        self.switches = home / "switches"
        for made in (self.path, self.backing):
            made.mkdir()
        self.set()

    def set(self, **switches: object) -> None:
        """Fail from now on as told, and in no other way.

        `slow`: seconds that each read and write takes; `read`, `write`, `fsync`: the name of the
        error that these give; `changes`: of whatever would change something; `flips`: one bit of
        what is read is wrong.
        """
        fresh = self.switches.with_suffix(".new")
        fresh.write_text(json.dumps(switches))
        fresh.replace(self.switches)

    @property
    def operations(self) -> list[str]:
        """Names of the reads and writes that came, one each."""
        return (self.backing.parent / "operations").read_text().split()


@contextlib.contextmanager
def failing_disk(home: Path) -> Iterator[Disk]:
    """Mount such a disk below `home`, which is made."""
    home.mkdir()
    disk = Disk(home)
    argv = [sys.executable, "-m", "tests.faults.disk", disk.backing, disk.path, disk.switches]
    process = subprocess.Popen(argv, cwd=Path(__file__).parents[2])
    try:
        wait_until(lambda: os.path.ismount(disk.path) or process.poll() is not None)
        yield disk
    finally:
        run("umount", "-l", disk.path, check=False)
        process.terminate()  # whoever has a file of it open still would keep it alive
        process.wait(20)


class Passed(pyfuse3.Operations):
    """A directory as it is, but for what the switches say."""

    def __init__(self, backing: str, switches: Path) -> None:
        super().__init__()
        self._paths = {pyfuse3.ROOT_INODE: backing}
        self._open: dict[int, list[int]] = {}
        self._switches = switches
        self._told = open(switches.parent / "operations", "a", buffering=1)

    async def _fails(self, what: str) -> dict:
        told = json.loads(self._switches.read_text())
        if what in {"read", "write"}:
            self._told.write(what + "\n")
            await trio.sleep(told.get("slow", 0))
        name = told.get(what) or (told.get("changes") if what not in {"read", "fsync"} else None)
        if name:
            raise pyfuse3.FUSEError(getattr(errno, name))
        return told

    @contextlib.contextmanager
    def _errors(self):
        try:
            yield
        except OSError as exc:
            raise pyfuse3.FUSEError(exc.errno) from exc

    def _attributes(self, inode, path=None):
        with self._errors():
            descriptors = self._open.get(inode)
            found = os.fstat(descriptors[0]) if descriptors else os.lstat(path or self._at(inode))
        entry = pyfuse3.EntryAttributes()
        for name in ("mode", "nlink", "uid", "gid", "rdev", "size", "blksize", "blocks"):
            setattr(entry, f"st_{name}", getattr(found, f"st_{name}"))
        for name in ("atime_ns", "mtime_ns", "ctime_ns"):
            setattr(entry, f"st_{name}", getattr(found, f"st_{name}"))
        entry.st_ino = inode
        entry.entry_timeout = entry.attr_timeout = 0
        return entry

    def _at(self, inode):
        if inode not in self._paths:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._paths[inode]

    def _child(self, parent, name):
        return os.path.join(self._at(parent), os.fsdecode(name))

    def _known(self, path):
        with self._errors():
            inode = os.lstat(path).st_ino + 1  # 1 is the root's
        self._paths[inode] = path
        return self._attributes(inode, path)

    async def lookup(self, parent_inode, name, ctx=None):
        return self._known(self._child(parent_inode, name))

    async def getattr(self, inode, ctx=None):
        return self._attributes(inode)

    async def setattr(self, inode, attr, fields, fh, ctx):
        await self._fails("changes")
        target = fh if fh is not None else self._at(inode)
        with self._errors():
            if fields.update_size:
                os.truncate(target, attr.st_size)
            if fields.update_mode:
                os.chmod(target, attr.st_mode & 0o7777)
            if fields.update_mtime:
                os.utime(target, ns=(attr.st_atime_ns, attr.st_mtime_ns))
        return self._attributes(inode)

    async def mkdir(self, parent_inode, name, mode, ctx):
        await self._fails("changes")
        with self._errors():
            os.mkdir(self._child(parent_inode, name), mode)
        return self._known(self._child(parent_inode, name))

    async def unlink(self, parent_inode, name, ctx):
        await self._fails("changes")
        with self._errors():
            os.unlink(self._child(parent_inode, name))

    async def rmdir(self, parent_inode, name, ctx):
        await self._fails("changes")
        with self._errors():
            os.rmdir(self._child(parent_inode, name))

    async def rename(self, parent_inode_old, name_old, parent_inode_new, name_new, flags, ctx):
        await self._fails("changes")
        new = self._child(parent_inode_new, name_new)
        with self._errors():
            os.rename(self._child(parent_inode_old, name_old), new)
        self._known(new)

    async def create(self, parent_inode, name, mode, flags, ctx):
        await self._fails("changes")
        path = self._child(parent_inode, name)
        with self._errors():
            fd = os.open(path, flags | os.O_CREAT, mode)
        entry = self._known(path)
        self._open.setdefault(entry.st_ino, []).append(fd)
        return pyfuse3.FileInfo(fh=fd, direct_io=True), entry

    async def open(self, inode, flags, ctx):
        if flags & (os.O_WRONLY | os.O_RDWR):
            await self._fails("changes")
        with self._errors():
            fd = os.open(self._at(inode), flags & ~os.O_CREAT)
        self._open.setdefault(inode, []).append(fd)
        return pyfuse3.FileInfo(fh=fd, direct_io=True)

    async def read(self, fh, off, size):
        told = await self._fails("read")
        with self._errors():
            data = bytearray(os.pread(fh, size, off))
        if told.get("flips") and data:
            data[len(data) // 2] ^= 4
        return bytes(data)

    async def write(self, fh, off, buf):
        await self._fails("write")
        with self._errors():
            return os.pwrite(fh, buf, off)

    async def fsync(self, fh, datasync):
        await self._fails("fsync")

    async def release(self, fh):
        for inode, descriptors in list(self._open.items()):
            if fh in descriptors:
                descriptors.remove(fh)
                if not descriptors:
                    del self._open[inode]
        os.close(fh)

    async def opendir(self, inode, ctx):
        return inode

    async def readdir(self, fh, start_id, token):
        with self._errors():
            names = sorted(os.listdir(self._at(fh)))
        for number, name in enumerate(names[start_id:], start_id + 1):
            entry = self._known(os.path.join(self._at(fh), name))
            if not pyfuse3.readdir_reply(token, os.fsencode(name), entry, number):
                break

    async def statfs(self, ctx):
        found, told = os.statvfs(self._paths[pyfuse3.ROOT_INODE]), pyfuse3.StatvfsData()
        for name in ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail"):
            setattr(told, f"f_{name}", getattr(found, f"f_{name}"))
        return told


def main() -> None:
    backing, mountpoint, switches = sys.argv[1:]
    options = {*pyfuse3.default_options, "fsname=failing"}
    pyfuse3.init(Passed(backing, Path(switches)), mountpoint, options)
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=False)


if __name__ == "__main__":
    main()
