"""What is particular to VHDX: its two headers, its log, its checksums, its sectors."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from nebfs.content.layers.vhdx import layout_of
from nebfs.content.layers.vhdx_crc import crc32c
from nebfs.content.layers.vhdx_header import Facts
from nebfs.errors import Damaged
from tests.content.disk_images import flaw, make, opened, oracle
from tests.content.test_qcow2_hostile import Bytes

KIB, MIB = 1 << 10, 1 << 20
HEADERS = (64 * KIB, 128 * KIB)
REGIONS = (192 * KIB, 256 * KIB)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # this and the next ones: RFC 3720, B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_crc32c(data, expected):
    assert crc32c(data) == expected


def test_crc32c_of_many_bytes_is_that_of_their_parts():
    data = bytes(range(251)) * 300
    for length in (255, 256, 257, 4096, 65536, 65537, 70_000):
        value = 0xFFFFFFFF
        for byte in data[:length]:
            value ^= byte
            for _ in range(8):
                value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        assert crc32c(data[:length]) == value ^ 0xFFFFFFFF


@pytest.fixture
def image(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"disk" * (5 * MIB // 4))
    return make("vhdx", source, tmp_path / "image", "block_size=1M")


def changed(path, at, value, *, header=None, length=4 * KIB):
    """Write at `at`; make the checksum of the header that it is in right again."""
    data = bytearray(path.read_bytes())
    data[at : at + len(value)] = value
    if header is not None:
        data[header + 4 : header + 8] = bytes(4)
        total = crc32c(bytes(data[header : header + length]))
        struct.pack_into("<I", data, header + 4, total)
    path.write_bytes(data)


def item(path, name):
    """Where in the file an item of the metadata is."""
    data = path.read_bytes()
    start = data.index(b"metadata", MIB)
    at = start + 32
    while not data[at : at + 16].startswith(name):
        at += 32
    return start + struct.unpack_from("<I", data, at + 16)[0]


PARAMETERS, SIZE, SECTOR = b"\x37\x67\xa1\xca", b"\x24\x42\xa5\x2f", b"\x1d\xbf\x41\x81"


async def test_a_log_to_be_played_back_is_refused_with_the_remedy(image):
    for at in HEADERS:
        changed(image, at + 48, b"\1" * 16, header=at)
    assert "qemu-img check -r all" in await flaw("vhdx", image)


async def test_the_newer_of_two_headers_counts(image):
    numbers = [struct.unpack_from("<Q", image.read_bytes(), at + 8)[0] for at in HEADERS]
    older, newer = sorted(HEADERS, key=lambda at: numbers[HEADERS.index(at)])
    changed(image, older + 48, b"\1" * 16, header=older)
    assert not await flaw("vhdx", image)
    changed(image, newer + 48, b"\1" * 16, header=newer)
    assert "log" in await flaw("vhdx", image)


async def test_one_damaged_header_and_one_damaged_table_do_no_harm(image):
    expected = oracle("vhdx", image)
    for at in (HEADERS[1], REGIONS[0]):
        changed(image, at + 100, b"\x55")
    reader = await opened("vhdx", image)
    assert await reader.pread(0, reader.size) == expected
    await reader.aclose()


@pytest.mark.parametrize(("places", "words"), [(HEADERS, "headers"), (REGIONS, "tables")])
async def test_two_are_damage(image, places, words):
    for at in places:
        changed(image, at + 100, b"\x55")
    assert f"both {words}" in await flaw("vhdx", image)


async def test_a_differencing_image_is_refused(image):
    changed(image, item(image, PARAMETERS) + 4, b"\2")
    assert "differencing" in await flaw("vhdx", image)


async def test_sectors_of_4096_bytes(image):
    changed(image, item(image, SECTOR), struct.pack("<I", 4096))
    assert not await flaw("vhdx", image)
    reader = await opened("vhdx", image)
    assert reader.size == 5 * MIB
    assert await reader.pread(5 * MIB - 8, 8) == b"diskdisk"
    await reader.aclose()


@pytest.mark.parametrize("sector", [512, 4096])
async def test_bitmaps_between_the_entries_are_skipped(tmp_path, sector):
    """Of both sizes of sectors, in a table that was filled by hand: qemu-img makes one of them."""
    blocks, chunk = 70_000, (sector << 23) // MIB
    table = []
    for block in range(blocks):
        table.append((100 + block) * MIB | 6)
        if block % chunk == chunk - 1:
            table.append(50 * MIB | 6)
    file = Bytes(np.array(table, "<u8").tobytes())
    facts = Facts(blocks * MIB, MIB, sector, (0, len(file.data)), (0, 0), (0, 0))
    layout = layout_of(facts)
    found = [(await layout.load(file, n)).hosts for n in range(-(-blocks // layout.per_slice))]
    # The areas of its own are made up: they take the first MiB of the file alone.
    assert (np.concatenate(found) == (100 + np.arange(blocks, dtype=np.uint64)) * MIB).all()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (PARAMETERS, struct.pack("<I", 3 * MIB), "blocks of an impossible size"),
        (PARAMETERS, struct.pack("<I", 512 * MIB), "blocks of an impossible size"),
        (SIZE, struct.pack("<Q", 65 << 40), "impossible size"),
        (SIZE, struct.pack("<Q", 5 * MIB + 1), "impossible size"),
        (SIZE, struct.pack("<Q", 1 << 40), "too small for its size"),
        (SECTOR, struct.pack("<I", 1024), "impossible size"),
    ],
)
async def test_metadata_that_cannot_be(image, name, value, words):
    changed(image, item(image, name), value)
    assert words in await flaw("vhdx", image)


async def test_regions_that_overlap_or_are_beyond_the_end(image):
    for at in REGIONS:
        changed(image, at + 16 + 16, struct.pack("<Q", MIB), header=at, length=64 * KIB)
    assert "overlap" in await flaw("vhdx", image)
    for at in REGIONS:
        changed(image, at + 16 + 16, struct.pack("<Q", MIB << 30), header=at, length=64 * KIB)
    assert "cut off" in await flaw("vhdx", image)


async def test_entries_that_cannot_be_are_damage(image):
    data = bytearray(image.read_bytes())
    table = next(
        struct.unpack_from("<Q", data, at + 16)[0]
        for at in range(REGIONS[0] + 16, REGIONS[0] + 16 + 64, 32)
        if data[at : at + 4] == b"\x66\x77\xc2\x2d"
    )
    for value in (6, table | 6, MIB | 6, (1 << 63) | 6, (3 << 20) | 4, (9 << 20) | 7):
        struct.pack_into("<Q", data, table, value)
        image.write_bytes(data)
        reader = await opened("vhdx", image)
        with pytest.raises(Damaged):
            await reader.pread(0, 512)
        assert await reader.pread(MIB, 8) == b"diskdisk"
        await reader.aclose()
