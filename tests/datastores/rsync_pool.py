"""A repository of the rsync backup datastore, made by qemu-img as OpenNebula's backups make it."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from nebfs.model import Image, ImageState, ImageType, Increment
from tests.datastores.qcow2_files import CLUSTER, create, disk_in, rename_backing, write
from tests.datastores.qcow2_files import run as run_tool

VM = 42
RUNS = ("8a3454", "f6e63e", "0c11d2", "77aa01")
SERVER = "nbd+unix:///?socket=/var/lib/one/datastores/0/42/backup.socket"
"""What increments name as their backing file: the server that they were pulled from."""


class Repository:
    """The directory of one VM; `truth` has what disk D was at run N, by (D, N)."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.truth: dict[tuple[int, int], bytes] = {}

    def directory(self, run: int) -> Path:
        made = self.base / str(VM) / RUNS[run]
        made.mkdir(parents=True, exist_ok=True)
        return made

    def file(self, disk: int, run: int) -> Path:
        return self.directory(run) / f"disk.{disk}.{run}"

    def document(self, run: int) -> bytes:
        text = base64.encodebytes(f"<VM><ID>{VM}</ID><RUN>{run}</RUN></VM>".encode())
        (self.directory(run) / "vm.xml").write_bytes(text)
        return text

    def full(self, disk: int, run: int = 0) -> None:
        path = self.file(disk, run)
        create(path)
        write(path, seed=100 * disk + run)
        self.truth[disk, run] = disk_in(path)

    def increment(self, disk: int, run: int) -> None:
        """A file with what has changed since the run before."""
        path = self.file(disk, run)
        create(path, str(self.file(disk, run - 1)))
        write(path, seed=100 * disk + run, at=run * 2 * CLUSTER)
        self.truth[disk, run] = disk_in(path)

    def finish(self) -> Repository:
        """Let the headers say what they say in a real one. Nothing can be added afterwards."""
        for disk, run in self.truth:
            if (disk, run - 1) in self.truth:
                rename_backing(self.file(disk, run), SERVER)
        return self

    def incremental(
        self, runs: int = 3, disks: tuple[int, ...] = (0, 2), finished: bool = True
    ) -> Repository:
        for number in range(runs):
            self.document(number)
            for disk in disks:
                (self.increment if number else self.full)(disk, number)
        return self.finish() if finished else self

    def flatten(self, disk: int, first: int) -> None:
        """Merge what is older into run `first`."""
        path = self.file(disk, first)
        for number in range(1, first + 1):
            older, newer = self.file(disk, number - 1), self.file(disk, number)
            rename_backing(newer, str(older))
        run_tool("qemu-img", "convert", "-O", "qcow2", path, f"{path}.tmp")
        Path(f"{path}.tmp").replace(path)


def increments(*numbers: int) -> tuple[Increment, ...]:
    return tuple(
        Increment(
            number,
            number - 1 if at else -1,
            full=at == 0,
            date=1_700_000_000 + number,
            source=RUNS[number],
            size_mb=1,
        )
        for at, number in enumerate(numbers)
    )


def backup(number: int = 1, **changes: object) -> Image:
    facts: dict[str, object] = {
        "datastore_id": 1,
        "type": ImageType.BACKUP,
        "state": ImageState.READY,
        "source": RUNS[0],
        "format": "raw",
        "vm_ids": (VM,),
        "regtime": 1_600_000_000,
    }
    return Image(number, f"{VM} backup", **{**facts, **changes})


@pytest.fixture
def stored_by_rsync(image):
    """A backup, whose files nobody looks at before it is opened."""

    def make(number: int = 1, data: bytes = b"", **changes: object) -> Image:
        facts = {"source": RUNS[0], "vm_ids": (VM,), "type": ImageType.BACKUP}
        return image(number, **{**facts, **changes})

    return make
