"""What is particular to VDI: its kinds, its numbers, its map."""

from __future__ import annotations

import struct

import pytest

from nebfs.errors import Damaged
from tests.content.disk_images import flaw, make, opened, oracle

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
def image(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"disk" * (5 * MIB // 4))
    return make("vdi", source, tmp_path / "image")


def changed(path, at, kind, value):
    data = bytearray(path.read_bytes())
    struct.pack_into(f"<{kind}", data, at, value)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("at", "kind", "value", "words"),
    [
        (0x4C, "I", 4, "differencing"),
        (0x4C, "I", 3, "differencing"),
        (0x1A8, "I", 7, "differencing"),
        (0x1B8, "I", 7, "differencing"),
        (0x44, "I", 0x00010000, "another version"),
        (0x44, "I", 0x00020001, "another version"),
        (0x48, "I", 100, "impossible length"),
        (0x168, "I", 4096, "does not know"),
        (0x17C, "I", 512, "does not know"),
        (0x178, "I", 3 * MIB, "impossible size"),
        (0x178, "I", 0, "impossible size"),
        (0x170, "Q", 6 * MIB, "too small for its size"),
        (0x170, "Q", (1 << 64) - 1, "too small for its size"),
        (0x154, "I", 100, "not where they can be"),
        (0x154, "I", 0xFFFFFE00, "not where one can be"),
        (0x158, "I", 512, "not where one can be"),
    ],
)
async def test_headers_that_cannot_be_or_are_not_known(image, at, kind, value, words):
    changed(image, at, kind, value)
    assert words in await flaw("vdi", image)


async def test_a_length_that_is_no_sectors_is_rounded_up_as_qemu_does(image):
    changed(image, 0x170, "Q", 5 * MIB - 700)
    expected = oracle("vdi", image)
    assert len(expected) == 5 * MIB - 512
    reader = await opened("vdi", image)
    assert await reader.pread(0, reader.size) == expected
    await reader.aclose()


async def test_blocks_that_were_given_back_are_zeros(image):
    table = struct.unpack_from("<I", image.read_bytes(), 0x154)[0]
    changed(image, table + 4, "I", 0xFFFFFFFE)
    changed(image, table + 8, "I", 0xFFFFFFFF)
    expected = oracle("vdi", image)
    assert expected[MIB : 3 * MIB] == bytes(2 * MIB)
    reader = await opened("vdi", image)
    assert await reader.pread(0, reader.size) == expected
    await reader.aclose()


async def test_smaller_blocks(image):
    """Made of an image with larger ones: QEMU neither makes nor reads them."""
    data = bytearray(image.read_bytes())
    table, start = struct.unpack_from("<II", data, 0x154)
    body = data[start:]
    blocks = 5 * MIB // (64 * KIB)
    struct.pack_into("<I", data, 0x178, 64 * KIB)
    struct.pack_into("<II", data, 0x180, blocks, blocks)
    struct.pack_into("<I", data, 0x158, 4096)
    struct.pack_into(f"<{blocks}I", data, table, *reversed(range(blocks)))
    made = bytearray(bytes(data[: table + blocks * 4]).ljust(4096, b"\0") + body)
    for number in range(blocks):
        struct.pack_into("<I", made, 4096 + (blocks - 1 - number) * 64 * KIB, number)
    image.write_bytes(made)
    reader = await opened("vdi", image)
    for number in range(blocks):
        assert await reader.pread(number * 64 * KIB, 8) == struct.pack("<I", number) + b"disk"
    whole = bytes(await reader.pread(0, reader.size))
    assert whole[3 * 64 * KIB : 3 * 64 * KIB + 4] == struct.pack("<I", 3)
    await reader.aclose()


async def test_places_beyond_the_end_are_damage(image):
    table = struct.unpack_from("<I", image.read_bytes(), 0x154)[0]
    for value in (5, 1 << 20, 0xFFFFFFFD):
        changed(image, table, "I", value)
        reader = await opened("vdi", image)
        with pytest.raises(Damaged, match="cut off"):
            await reader.pread(0, 512)
        assert await reader.pread(MIB, 8) == b"diskdisk"
        await reader.aclose()
