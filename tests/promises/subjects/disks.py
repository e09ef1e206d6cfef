"""The disks inside images of all formats, over a file of which every read has to wait."""

from __future__ import annotations

import functools
import io
import random
import tarfile
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from nebfs.content.disks import DISKS
from nebfs.content.layers.unpacked import Unpacked
from nebfs.content.layers.unpacked_keeping import WAITING, room
from nebfs.content.stack import Reader, ReaderFacts, read
from nebfs.model import Content, Locator, Revision
from tests.content.disk_images import make
from tests.content.qcow2 import run
from tests.promises.cancelling import Readers
from tests.promises.subjects import Made, subject
from tests.promises.subjects.places import Files, Shop, shop

MIB = 1 << 20
SIZE = 2 * MIB
REVISION = Revision(0)


class Counted:
    """A reader over bytes, never at once. `opened` has those that are not closed."""

    def __init__(self, data: bytes, opened: list[Counted]) -> None:
        self._data = data
        self._opened = opened
        self.size = len(data)
        self.revision = REVISION
        opened.append(self)

    def warm(self, offset: int, length: int) -> memoryview | None:
        return None

    async def pread(self, offset: int, length: int) -> bytes:
        assert self in self._opened, "it is read though it was closed"
        assert length > 0
        assert 0 <= offset <= self.size - length
        await trio.lowlevel.checkpoint()
        return self._data[offset : offset + length]

    def facts(self) -> ReaderFacts:
        return ReaderFacts(self.size, 0, "", "")

    async def aclose(self) -> None:
        assert self in self._opened, "it is closed a second time"
        self._opened.remove(self)
        await trio.lowlevel.checkpoint()


@functools.cache
def disk() -> bytes:
    """Bytes of a disk: some compress, some do not, some are zeros."""
    chance = random.Random(9)
    compress = b"".join(b"%016d" % chance.randrange(1000) for _ in range(40_000))
    return (compress + bytes(300_000) + chance.randbytes(SIZE)).ljust(SIZE, b"\0")[:SIZE]


@functools.cache
def image(kind: str, options: str = "", *, compressed: bool = False) -> bytes:
    """Return an image of the disk that qemu-img has made."""
    with tempfile.TemporaryDirectory(prefix="nebfs-") as home:
        raw, path = Path(home) / "raw", Path(home) / "image"
        raw.write_bytes(disk())
        if kind != "qcow2":
            return make(kind, raw, path, options).read_bytes()
        words = ["-c"] if compressed else []
        if options:
            words += ["-o", options]
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *words, raw, path)
        return path.read_bytes()


@asynccontextmanager
async def _in(kind: str, data: bytes) -> AsyncIterator[Made]:
    """One image by itself."""
    opened: list[Counted] = []

    async def look_and_open() -> Reader:
        file = Counted(data, opened)
        try:
            found = await DISKS[kind].look(file)
            assert (found.size, found.flaw) == (SIZE, "")
        except BaseException:
            with trio.CancelScope(shield=True):
                await file.aclose()
            raise
        # What is opened belongs to the reader from here on, also if this fails.
        return await DISKS[kind].open(file, None, REVISION)

    def idle() -> None:
        assert opened == [], "the file is open"

    yield Readers(look_and_open, disk(), idle, lengths=(1, 4096, 70_000, 600_000))


def _register(name: str, kind: str, data: Callable[[], bytes]) -> None:
    async def make_it(home: Path) -> AsyncIterator[Made]:
        async with _in(kind, data()) as made:
            yield made

    make_it.__name__ = name
    subject(make_it)


def _ova() -> bytes:
    """An appliance: its description, and one streamed VMDK."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in (("x.ovf", b"<Envelope/>"), ("disk.vmdk", _stream())):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def _stream() -> bytes:
    return image("vmdk", "subformat=streamOptimized")


_register("qcow2", "qcow2", lambda: image("qcow2"))
_register("qcow2_of_zlib", "qcow2", lambda: image("qcow2", compressed=True))
_register(
    "qcow2_of_zstd",
    "qcow2",
    lambda: image("qcow2", "compression_type=zstd,cluster_size=16k", compressed=True),
)
_register("vdi", "vdi", lambda: image("vdi"))
_register("vhd", "vhd", lambda: image("vhd", "force_size=on"))
_register("vhd_of_fixed_size", "vhd", lambda: image("vhd", "subformat=fixed,force_size=on"))
_register("vhdx", "vhdx", lambda: image("vhdx"))
_register("vmdk", "vmdk", lambda: image("vmdk"))
_register("vmdk_as_a_stream", "vmdk", _stream)
_register("ova", "ova", _ova)


@subject
async def qcow2_over_another_far_away(home: Path) -> AsyncIterator[Made]:
    """A chain of two, through the library: each file is an object of its own."""
    below, top = Path(home) / "below.qcow2", Path(home) / "top.qcow2"
    below.write_bytes(image("qcow2"))
    run("qemu-img", "create", "-f", "qcow2", "-F", "qcow2", "-b", below, top)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 100000 300000", top)
    expected = bytearray(disk())
    expected[100_000:400_000] = b"\x07" * 300_000
    files = Files({"http://host/top": top.read_bytes(), "http://host/below": below.read_bytes()})
    async with shop(home, files) as made:
        beneath = Content(Locator("http", "http://host/below"), format="qcow2", view="raw")
        content = Content(
            Locator("http", "http://host/top"), format="qcow2", view="raw", backing=beneath
        )
        yield Readers(lambda: made.open_disk(content), bytes(expected), made.idle, made.cold)


@asynccontextmanager
async def _zlib_far_away(
    home: Path,
) -> AsyncIterator[tuple[Shop, Callable[[], Awaitable[Reader]]]]:
    """Give a shop, and what opens the disk in a compressed qcow2 there."""
    files = Files({"http://host/image": image("qcow2", compressed=True)})
    async with shop(home, files) as made:
        content = Content(Locator("http", "http://host/image"), format="qcow2", view="raw")

        async def opened() -> Reader:
            await made.prober.ask(content)
            return await made.library.open(content, made.prober.view(content).revision)

        yield made, opened


@subject
async def qcow2_of_zlib_far_away(home: Path) -> AsyncIterator[Made]:
    """What is unpacked is kept in the cache, and answered with from there."""
    async with _zlib_far_away(home) as (made, opened):

        def idle() -> None:
            made.idle()
            assert room.left == WAITING, "something waits to be kept, of what is closed"

        yield Readers(opened, disk(), idle, made.cold, lengths=(1, 4096, 70_000, 600_000))


@subject
async def qcow2_of_zlib_kept_before(home: Path) -> AsyncIterator[Made]:
    """The same, of which some is kept already: reads are put together of both."""
    async with _zlib_far_away(home) as (made, opened):

        async def some() -> None:
            """Keep the second 128 KiB alone."""
            await made.cold()
            reader = await opened()
            await read(reader, 1 << 17, 1 << 17)
            while isinstance(reader, Unpacked) and reader.keeping.waiting:
                await trio.lowlevel.checkpoint()
            await reader.aclose()

        yield Readers(opened, disk(), made.idle, some, lengths=(1, 4096, 70_000, 600_000))
