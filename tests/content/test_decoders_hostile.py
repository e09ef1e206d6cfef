"""Compressed images that are cut, damaged or made up: right bytes or an error, bounded memory."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import struct
import time
import zlib
from itertools import chain

import pytest
import zstandard

from nebfs.content.decoders import decoder
from nebfs.errors import Damaged, NebfsError, Unsupported
from tests.content.decoding import NAMES, TOOLS, noise, pack, text, told, unpack

MIB = 1 << 20

# Small ones with all there is: several blocks, two streams.
PLAIN = {
    "bz2": (text(105_000), text(100, seed=2)),
    "gz": (text(600), noise(60)),
    "xz": (text(600), noise(60)),
    "zst": (text(600), noise(60)),
}
PACKERS = {
    "bz2": lambda data: bz2.compress(data, 1),
    "gz": lambda data: pack(data, "gzip", "-c"),
    "xz": lambda data: pack(data, "xz", "-0", "--block-size=400", "-c"),
    "zst": lambda data: pack(data, "zstd", "-c"),
}


@pytest.fixture(scope="module")
def packed():
    return {name: [PACKERS[name](part) for part in PLAIN[name]] for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_image_is_damage_wherever_it_is_cut(name, packed):
    first, second = packed[name]
    whole = first + second
    near = {at + step for at in (0, len(first), len(whole)) for step in range(-90, 90)}
    places = near | set(range(0, len(whole), len(whole) // 300 + 1))
    for cut in sorted(places & set(range(len(whole)))):
        out, error = unpack(name, whole[:cut])
        assert b"".join(PLAIN[name]).startswith(out)
        if cut == len(first):
            assert (out, error) == (PLAIN[name][0], None)
        else:
            assert isinstance(error, Damaged), cut


@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_bit_never_makes_other_bytes(name, packed):
    whole = b"".join(packed[name])
    right = b"".join(PLAIN[name])
    chance = random.Random(7)
    # Everything in the headers and trailers, some of what is between them.
    near = {at + step for at in (0, len(packed[name][0]), len(whole)) for step in range(-40, 40)}
    places = sorted(near & set(range(len(whole)))) * 3
    places += [chance.randrange(len(whole)) for _ in range(80)]
    harmless = 0
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << chance.randrange(8)
        out, error = unpack(name, changed, 1000)
        if error is None:
            assert out == right, place
            harmless += 1
        else:
            assert isinstance(error, (Damaged, Unsupported)), place
    # Times and names in headers mean nothing; almost all the rest is covered.
    assert harmless < len(places) / 3


def test_a_stream_of_bzip2_with_a_damaged_header_is_damage_and_not_a_shorter_image():
    parts = [bz2.compress(text(20_000, seed)) for seed in range(3)]
    for place in range(4):
        changed = bytearray(parts[1])
        changed[place] = 0
        whole = parts[0] + changed + parts[2]
        assert told("bz2", whole) == (text(20_000, 0), True)  # which is half of it
        out, error = unpack("bz2", whole)
        assert out == text(20_000, 0)
        assert isinstance(error, Damaged)


@pytest.mark.parametrize("name", NAMES)
def test_made_up_bytes_behind_a_good_beginning_end_in_an_error_soon(name, packed):
    chance = random.Random(8)
    first = packed[name][0]
    started = time.monotonic()
    for _ in range(60):
        keep = chance.choice((4, 6, 10, 12, 18, 24, 40, len(first) // 2))
        made = first[:keep] + chance.randbytes(chance.choice((1, 10, 1000, 100_000)))
        out, error = unpack(name, made)
        assert error is not None
        assert len(out) < 40 * MIB
    assert time.monotonic() - started < 30


# --- bombs ---


def zst_bomb():
    # RFC 8878, 3.1.1.2: each block of four bytes is 128 KiB of one byte.
    return (
        b"\x28\xb5\x2f\xfd\x00\x58"
        + (MIB + 2).to_bytes(3, "little").join([b""])
        + (((128 << 10) << 3 | 1 << 1).to_bytes(3, "little") + b"\0") * (10 * 8 * 1024)
    )


def gz_bomb():
    maker = zlib.compressobj(9, zlib.DEFLATED, -15)
    part = maker.compress(bytes(MIB)) + maker.flush(zlib.Z_FULL_FLUSH)
    return gzip.compress(b"")[:10] + part * 10_240


def bz2_bomb():
    return bz2.compress(bytes(45_000_000)) * 240


def xz_bomb():
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0}]
    part = lzma.compress(bytes(2 * MIB), lzma.FORMAT_RAW, filters=filters)[:-1]
    head = lzma.compress(b"x", filters=filters)
    return head[: 12 + (head[12] + 1) * 4] + part * 5120


def xz_blocks_bomb():
    whole = lzma.compress(bytes(8 * MIB), preset=0)
    end = len(whole) - 12 - 4 * (struct.unpack("<I", whole[-8:-4])[0] + 1)
    return whole[:12] + whole[12:end] * 1280


def zst_frames_bomb():
    return zstandard.ZstdCompressor().compress(bytes(8 * MIB)) * 1280


BOMBS = {
    "bz2": bz2_bomb,
    "gz": gz_bomb,
    "xz": xz_bomb,
    "xz blocks": xz_blocks_bomb,
    "zst": zst_bomb,
    "zst frames": zst_frames_bomb,
}


def memory():
    """Bytes of memory that this process has in use."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.parametrize("kind", BOMBS)
def test_of_ten_gigabytes_of_zeros_a_hundred_megabytes_cost_bounded_memory(kind):
    name, bomb = kind.split()[0], BOMBS[kind]()
    assert len(bomb) < 12 * MIB
    before, most, seen = memory(), 0, 0
    with decoder(name) as made:
        steps = [made.feed(bomb[at : at + MIB]) for at in range(0, len(bomb), MIB)]
        for piece in chain(*steps, made.end()):
            assert len(piece) <= MIB
            assert not any(piece[::4096])
            seen += len(piece)
            most = max(most, memory() - before)
            if seen > 100 * MIB:
                break
    assert seen > 100 * MIB
    assert most < 200 * MIB


# --- what asks for too much memory ---


def test_a_window_of_more_than_128_mib_is_unsupported_as_for_zstd():
    large = pack(text(1000), "zstd", "--long=28", "-c")
    assert told("zst", large) == (b"", False)
    out, error = unpack("zst", large)
    assert out == b""
    assert isinstance(error, Unsupported)
    # A frame without a window needs one of its own length.
    single = b"\x28\xb5\x2f\xfd" + bytes((0xE0,)) + (1 << 40).to_bytes(8, "little")
    assert isinstance(unpack("zst", single + b"\1\0\0")[1], Unsupported)
    assert unpack("zst", pack(text(1000), "zstd", "--long=27", "-c")) == (text(1000), None)


def test_a_dictionary_is_unsupported(tmp_path):
    words = zstandard.ZstdCompressionDict(text(5000))
    samples = zstandard.train_dictionary(2000, [text(300, seed) for seed in range(200)])
    packed = zstandard.ZstdCompressor(dict_data=samples).compress(text(300))
    assert words.dict_id() == 0
    assert isinstance(unpack("zst", packed)[1], Unsupported)


def xz_with(change):
    """An xz image whose block's header was changed, and is whole again."""
    whole = bytearray(pack(text(1000), "xz", "-c"))
    length = (whole[12] + 1) * 4
    header = whole[12 : 12 + length - 4]
    change(header)
    whole[12 : 12 + length] = header + struct.pack("<I", zlib.crc32(header))
    return bytes(whole)


def put(place, value):
    def change(header):
        header[place] = value

    return change


def test_a_dictionary_of_more_than_256_mib_is_unsupported():
    # Byte 4 is the dictionary of LZMA2: 22 is 8 MiB, 32 is 256 MiB, 40 is 4 GiB.
    assert xz_with(put(4, 22)) == pack(text(1000), "xz", "-c")
    assert unpack("xz", xz_with(put(4, 32))) == (text(1000), None)
    for bits in (33, 36, 40):
        out, error = unpack("xz", xz_with(put(4, bits)))
        assert out == b""
        assert isinstance(error, Unsupported)
    assert isinstance(unpack("xz", xz_with(put(4, 41)))[1], Damaged)


@pytest.mark.parametrize(("place", "value"), [(1, 0x04), (1, 0x01), (2, 0x22), (2, 0x03), (3, 9)])
def test_a_block_header_that_is_not_known_is_refused_as_the_tool_does(place, value):
    made = xz_with(put(place, value))
    assert told("xz", made) == (b"", False)
    out, error = unpack("xz", made)
    assert out == b""
    assert isinstance(error, (Damaged, Unsupported))


@pytest.mark.parametrize("part", ["index", "footer", "number"])
def test_an_index_or_footer_of_other_blocks_is_damage(part):
    one = pack(text(900), "xz", "-0", "--block-size=300", "-c")
    length = 4 * (struct.unpack("<I", one[-8:-4])[0] + 1)
    start = len(one) - 12 - length
    index, footer = bytearray(one[start:-12]), bytearray(one[-12:])
    if part == "index":
        index[3] ^= 1  # the decoded length of the first block
    elif part == "number":
        index[1] ^= 1
    else:
        footer[4] ^= 1
    index[-4:] = struct.pack("<I", zlib.crc32(index[:-4]))
    footer[:4] = struct.pack("<I", zlib.crc32(footer[4:10]))
    changed = one[:start] + index + footer
    assert told("xz", changed)[1] is False
    out, error = unpack("xz", changed)
    assert out == text(900)
    assert isinstance(error, Damaged)


# --- bzip2: what looks like a block and is none ---


class Bits:
    """Bits to read and to write, the first one highest."""

    def __init__(self, data=b""):
        self.text = "".join(f"{byte:08b}" for byte in data)
        self.at = 0

    def take(self, count):
        self.at += count
        return self.text[self.at - count : self.at]

    def number(self, count):
        return int(self.take(count), 2)

    def one(self):
        return self.take(1) == "1"


def with_magics(data, magics, selectors=60):
    """A bzip2 stream of a small `data` with these 48-bit numbers inside its one block.

    They stand where a block says which of its Huffman tables is used for which 50 symbols: unary
    numbers up to five. All six tables are made the same, so it does not matter what they say; and
    what is said of symbols that do not exist means nothing.
    """
    bits = Bits(bz2.compress(data))
    bits.take(32 + 48 + 32 + 1 + 24)
    used = 0
    for row in bits.take(16):
        used += bits.take(16).count("1") if row == "1" else 0
    begin = bits.text[: bits.at]
    groups, count = bits.number(3), bits.number(15)
    assert (groups, count) == (2, 1), "the data is too long"
    chosen = 0
    while bits.one():
        chosen += 1
    tables = []
    for _ in range(groups):
        start = bits.at
        bits.take(5)
        for _ in range(used + 2):
            while bits.one():
                bits.take(1)
        tables.append(bits.text[start : bits.at])
    inside = "0".join(f"{magic:048b}" for magic in magics) + "0"
    inside += "0" * selectors
    made = begin + f"{6:03b}{inside.count('0'):015b}" + inside + tables[chosen] * 6
    end = bits.text[bits.at :]
    at = end.rindex(f"{0x177245385090:048b}")
    made += end[: at + 80]
    made += "0" * (-len(made) % 8)
    return int(made, 2).to_bytes(len(made) // 8, "big")


BLOCK, END = 0x314159265359, 0x177245385090


@pytest.mark.parametrize("magics", [[], [BLOCK], [END], [BLOCK, END, BLOCK], [END, BLOCK] * 5])
@pytest.mark.parametrize("step", [MIB, 50])
def test_a_magic_inside_a_block_begins_no_block(magics, step):
    made = with_magics(b"few symbols", magics)
    assert told("bz2", made) == (b"few symbols", True)
    assert unpack("bz2", made, step) == (b"few symbols", None)
    other = bz2.compress(text(20_000))
    between = other + made + made + other + made
    assert unpack("bz2", between, step) == (told("bz2", between)[0], None)


def test_magics_without_end_are_an_error_soon():
    made = with_magics(b"few symbols", [BLOCK] * 200)
    started = time.monotonic()
    assert isinstance(unpack("bz2", made)[1], Damaged)
    nothing = b"BZh9" + BLOCK.to_bytes(6, "big") * 500_000
    assert isinstance(unpack("bz2", nothing)[1], Damaged)
    assert time.monotonic() - started < 20


def test_a_block_longer_than_any_is_damage_and_is_not_kept():
    with decoder("bz2") as made, pytest.raises(Damaged):
        for _ in range(100):
            for _ in made.feed(b"BZh9" + BLOCK.to_bytes(6, "big") + noise(100_000)):
                pass
            for _ in made.feed(noise(MIB)):
                pass


@pytest.mark.parametrize("name", NAMES)
def test_after_an_error_it_can_be_closed(name):
    with decoder(name) as made:
        with pytest.raises(NebfsError):
            list(made.feed(PACKERS[name](text(2000))[:-30] + noise(5000)))
            list(made.end())
        made.close()
    assert TOOLS[name]
