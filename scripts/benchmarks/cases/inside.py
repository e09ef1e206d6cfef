"""The disk inside a qcow2: read through the mount, and by the reader alone."""

from __future__ import annotations

import dataclasses
import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from nebfs.content.layers.inplace import InPlace, revision_of
from nebfs.content.layers.qcow2 import Qcow2
from nebfs.model import Locator, Revision
from nebfs.units import MIB
from scripts.benchmarks.disks import LAYOUTS, make_disk, make_qcow2
from scripts.benchmarks.frontend import frontend
from scripts.benchmarks.images import Image, forget
from scripts.benchmarks.peers.peer import Mounted, Peer
from scripts.benchmarks.peers.qemu import QEMU_IMG, STORAGE_DAEMON
from scripts.benchmarks.processes import Failed, Mismatch
from scripts.benchmarks.rounds import Bench, Contestant, Figures, Result, alternate, clear

RATE = "MiB/s"
DISK, QUICK_DISK = 1024 * MIB, 256 * MIB
RAW_LAYOUTS = ("plain", "zlib", "zstd")
"""What is read through the mount."""

FIRST_NUMBER = 5000
"""Of the apps that these images are: no other case has them."""


def disks(bench: Bench, layouts: tuple[str, ...]) -> tuple[Path, list[Image]]:
    """Return the disk and qcow2s of it, which are made when they are first asked for; each image's
    size is its disk's. They are where the web server has its files. Failed: they cannot be made.
    """
    if reason := QEMU_IMG.missing():
        raise Failed(reason)
    home = bench.images[0].path.parent / "disks"
    home.mkdir(exist_ok=True)
    disk = home / "disk.raw"
    size = QUICK_DISK if bench.quick else DISK
    if not disk.exists():
        bench.say("  making a disk of this machine's own files")
        make_disk(disk, size)
    images = []
    for layout in layouts:
        path = home / f"{layout}.qcow2"
        if not path.exists():
            make_qcow2(disk, layout, path)
        images.append(Image(FIRST_NUMBER + list(LAYOUTS).index(layout), path, size, ""))
    return disk, images


# --- through the mount ----------------------------------------------------------------------------


@contextmanager
def _shown(bench: Bench, peer: Peer, image: Image, home: Path) -> Iterator[tuple[Mounted, Path]]:
    """Mount an image; yield where its disk is to be read."""
    if peer is not bench.nebfs:
        with peer.mount(bench.loopback, home, [image]) as mounted:
            yield mounted, mounted.path(image)
        return
    apps = [(image.number, f"{bench.loopback.web.url()}/disks/{image.name}", "")]
    with frontend(bench.scratch(), apps) as (endpoint, _):
        site = dataclasses.replace(bench.loopback, endpoint=endpoint)
        with peer.mount(site, home, []) as mounted:
            place = mounted.root / f"raw/marketplaces/market/app {image.number}"
            found = next(place.glob("*.raw"), None)
            if found is None or found.stat().st_size != image.size:
                raise Failed(f"it does not show the disk inside {image.name}")
            yield mounted, found


def raw(bench: Bench) -> list[Result]:
    """The whole disk in sequence, as at a user's second boot: it has been read once, so that nebfs
    has the image in its cache, and what was unpacked of it.
    """
    disk, images = disks(bench, RAW_LAYOUTS)
    results = []
    for layout, image in zip(RAW_LAYOUTS, images, strict=True):
        ways = [("", "page cache dropped", "seq")]
        if layout == "plain":
            ways.append(("-direct", "O_DIRECT", "direct"))
        for suffix, said, how in ways:
            title = f"The disk inside a qcow2 ({layout}), warm, {said}"
            name, baseline = f"raw-{layout}{suffix}", STORAGE_DAEMON.name
            result = Result(name, title, RATE, more_is_better=True, baseline=baseline)
            results.append(result)
            _raw(bench, result, image, disk, how)
    return results


def _raw(bench: Bench, result: Result, image: Image, disk: Path, how: str) -> None:
    def once(peer: Peer) -> Figures:
        home = bench.scratch()
        try:
            with _shown(bench, peer, image, home) as (_, path):
                bench.loopback.read("same", path, disk)
                forget(path)
                took = bench.loopback.read(how, path)["ns"] / 1e9
                bench.loopback.read("same", path, disk)
        finally:
            clear(home)
        return {RATE: image.size / MIB / took}

    peers: tuple[Peer, ...] = (bench.nebfs, STORAGE_DAEMON)
    alternate(bench, result, peers, once)


# --- by the reader alone --------------------------------------------------------------------------


class OurReader:
    """The reader of qcow2 images, in the harness's own process."""

    name = "nebfs"

    def missing(self) -> str | None:
        """Return None: it is always there."""

    def seconds(self, image: Image, original: Path | None = None) -> float:
        """Open an image and read all of its disk, 1 MiB at a time; Mismatch: it is not `original`,
        with which nothing is compared if it is None.
        """
        if original is None:
            return trio.run(_read, image.path, None)
        with (
            original.open("rb") as file,
            mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as bytes_,
        ):
            return trio.run(_read, image.path, bytes_)


async def _read(path: Path, original: mmap.mmap | None) -> float:
    began = time.perf_counter()
    file = await InPlace.open(Locator("file", os.fspath(path)), revision_of(os.stat(path)))
    reader = await Qcow2.open(file, None, Revision(0))
    try:
        for at in range(0, reader.size, MIB):
            length = min(MIB, reader.size - at)
            data = reader.warm(at, length)
            if data is None:
                data = memoryview(await reader.pread(at, length))
            if original is not None and data != original[at : at + length]:
                raise Mismatch(f"{path.name}: wrong bytes in the MiB at {at}")
        return time.perf_counter() - began
    finally:
        await reader.aclose()


def reader(bench: Bench) -> list[Result]:
    """Whole disks, every layout, beside qemu-img without the time that it takes to start."""
    layouts = tuple(LAYOUTS)
    disk, images = disks(bench, layouts)
    ours = OurReader()
    results = []
    for layout, image in zip(layouts, images, strict=True):
        title = f"The reader of qcow2 by itself, {layout}"
        result = Result(f"qcow2-{layout}", title, RATE, more_is_better=True, baseline=QEMU_IMG.name)
        results.append(result)
        _reader(bench, result, image, disk, ours)
    return results


def _reader(bench: Bench, result: Result, image: Image, disk: Path, ours: OurReader) -> None:
    starting = QEMU_IMG.starting(bench.scratch())
    try:
        ours.seconds(image, disk)
    except Mismatch as exc:
        result.wrong = True
        result.remarks[ours.name] = f"WRONG BYTES: {exc}"
        return
    contestants: tuple[Contestant, ...] = (ours, QEMU_IMG)

    def once(peer: Contestant) -> Figures:
        took = ours.seconds(image) if peer is ours else QEMU_IMG.seconds(image) - starting
        return {RATE: image.size / MIB / took}

    # Short runs, so more of them.
    alternate(bench, result, contestants, once, runs=3 * bench.runs)
