"""What is on this machine: files, devices, volumes, and directories that are shared."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import trio

from nebfs.content.beneath import Beneath
from nebfs.content.layers import activated
from nebfs.content.layers.here import Here, look_at
from nebfs.model import Locator, Revision
from tests.disks import FakeLvm, LoopDevice, VolumeGroup
from tests.promises.cancelling import Readers
from tests.promises.subjects import Made, Operation, subject

DATA = random.Random(8).randbytes((1 << 20) + 512)
VOLUME = "vg-one-7/img-one-1"
GROUP = "vg-one-7161"


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@asynccontextmanager
async def _here(locator: Locator, data: bytes, *, volatile: bool) -> AsyncIterator[Made]:
    revision = look_at(locator, 0)[0]
    before = _descriptors()
    async with trio.open_nursery() as nursery:
        here = Here(nursery)

        def idle() -> None:
            assert _descriptors() == before, "a descriptor is left open"

        yield Readers(lambda: here.open(locator, revision, volatile=volatile), data, idle)
        nursery.cancel_scope.cancel()


@subject
async def file(home: Path) -> AsyncIterator[Made]:
    path = home / "file"
    path.write_bytes(DATA)
    async with _here(Locator("file", str(path)), DATA, volatile=False) as made:
        yield made


@subject
async def device(home: Path) -> AsyncIterator[Made]:
    loop = LoopDevice(home / "disk", DATA)
    try:
        async with _here(Locator("device", loop.path), DATA, volatile=True) as made:
            yield made
    finally:
        loop.close()


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@subject
async def volume_that_is_activated(home: Path) -> AsyncIterator[Made]:
    """Nothing may stay active that nobody reads."""
    loop = LoopDevice(home / "disk", DATA)
    lvm = FakeLvm(home, home / "dev")
    lvm.add("img-one-1", len(DATA), target=loop.path)
    (home / "locks").mkdir()
    defaults = activated.Activations.__init__.__defaults__
    activated.Activations.__init__.__defaults__ = (str(home / "locks"),)
    path = lvm.devices / VOLUME
    locator = Locator("lvm", str(path), (("volume", VOLUME), ("mode", "activate")))
    revision = Revision(len(DATA), f"lv:{FakeLvm.UUID.replace('-', '')}")
    try:
        with _environment(PATH=f"{lvm.bin}:/usr/bin:/bin"):
            before = _descriptors()

            def idle() -> None:
                assert not path.is_symlink(), "the volume is active"
                assert _descriptors() == before, "a descriptor is left open"

            async with trio.open_nursery() as nursery:
                here = Here(nursery)
                yield Readers(lambda: here.open(locator, revision, volatile=False), DATA, idle)
                nursery.cancel_scope.cancel()
    finally:
        activated.Activations.__init__.__defaults__ = defaults
        loop.close()


@subject
async def volumes_at_the_end_of_a_life(home: Path) -> AsyncIterator[Made]:
    """Whenever nebfs is stopped, and whatever was given up before, no volume stays active."""
    loop = LoopDevice(home / "disk", DATA)
    lvm = FakeLvm(home, home / "dev")
    lvm.add("img-one-1", len(DATA), target=loop.path)
    path = lvm.devices / VOLUME
    locator = Locator("lvm", str(path), (("volume", VOLUME), ("mode", "activate")))
    revision = Revision(len(DATA), f"lv:{FakeLvm.UUID.replace('-', '')}")

    async def check() -> None:
        assert not path.is_symlink(), "the volume is active"

    try:
        with _environment(PATH=f"{lvm.bin}:/usr/bin:/bin"):

            async def life() -> None:
                async with trio.open_nursery() as nursery:
                    here = Here(nursery)
                    with trio.move_on_after(0):
                        await here.open(locator, revision, volatile=False)
                    reader = await here.open(locator, revision, volatile=False)
                    await reader.pread(0, 4096)
                    nursery.cancel_scope.cancel()

            yield Operation(life, check)
    finally:
        loop.close()


@subject
async def volume_that_is_read_from_its_disk(home: Path) -> AsyncIterator[Made]:
    group = VolumeGroup(home, GROUP)
    try:
        with _environment(**group.environment):
            group.create("img-one-1", 1)
            data = group.fill("img-one-1", 7)
            options = (("volume", f"{GROUP}/img-one-1"), ("mode", "extents"))
            locator = Locator("lvm", f"/dev/{GROUP}/img-one-1", options)
            async with _here(locator, data, volatile=False) as made:
                yield made
    finally:
        group.close()


@subject
async def shared_directory(home: Path) -> AsyncIterator[Made]:
    (home / "shared").mkdir()
    (home / "shared" / "file").write_bytes(DATA)
    (home / "shared" / "link").symlink_to("file")
    beneath = Beneath(str(home / "shared"), timeout=20.0)
    before = _descriptors()

    async def run() -> None:
        found = dict(await beneath.entries((), None))
        assert set(found) == {"file", "link"}
        seen = await beneath.look((), None, "file")
        assert await beneath.facts(("file",), seen.identity) == seen
        assert await beneath.target(("link",), found["link"].identity) == "file"
        opened = await beneath.open(("file",), seen.identity)
        try:
            os.posix_fadvise(opened._fd, 0, 0, os.POSIX_FADV_DONTNEED)
            assert await opened.pread(5, 100_000) == DATA[5:100_005]
            assert await opened.pread(len(DATA) - 10, 4096) == DATA[-10:]
        finally:
            opened.close()

    async def check() -> None:
        assert _descriptors() == before, "a descriptor is left open"
        await run()
        assert _descriptors() == before

    yield Operation(run, check)
