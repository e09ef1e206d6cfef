"""Decoders give the bytes that the formats' own tools give, however they are fed."""

from __future__ import annotations

import bz2
import gzip
import lzma
import subprocess
import threading
import zlib

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from nebfs.content.decoders import decoder
from nebfs.errors import Damaged, Unsupported
from tests.content.decoding import NAMES, TOOLS, noise, pack, text, told, unpack

MIXED = text(1_200_000) + bytes(2_000_000) + noise(500_000) + b"\1" * 500_000

COMMANDS = {
    "bz2": ("bzip2 -c", "bzip2 -1 -c"),
    "gz": ("gzip -c", "gzip -1 -c", "gzip -9 -c"),
    "xz": (
        "xz -c",
        "xz -0 --block-size=300KiB -c",
        "xz -0 -T2 --block-size=1MiB -c",
        "xz -C none -0 -c",
        "xz -C crc32 -0 -c",
        "xz -C sha256 --x86 --lzma2=preset=0 -c",
        "xz --delta=dist=4 --lzma2=preset=0 --block-size=700000 -c",
    ),
    "zst": (
        "zstd -c",
        "zstd --no-check -1 -c",
        "zstd -19 -c",
        "zstd --long=27 -1 -c",
        "zstd --fast=5 -c",
        "pzstd -p 2 -1 -c",
    ),
}
EVERY = [(name, command) for name in NAMES for command in COMMANDS[name]]
PACKERS = {
    "bz2": lambda data: bz2.compress(data, 1),
    "gz": lambda data: gzip.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
    "zst": zstandard.ZstdCompressor(level=1, write_checksum=True).compress,
}


@pytest.mark.parametrize(("name", "command"), EVERY)
def test_what_the_tool_packs_is_unpacked(name, command):
    for data in (b"", b"x", bytes(70_000), MIXED):
        packed = pack(data, *command.split())
        assert unpack(name, packed) == (data, None)
        step = 1 if len(packed) < 2000 else 4099
        assert unpack(name, packed, step) == (data, None)


def test_a_file_packed_by_zstd_says_its_length_in_its_header(tmp_path):
    # From a pipe, as in the other tests, it does not.
    for length in (0, 1, 255, 256, 65_791, 65_792, 1_000_000):
        (tmp_path / "disk").write_bytes(text(length))
        subprocess.run(["zstd", "-qf", tmp_path / "disk"], check=True)
        packed = (tmp_path / "disk.zst").read_bytes()
        assert zstandard.frame_content_size(packed) == length
        assert unpack("zst", packed, 1000) == (text(length), None)


SEGMENTS = st.lists(
    st.one_of(
        st.binary(max_size=300),
        st.integers(0, 300_000).map(bytes),
        st.integers(0, 100_000).map(noise),
        st.integers(0, 300_000).map(text),
    ),
    max_size=5,
).map(b"".join)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(parts=st.lists(SEGMENTS, min_size=1, max_size=3), steps=st.integers(100, 1 << 20))
def test_any_bytes_in_any_number_of_streams_come_out(name, parts, steps):
    packed = b"".join(PACKERS[name](part) for part in parts)
    assert unpack(name, packed, steps) == (b"".join(parts), None)


SMALL = text(3000)
TAILS = (
    *(bytes(count) for count in (1, 2, 3, 4, 5, 8, 511, 512, 100_000)),
    *(b"x", b"B", b"BZ", b"BZx", b"BZh0", b"\x1f", b"\x1fx", b"(", b"garbage" * 20),
    b"\0\0x",
    bytes(8) + b"x",
    b"1AY&SY" * 3,
    b"\x17\x72\x45\x38\x50\x90" * 3,
    b"x" * 3_000_000,  # longer than any block of bzip2
)


@pytest.mark.parametrize("name", NAMES)
def test_what_follows_the_last_stream_is_judged_as_the_tool_does(name):
    packed = pack(SMALL, TOOLS[name], "-c")
    own = (packed, bytes(4) + packed, packed + bytes(4), bytes(512) + packed + b"x")
    own += (packed[:4] + b"garbage", packed[:14] + b"garbage" * 20)
    for tail in (*TAILS, *own):
        out, error = unpack(name, packed + tail)
        assert (out, error is None) == told(name, packed + tail), tail[:20]
        assert error is None or isinstance(error, (Damaged, Unsupported))


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_image_is_no_image_as_the_tools_say(name):
    assert told(name, b"") == (b"", False)
    assert isinstance(unpack(name, b"")[1], Damaged)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("other", [*NAMES, "plain"])
def test_another_format_is_damage_or_unsupported(name, other):
    if other != name:
        packed = text(1000) if other == "plain" else pack(SMALL, TOOLS[other], "-c")
        out, error = unpack(name, packed)
        assert out == b""
        assert isinstance(error, (Damaged, Unsupported))


def test_frames_without_data_are_skipped():
    skipped = b"\x5a\x2a\x4d\x18" + (200_000).to_bytes(4, "little") + noise(200_000)
    packed = PACKERS["zst"](SMALL)
    whole = skipped + packed + skipped + packed + skipped
    assert told("zst", whole) == (SMALL * 2, True)
    assert unpack("zst", whole) == (SMALL * 2, None)


def test_names_and_a_comment_in_a_gzip_header_are_passed_over(tmp_path):
    (tmp_path / "a name").write_bytes(SMALL)
    packed = pack(b"", "gzip", "-cN", tmp_path / "a name")
    assert b"a name" in packed
    assert unpack("gz", packed, 1) == (SMALL, None)
    # extra field, name, comment, CRC16 of the header: RFC 1952, 2.3
    # ISA-L itself fails when this one comes in pieces.
    head = b"\x1f\x8b\x08\x1e" + bytes(6) + b"\3\0abc" + b"name\0" + b"comment\0"
    head += (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little")
    whole = head + gzip.compress(SMALL)[10:]
    assert told("gz", whole) == (SMALL, True)
    assert unpack("gz", whole, 1) == (SMALL, None)


@pytest.mark.parametrize("place", [2, 3, 12, 20])
def test_a_gzip_header_that_is_not_as_it_must_be_is_refused_as_the_tool_does(place):
    head = bytearray(b"\x1f\x8b\x08\x0a" + bytes(6) + b"a longer name\0")
    head += (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little")
    head[place] ^= 0x80
    whole = bytes(head) + gzip.compress(SMALL)[10:]
    assert told("gz", whole) == (b"", False)
    out, error = unpack("gz", whole)
    assert out == b""
    assert isinstance(error, (Damaged, Unsupported))


def test_an_unknown_compression_is_unsupported():
    with pytest.raises(Unsupported):
        decoder("lzo")


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "nebfs-decode"]


@pytest.mark.parametrize(
    ("name", "command"), [("bz2", "bzip2 -c"), ("xz", "xz -0 --block-size=1MiB -c")]
)
def test_threads_end_with_the_decoder_wherever_it_stops(name, command):
    packed = pack(text(6_000_000), *command.split())
    for stop in (0, 1, len(packed) // 2, len(packed)):
        made = decoder(name)
        for piece in made.feed(packed[:stop]):
            assert piece
            break
        made.close()
        made.close()
        assert threads() == []


def test_blocks_are_decoded_in_two_threads_at_most_and_come_in_order():
    data = b"".join(b"%08d" % number * 40_000 for number in range(20))
    packed = pack(data, "xz", "-0", "--block-size=320000", "-c")
    with decoder("xz") as made:
        pieces = list(made.feed(packed))
        assert 1 <= len(threads()) <= 2
        pieces += made.end()
    assert b"".join(pieces) == data
