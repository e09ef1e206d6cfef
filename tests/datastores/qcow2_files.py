"""Chains of qcow2 files as OpenNebula leaves them, made by qemu-img, and what a VM would see."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path

from nebfs.model import Snapshot

SIZE = (1 << 20) + 512 * 7
CLUSTER = 64 << 10


def run(*argv, cwd=None) -> None:
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, f"{argv}: {done.stderr}"


def create(path: Path, backing: str = "", size: int = SIZE, kind: str = "qcow2") -> None:
    """Make an empty qcow2 file; `backing` is taken relative to it, as QEMU does."""
    over = ["-b", backing, "-F", kind] if backing else []
    run("qemu-img", "create", "-q", "-f", "qcow2", *over, path, *([] if backing else [size]))


def rename_backing(path: Path, backing: str) -> None:
    """Write another name into the header, whatever is there."""
    run("qemu-img", "rebase", "-q", "-u", "-F", "qcow2", "-b", backing, path)


def write(path: Path, seed: int, at: int = 0, length: int = 3 * CLUSTER + 512) -> None:
    """Write random bytes to the disk in a qcow2 file."""
    data = path.parent / f"{path.name}.data"
    data.write_bytes(random.Random(seed).randbytes(length))
    run("qemu-io", "-f", "qcow2", "-c", f"write -q -s {data} {at} {length}", path)
    data.unlink()


def disk_in(path: Path) -> bytes:
    """Return the disk that QEMU sees in a file, following what the files say."""
    out = path.parent / f"{path.name}.raw"
    run("qemu-img", "convert", "-U", "-O", "raw", path, out)
    data = out.read_bytes()
    out.unlink()
    return data


def path_of(content) -> Path:
    address = content.locator.address
    if content.locator.transport == "sftp":
        address = "/" + address.removeprefix("sftp://").partition("/")[2]
    return Path(address)


def paths_of(content) -> list[str]:
    """Return the names of the files behind a content, the topmost first."""
    names = []
    while content is not None:
        names.append(path_of(content).name)
        content = content.backing
    return names


def seen_in(content, scratch: Path) -> bytes:
    """Return the disk that QEMU sees when it is told which file is beneath which."""
    if not content.view:
        return disk_in(path_of(content))
    out = scratch / "seen.raw"
    nodes = "json:" + json.dumps(_node(content))
    run("qemu-img", "convert", "-U", "-O", "raw", nodes, out)
    return out.read_bytes()


def _node(content):
    kind = "qcow2" if content.view else "raw"
    file = {"driver": "file", "filename": str(path_of(content)), "locking": "off"}
    beneath = {"backing": content.backing and _node(content.backing)} if content.view else {}
    return {"driver": kind, "file": file, **beneath}


class Disk:
    """An image in a datastore's directory, with what it has been: `truth` by snapshot, and now."""

    def __init__(self, store: Path, name: str = f"{1:032x}") -> None:
        self.name = name
        self.source = store / name
        self.snap = store / f"{name}.snap"
        self.truth: dict[int, bytes] = {}
        self.snapshots: tuple[Snapshot, ...] = ()
        self._seed = 0

    @property
    def now(self) -> bytes:
        return disk_in(self.top)

    @property
    def top(self) -> Path:
        numbers = [int(p.name) for p in self.snap.iterdir() if p.name.isdecimal()]
        return self.snap / str(max(numbers))

    def written(self, path: Path) -> None:
        self._seed += 1
        write(path, self._seed, at=self._seed * 2 * CLUSTER)

    def took(self, number: int, data: bytes) -> None:
        self.truth[number] = data
        older = tuple(Snapshot(s.id, s.name, s.date, 1, s.parent, False) for s in self.snapshots)
        new = Snapshot(number, f"step {number}", 1_700_000_000 + number, 1, number - 1, True)
        self.snapshots = (*older, new)

    def record(self) -> dict:
        """What OpenNebula says about it."""
        last = max(self.truth, default=-1)
        return {
            "format": "qcow2",
            "snapshots": self.snapshots,
            "current_base": last,
            "next_snapshot": last + 1,
        }

    def shared(self, snapshots: int = 2, absolute: bool = False) -> Disk:
        """As the transfer drivers shared and qcow2 leave it."""
        create(self.source)
        self.written(self.source)
        self.snap.mkdir()
        (self.snap / self.snap.name).symlink_to(".")
        (self.snap / "0").symlink_to(self.source)
        for number in range(snapshots):
            self.took(number, self.now)
            self.put_over(number, number + 1, absolute)
        return self

    def put_over(self, below: int, number: int, absolute: bool = False) -> None:
        directory = str(self.snap) if absolute else self.snap.name
        create(self.snap / str(number), f"{directory}/{below}")
        self.written(self.snap / str(number))

    def local(self, snapshots: int = 2) -> Disk:
        """As the transfer driver local leaves it."""
        self.snap.mkdir()
        create(self.snap / "0")
        self.written(self.snap / "0")
        for number in range(snapshots):
            self.took(number, self.now)
            create(self.snap / str(number + 1), str(number))
            self.written(self.snap / str(number + 1))
        self.source.symlink_to(f"{self.snap.name}/{snapshots}")
        return self

    def copies(self, snapshots: int = 2, kind: str = "qcow2") -> Disk:
        """As the transfer driver ssh leaves it, and all do with raw images."""
        self.snap.mkdir()
        if kind == "qcow2":
            create(self.source)
        for number in range(snapshots):
            if kind == "qcow2":
                self.written(self.source)
                self.took(number, disk_in(self.source))
            else:
                self.source.write_bytes(random.Random(number).randbytes(SIZE))
                self.took(number, self.source.read_bytes())
            shutil.copy(self.source, self.snap / str(number))
        if kind == "qcow2":
            self.written(self.source)
        else:
            self.source.write_bytes(random.Random(99).randbytes(SIZE))
        return self

    def revert(self, number: int) -> None:
        """As OpenNebula does it to an image in a datastore of TM_MAD qcow2."""
        top = self.top
        top.unlink()
        create(top, str(self.snap / str(number)))

    def flatten(self, number: int) -> None:
        new = self.source.parent / f"{self.name}.tmp"
        run("qemu-img", "convert", "-O", "qcow2", self.snap / str(number), new)
        new.replace(self.source)
        shutil.rmtree(self.snap)
