"""What is particular to VMDK: disks in several files, and images that were written as a stream."""

from __future__ import annotations

import os
import random
import struct
import zlib

import pytest

from nebfs.content.layers.vmdk_header import check_text
from nebfs.errors import Damaged, Unsupported
from tests.content.disk_images import flaw, make, opened, oracle
from tests.content.qcow2 import Slow, run
from tests.content.test_qcow2 import check, content

MIB = 1 << 20
GRAIN = 65536


def create(path, *options, size="4M"):
    run("qemu-img", "create", "-f", "vmdk", *options, path, size)
    return path


@pytest.mark.parametrize("kind", ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
async def test_a_disk_in_several_files_is_refused_and_none_is_opened(tmp_path, kind):
    path = create(tmp_path / "image.vmdk", "-o", f"subformat={kind}")
    others = sorted(one for one in tmp_path.iterdir() if one != path)
    for other in others:
        os.utime(other, (5, 5))
    assert "names and which are not followed" in await flaw("vmdk", path)
    assert others
    assert {other.stat().st_atime for other in others} == {5}
    if "Sparse" in kind:
        assert "one part of a disk" in await flaw("vmdk", others[0])


async def test_a_disk_that_is_the_changes_to_another_one_is_refused(tmp_path):
    below = create(tmp_path / "below.vmdk")
    path = create(tmp_path / "image.vmdk", "-b", below, "-F", "vmdk")
    assert "only the changes to another image" in await flaw("vmdk", path)


async def test_the_sparse_files_of_esx_are_refused(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(b"COWD" + bytes(5000))
    assert "ESX" in await flaw("vmdk", path)


TEXT = """# Disk DescriptorFile
version=1
CID=12345678
parentCID=ffffffff
createType="streamOptimized"

RW 100 SPARSE "image.vmdk"
"""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('SPARSE "image.vmdk"', 'FLAT "/etc/passwd" 0', "in other files"),
        ('"image.vmdk"\n', '"image.vmdk"\nRW 9 SPARSE "/dev/sda"\n', "in other files"),
        ("streamOptimized", "vmfs", "a kind that nebfs does not know"),
        ("createType", "create", "a kind that nebfs does not know"),
        ("ffffffff", "12345678", "only the changes"),
    ],
)
def test_descriptions_of_more_than_one_file(old, new, words):
    check_text(TEXT.encode() + bytes(100))
    assert old in TEXT
    with pytest.raises(Unsupported, match=words):
        check_text(TEXT.replace(old, new).encode())


def sector(data: bytes) -> bytes:
    return data.ljust(-(-len(data) // 512) * 512, b"\0")


def header(size: int, directory: int, flags: int = 0x30001) -> bytes:
    fields = (3, flags, size // 512, GRAIN // 512, 1, 20, 512, 0, directory, 128)
    packed = struct.pack("<4sIIQQQQIQQQB4sH", b"KDMV", *fields, 0, b"\n \r\n", 1)
    return sector(packed)


def streamed(disk: bytes, *, order=None, level=6) -> bytes:
    """Write an image as VMware's ovftool does: without going back, the directory at the end."""
    text = TEXT.replace("100", str(len(disk) // 512)).encode()
    out = bytearray(header(len(disk), (1 << 64) - 1) + text.ljust(20 * 512, b"\0"))
    out += bytes(128 * 512 - len(out))
    grains: dict[int, int] = {}
    numbers = list(range(-(-len(disk) // GRAIN)))
    if order is not None:
        order.shuffle(numbers)
    for number in numbers:
        grain = disk[number * GRAIN : (number + 1) * GRAIN].ljust(GRAIN, b"\0")
        if any(grain):
            grains[number] = len(out) // 512
            packed = zlib.compress(grain, level)
            out += sector(struct.pack("<QI", number * GRAIN // 512, len(packed)) + packed)
    directory = []
    for first in range(0, len(numbers), 512):
        table = [grains.get(number, 0) for number in range(first, first + 512)]
        out += sector(struct.pack("<QII", 4, 0, 1))
        directory.append(len(out) // 512 if any(table) else 0)
        out += struct.pack("<512I", *table)
    out += sector(struct.pack("<QII", 1, 0, 2))
    place = len(out) // 512
    out += sector(struct.pack(f"<{len(directory)}I", *directory))
    out += sector(struct.pack("<QII", 1, 0, 3)) + header(len(disk), place)
    return bytes(out + bytes(512))


@pytest.fixture
def disk():
    """Some of everything, in more than one table."""
    return content(3, 3 * MIB) + bytes(60 * MIB) + content(4, 2 * MIB) + bytes(512)


@pytest.mark.parametrize("level", [0, 6])
@pytest.mark.parametrize("order", [None, random.Random(1)])
async def test_an_image_with_a_footer(tmp_path, disk, order, level):
    path = tmp_path / "image"
    path.write_bytes(streamed(disk, order=order, level=level))
    assert oracle("vmdk", path) == disk
    for wrap in (lambda reader: reader, Slow):
        reader = await opened("vmdk", path, wrap)
        await check(reader, disk)
        await reader.aclose()


async def test_a_stream_that_ended_early_has_no_footer(tmp_path, disk):
    path = tmp_path / "image"
    path.write_bytes(streamed(disk)[: -512 * 5])
    assert "its footer is missing" in await flaw("vmdk", path)


async def test_a_grain_that_is_damaged_is_an_error(tmp_path):
    disk = random.Random(5).randbytes(4 * GRAIN)
    whole = streamed(disk)
    first = 128 * 512
    changes = {
        "another place": (first, b"\1"),
        "longer than its place": (first + 8, b"\xff\xff\xff\0"),
        "cannot be unpacked": (first + 14, b"\xff" * 40),
        "cannot be unpacked|wrong length": (first + 12 + 30_000, bytes(8)),
    }
    for words, (at, change) in changes.items():
        path = tmp_path / "image"
        path.write_bytes(whole[:at] + change + whole[at + len(change) :])
        reader = await opened("vmdk", path)
        with pytest.raises(Damaged, match=words):
            await reader.pread(100, 3 * GRAIN)
        assert reader.warm(100, 4096) is None
        assert await reader.pread(GRAIN, GRAIN) == disk[GRAIN : 2 * GRAIN]
        await reader.aclose()


async def test_a_bomb_is_an_error_and_no_more_than_a_grain_is_made_of_it(tmp_path):
    whole = bytearray(streamed(random.Random(5).randbytes(4 * GRAIN)))
    bomb = zlib.compress(bytes(40 * MIB), 9)
    assert len(bomb) < GRAIN
    start = 128 * 512
    whole[start : start + 12 + len(bomb)] = struct.pack("<QI", 0, len(bomb)) + bomb
    path = tmp_path / "image"
    path.write_bytes(whole)
    reader = await opened("vmdk", path)
    with pytest.raises(Damaged, match="wrong length"):
        await reader.pread(0, 512)
    await reader.aclose()


async def test_compressed_grains_are_read_with_few_requests(tmp_path, disk):
    path = tmp_path / "image"
    path.write_bytes(streamed(disk))
    reader = await opened("vmdk", path, Slow)
    await reader.pread(0, 4096)
    reader._packed.forget()
    reader._file.reads.clear()
    assert await reader.pread(0, MIB) == disk[:MIB]
    assert len(reader._file.reads) <= 3
    # The file has no more than that of these grains, and what follows the last one of each read.
    assert sum(length for _, length in reader._file.reads) <= MIB + 3 * GRAIN
    await reader.aclose()


async def test_changed_newlines_mean_a_transfer_as_text(tmp_path):
    path = create(tmp_path / "image")
    data = path.read_bytes().replace(b"\n \r\n", b"\n \n\n", 1)
    path.write_bytes(data)
    assert "as if it were text" in await flaw("vmdk", path)


async def test_entries_that_lead_to_the_tables_are_damage(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"x" * MIB)
    path = make("vmdk", source, tmp_path / "image")
    data = bytearray(path.read_bytes())
    place = struct.unpack_from("<Q", data, 56)[0] * 512
    table = struct.unpack_from("<I", data, place)[0] * 512
    for value in (1, place // 512, table // 512, 0xFFFFFFFF):
        struct.pack_into("<I", data, table, value)
        path.write_bytes(data)
        reader = await opened("vmdk", path)
        with pytest.raises(Damaged):
            await reader.pread(0, 512)
        assert await reader.pread(GRAIN, 512) == b"x" * 512
        await reader.aclose()


async def test_grains_are_unpacked_ahead_of_who_reads_in_order(tmp_path):
    disk = content(3, 8 * MIB)
    path = tmp_path / "image"
    path.write_bytes(streamed(disk))
    reader = await opened("vmdk", path)
    asked = 0
    for at in range(0, len(disk), 256 << 10):
        part = disk[at : at + (256 << 10)]
        view = reader.warm(at, len(part))
        asked += view is None
        assert (await reader.pread(at, len(part)) if view is None else view) == part
        for batch in list(reader._packed._ahead):
            await batch.ended.wait()
    assert asked <= 8  # of 32: nobody is ahead of the first MiB
    await reader.aclose()
    assert not reader._packed._ahead
