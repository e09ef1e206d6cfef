"""Indexes of compressed images: what xz says of its own, and blocks decoded by themselves."""

from __future__ import annotations

import random
import struct
import subprocess
import zlib

import pytest
import zstandard

from nebfs.content.decoders import Block, Index, decode_block, read_index
from nebfs.content.decoders.interface import MOST_BLOCK, MOST_BLOCKS
from nebfs.errors import Damaged, NebfsError, Unsupported
from tests.content.decoding import noise, pack, text

DATA = text(700_000) + bytes(400_000) + noise(300_000)


class Image:
    """Compressed bytes, and how much of them was read."""

    def __init__(self, packed):
        self.packed = bytes(packed)
        self.reads = []

    async def read(self, offset, length):
        assert offset >= 0
        assert 0 < length <= len(self.packed) - offset
        self.reads.append((offset, length))
        return self.packed[offset : offset + length]

    async def index(self, name):
        return await read_index(name, self.read, len(self.packed))

    def block(self, name, block):
        return decode_block(name, self.packed[block.host : block.host + block.length], block)


def listed(packed, path):
    """The blocks that ``xz --list`` tells."""
    path.write_bytes(packed)
    lines = subprocess.run(
        ["xz", "--robot", "--list", "-vv", path], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    rows = [line.split("\t") for line in lines if line.startswith("block")]
    return tuple(Block(int(r[4]), int(r[6]), int(r[5]), int(r[7])) for r in rows)


@pytest.mark.parametrize(
    "options",
    [
        "-0",
        "-0 --block-size=100KiB",
        "-0 -T2 --block-size=64KiB",
        "-C none -0 --block-size=99999",
        "-C crc32 -0 --block-size=1MiB",
        "-C sha256 --x86 --lzma2=preset=0 --block-size=300KiB",
    ],
)
async def test_blocks_of_xz_are_those_that_xz_lists(options, tmp_path):
    image = Image(pack(DATA, "xz", *options.split(), "-c"))
    index = await image.index("xz")
    assert index == Index(len(DATA), listed(image.packed, tmp_path / "disk.xz"))
    assert len(image.reads) <= 4
    for block in index.blocks:
        assert image.block("xz", block) == DATA[block.start : block.start + block.size]


async def test_streams_of_xz_and_the_padding_between_them(tmp_path):
    one = pack(DATA, "xz", "-0", "--block-size=500KB", "-c")
    none = pack(b"", "xz", "-c")
    for packed, times in (
        (one + one, 2),
        (one + bytes(8) + none + bytes(4) + one + bytes(100_000), 2),
        (none, 0),
        (none + one, 1),
    ):
        image = Image(packed)
        index = await image.index("xz")
        assert index == Index(len(DATA) * times, listed(packed, tmp_path / "disk.xz"))
        assert b"".join(image.block("xz", block) for block in index.blocks) == DATA * times
        assert len(image.reads) < 20


async def test_a_block_too_long_to_be_read_at_random_leaves_only_the_size():
    length = MOST_BLOCK + 1
    image = Image(pack(bytes(length), "xz", "-0", "-c"))
    assert await image.index("xz") == Index(length, None)
    with pytest.raises(Damaged):
        image.block("xz", Block(12, len(image.packed) - 40, 0, length))


def xz_index(records, count=None, padding=None):
    body = b"\0" + number(len(records) if count is None else count)
    body += b"".join(number(a) + number(b) for a, b in records)
    body += bytes(-len(body) % 4) if padding is None else padding
    return body + struct.pack("<I", zlib.crc32(body))


def number(value):
    out = b""
    while value >= 0x80:
        out += bytes((value & 0x7F | 0x80,))
        value >>= 7
    return out + bytes((value,))


def xz_image(records, **changes):
    """Header, as many zeros as the records say, index and footer."""
    index = xz_index(records, **changes)
    header = b"\xfd7zXZ\0\0\4" + struct.pack("<I", zlib.crc32(b"\0\4"))
    body = bytes(sum(a + -a % 4 for a, _ in records if a < 1 << 20))
    fields = struct.pack("<I", len(index) // 4 - 1) + b"\0\4"
    return header + body + index + struct.pack("<I", zlib.crc32(fields)) + fields + b"YZ"


async def test_more_blocks_or_streams_than_reasonable_make_no_index():
    many = Image(xz_image([(8, 1)] * (MOST_BLOCKS + 1)))
    assert await many.index("xz") == Index()
    assert (await Image(xz_image([(8, 1)] * 1000)).index("xz")).size == 1000
    streams = Image(pack(b"x", "xz", "-c") * 2000)
    assert await streams.index("xz") == Index()
    assert len(streams.reads) < 1500
    padding = Image(pack(b"x", "xz", "-c") + bytes(8 << 20))
    assert await padding.index("xz") == Index()
    assert len(padding.reads) < 100
    for image in (many, streams, padding):
        assert sum(length for _, length in image.reads) < 2 << 20


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"x",
        bytes(64),
        b"x" * 1000,
        pack(b"x", "xz", "-c")[12:],
        pack(b"x", "xz", "-c")[:-1],
        pack(b"x", "xz", "-c") + b"\0",
        b"abcd" + pack(b"x", "xz", "-c"),
        xz_image([(8, 1)], count=2),
        xz_image([(8, 1)], count=0),
        xz_image([(8, 1)], count=1 << 62),
        xz_image([(8, 1)], padding=b"\0\0\0\0\0\0\0\0"),
        xz_image([(8, 1), (8, 1)], padding=b"\1\1"),
        xz_image([(4, 1)]),
        xz_image([(1 << 40, 1)]),
        xz_image([(8, (1 << 63) - 1)] * 3),
        xz_image([(8, 1)]).replace(b"\0\4", b"\0\1", 1),
    ],
    ids=lambda packed: f"{zlib.crc32(packed):08x}",
)
async def test_an_index_of_xz_that_cannot_be_is_damage(packed):
    image = Image(packed)
    with pytest.raises((Damaged, Unsupported)):
        await image.index("xz")
    assert sum(length for _, length in image.reads) <= len(packed) + 200


async def test_changed_bits_make_another_error_or_the_same_index():
    right = pack(text(3000), "xz", "-0", "--block-size=500", "-c")
    expected = await Image(right).index("xz")
    chance = random.Random(3)
    for _ in range(300):
        place = chance.choice((chance.randrange(12), -chance.randrange(1, 60)))
        changed = bytearray(right)
        changed[place] ^= 1 << chance.randrange(8)
        try:
            assert await Image(changed).index("xz") == expected
        except NebfsError:
            continue


@pytest.mark.parametrize("name", ["xz", "zst"])
async def test_a_changed_block_is_damage_or_the_same(name):
    if name == "xz":
        image = Image(pack(text(3000), "xz", "-0", "--block-size=1500", "-c"))
    else:
        image = Image(seekable([text(3000)[:1500], text(3000)[1500:]]))
    index = await image.index(name)
    chance = random.Random(4)
    block = index.blocks[1]
    packed = image.packed[block.host : block.host + block.length]
    assert decode_block(name, packed, block) == text(3000)[1500:]
    for _ in range(300):
        changed = bytearray(packed)
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        try:
            assert decode_block(name, changed, block) == text(3000)[1500:]
        except (Damaged, Unsupported):
            continue
    for wrong in (packed[:-4], packed[4:], packed + bytes(4), b"", noise(len(packed))):
        with pytest.raises((Damaged, Unsupported)):
            decode_block(name, wrong, block._replace(length=len(wrong)))
    for size in (0, 1499, 1501, MOST_BLOCK + 1):
        with pytest.raises(Damaged):
            decode_block(name, packed, block._replace(size=size))


# --- zstd ---


def seekable(parts, checksums=True, table=None):
    """Frames with a seek table, as zstd's contrib/seekable_format describes it."""
    frames = [zstandard.ZstdCompressor(write_checksum=True).compress(part) for part in parts]
    rows = b""
    for frame, part in zip(frames, parts, strict=True):
        rows += struct.pack("<II", len(frame), len(part)) + b"\0\0\0\0" * checksums
    rows = rows if table is None else table
    rows += struct.pack("<IBI", len(parts), 0x80 * checksums, 0x8F92EAB1)
    return b"".join(frames) + struct.pack("<II", 0x184D2A5E, len(rows)) + rows


PARTS = [DATA[at : at + 250_000] for at in range(0, len(DATA), 250_000)]


@pytest.mark.parametrize("checksums", [True, False])
async def test_frames_of_a_seekable_zstd_image(checksums):
    image = Image(seekable(PARTS, checksums))
    index = await image.index("zst")
    assert index.size == len(DATA)
    assert [block.size for block in index.blocks] == [len(part) for part in PARTS]
    assert len(image.reads) == 2
    for block in index.blocks:
        assert image.block("zst", block) == DATA[block.start : block.start + block.size]


@pytest.mark.parametrize(
    "table",
    [
        struct.pack("<II", 1, 1) * 2,  # not the length of the image
        struct.pack("<II", 1 << 31, 1) * 2,
        b"",
        bytes(16),
    ],
)
async def test_a_seek_table_that_does_not_add_up_is_none(table):
    image = Image(seekable([b"a", b"b"], checksums=False, table=table))
    assert await image.index("zst") == Index()


async def test_blocks_that_claim_to_be_empty_are_left_to_the_pass_which_decodes_them():
    rows = struct.pack("<II", len(zstandard.ZstdCompressor(write_checksum=True).compress(b"a")), 0)
    image = Image(seekable([b"a"], checksums=False, table=rows))
    assert await image.index("zst") == Index()
    assert await Image(xz_image([(8, 1), (8, 0)])).index("xz") == Index(1, None)


async def test_what_has_no_index_says_nothing_and_is_hardly_read():
    for name, packed in (
        ("gz", pack(DATA, "gzip", "-c")),
        ("bz2", pack(DATA, "bzip2", "-c")),
        ("zst", pack(DATA, "zstd", "-c")),
        ("zst", pack(DATA, "pzstd", "-c")),
        ("zst", b""),
        ("zst", b"\xb1\xea\x92\x8f" * 5),
        ("zst", b"\xff\xff\xff\xff\x80\xb1\xea\x92\x8f" * 3),
    ):
        image = Image(packed)
        assert await image.index(name) == Index()
        assert len(image.reads) <= 1


def test_a_frame_that_is_a_bomb_is_not_unpacked():
    packed = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 30))
    with pytest.raises(Damaged):
        decode_block("zst", packed, Block(0, len(packed), 0, 1000))
