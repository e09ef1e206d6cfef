"""Images of vmdk, vdi, vhd and vhdx that somebody made up: errors of ours, in bounded memory."""

from __future__ import annotations

import random
import struct
import tracemalloc

import pytest

from nebfs.content.layers import blockmap
from nebfs.content.layers.vhdx_crc import crc32c
from nebfs.errors import NebfsError
from nebfs.model import Revision
from tests.content.disk_images import FORMATS, make, opened
from tests.content.qcow2 import Slow, run
from tests.content.test_qcow2_hostile import INTERESTING, Bytes

KIB, MIB = 1 << 10, 1 << 20

LAYOUTS = [
    ("vdi", ""),
    ("vhd", ""),
    ("vhd", "subformat=fixed"),
    ("vhdx", "block_size=1M,log_size=1M"),
    ("vmdk", ""),
    ("vmdk", "subformat=streamOptimized"),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    directory = tmp_path_factory.mktemp("images")
    source = directory / "raw"
    source.write_bytes(random.Random(3).randbytes(100_000) + bytes(200_000) + b"text" * 30_000)
    return {
        (kind, options): make(kind, source, directory / "image", options).read_bytes()
        for kind, options in LAYOUTS
    }


def places(kind, data):
    """Where headers and tables are: there changes do something."""
    if kind == "vdi":
        return [(64, 512), (512, 600)]
    if kind == "vhd":
        return [(0, 512), (512, 1536), (1536, 1600), (len(data) - 512, len(data))]
    if kind == "vhdx":
        at = data.index(b"metadata", MIB)
        tables = [(at, at + 300), (at + 64 * KIB, at + 64 * KIB + 64)]
        tables += [(n * 64 * KIB, n * 64 * KIB + 96) for n in (1, 2, 3, 4)]
        return [*tables, (3 * MIB, 3 * MIB + 64), (2 * MIB, 2 * MIB + 64)]
    directory = struct.unpack_from("<Q", data, 56)[0] * 512
    table = struct.unpack_from("<I", data, directory)[0] * 512
    text = struct.unpack_from("<Q", data, 28)[0] * 512
    return [(0, 80), (directory, directory + 8), (table, table + 64), (text, text + 400)]


def mutated(kind, data, source):
    changed = bytearray(data)
    for _ in range(source.choice([1, 1, 2, 5])):
        start, stop = source.choice([*places(kind, data), (0, len(data))])
        at = source.randrange(start, stop - 7)
        match source.randrange(4):
            case 0:
                changed[at] = source.randrange(256)
            case 1:
                struct.pack_into("<Q", changed, at - at % 4, source.choice(INTERESTING))
            case 2:
                struct.pack_into("<I", changed, at - at % 4, source.choice(INTERESTING) % (1 << 32))
            case 3:
                struct.pack_into(">I", changed, at - at % 4, source.choice(INTERESTING) % (1 << 32))
    if source.random() < 0.1:
        del changed[source.randrange(len(changed)) :]
    if source.random() < 0.8:
        summed(kind, changed)
    return bytes(changed)


def summed(kind, data):
    """Make the checksums right again, as whoever means harm would."""
    if kind == "vhd":
        for at, length, where in [(0, 512, 64), (512, 1024, 36), (len(data) - 512, 512, 64)]:
            if 0 <= at <= len(data) - length:
                part = data[at : at + length]
                part[where : where + 4] = bytes(4)
                struct.pack_into(">I", data, at + where, ~sum(part) & 0xFFFFFFFF)
    if kind == "vhdx" and len(data) > MIB:
        for at, length in [(64, 4), (128, 4), (192, 64), (256, 64)]:
            start = at * KIB
            data[start + 4 : start + 8] = bytes(4)
            total = crc32c(bytes(data[start : start + length * KIB]))
            struct.pack_into("<I", data, start + 4, total)


@pytest.mark.parametrize(("kind", "options"), LAYOUTS)
async def test_mutated_images_end_in_our_errors_or_in_bytes(images, kind, options):
    source = random.Random(11)
    ends = {True: 0, False: 0}
    for _ in range(150):
        file = Bytes(mutated(kind, images[kind, options], source))
        size = (await FORMATS[kind].look(file)).size
        try:
            reader = await FORMATS[kind].open(file, None, Revision(0))
            assert reader.size == size
            for _ in range(4):
                if reader.size:
                    at = source.randrange(min(reader.size, MIB))
                    length = min(source.choice([1, 4096, 300_000]), reader.size - at)
                    view = reader.warm(at, length)
                    assert view is None or len(view) == length
                    assert len(await reader.pread(at, length)) == length
                    at = source.randrange(reader.size)
                    length = min(4096, reader.size - at)
                    assert len(await reader.pread(at, length)) == length
            ends[True] += 1
            await reader.aclose()
        except NebfsError:
            ends[False] += 1
        assert file.most <= 2 * MIB
    assert min(ends.values()) >= 15


@pytest.mark.parametrize("kind", FORMATS)
async def test_random_headers_end_in_our_errors(images, kind):
    source = random.Random(5)
    whole = next(data for (name, _), data in images.items() if name == kind)
    for _ in range(100):
        changed = bytearray(whole)
        for start, stop in places(kind, whole):
            if source.random() < 0.5:
                kept = 8 if start != 64 else 12
                changed[start + kept : stop] = source.randbytes(stop - start - kept)
        summed(kind, changed)
        file = Bytes(bytes(changed))
        try:
            reader = await FORMATS[kind].open(file, None, Revision(0))
            if reader.size:
                await reader.pread(reader.size // 2, min(4096, reader.size - reader.size // 2))
        except NebfsError:
            assert file.closed or file.most


@pytest.mark.parametrize(
    ("kind", "options", "size"),
    [
        ("vdi", "", "16T"),
        ("vhd", "force_size=on", "2040G"),
        ("vhdx", "block_size=4M", "64T"),
        ("vmdk", "", "16T"),
    ],
)
async def test_a_large_disk_takes_little_memory_and_few_bytes(tmp_path, kind, options, size):
    path = tmp_path / "image"
    words = ["-o", options] if options else []
    qemu = "vpc" if kind == "vhd" else kind
    run("qemu-img", "create", "-f", qemu, *words, path, size)
    tracemalloc.start()
    try:
        reader = await opened(kind, path, Slow)
        source = random.Random(9)
        for _ in range(50):
            at = source.randrange(reader.size - 4096)
            assert await reader.pread(at, 4096) == bytes(4096)
        assert sum(length for _, length in reader._file.reads) <= 50 * 2 * 66 * KIB + 400 * KIB
        assert tracemalloc.get_traced_memory()[1] <= 8 * MIB
    finally:
        tracemalloc.stop()
    await reader.aclose()


async def test_the_tables_of_all_images_together_are_bounded(tmp_path):
    path = tmp_path / "image"
    run("qemu-img", "create", "-f", "vdi", path, "64T")
    with path.open("r+b") as file:
        file.seek(512)
        for _ in range(256):  # a map of places that cannot be, so that no part is all holes
            file.write(b"\1\0\0\0" * (64 * KIB))
    reader = await opened("vdi", path)
    for number in range(500):
        with pytest.raises(NebfsError):
            await reader.pread(number * 16384 * MIB, 512)
        assert blockmap._KEPT.currsize <= 32 * MIB
    assert blockmap._KEPT.currsize > 16 * MIB
    await reader.aclose()
    assert not [key for key in blockmap._KEPT if key[0] == reader._map._number]
