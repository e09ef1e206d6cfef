"""qcow2 headers as qemu-img writes them, and as somebody might who means no good."""

from __future__ import annotations

import json
import random
import struct
import subprocess

import pytest

from nebfs.content.layers.qcow2_header import HEAD, LONGEST_NAME, parse
from nebfs.errors import Damaged, NebfsError, Unsupported


def made(path, *options, size="3G", backing=None, kind="qcow2"):
    over = ["-u", "-b", backing, "-F", kind] if backing else []
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", ",".join(options), *over, path, size]
    subprocess.run(argv, check=True)
    return path.read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        ("compat=0.10",),
        ("compat=1.1",),
        ("compat=0.10", "cluster_size=512"),
        ("cluster_size=2M",),
        ("cluster_size=16k", "extended_l2=on"),
        ("compression_type=zstd",),
        ("lazy_refcounts=on", "refcount_bits=1"),
    ],
    ids=",".join,
)
def test_a_header_is_what_qemu_says_it_is(tmp_path, options):
    path = tmp_path / "disk.qcow2"
    backing = "a directory/näme\udcff.img"
    data = made(path, *options, backing=backing, kind="raw")
    said = subprocess.run(["qemu-img", "info", "--output=json", path], capture_output=True)
    said = json.loads(said.stdout.decode("utf-8", "replace"))
    more = said["format-specific"]["data"]

    header = parse(data[:HEAD])
    assert header.size == said["virtual-size"]
    assert 1 << header.cluster_bits == said["cluster-size"]
    assert header.version == (2 if more["compat"] == "0.10" else 3)
    assert header.compression == more.get("compression-type", "zlib")
    assert header.extended_l2 == more.get("extended-l2", False)
    assert header.backing_name == backing
    assert header.backing_format == said["backing-filename-format"] == "raw"
    assert header.flaw == ""


def test_a_file_that_stands_alone_has_no_name(tmp_path):
    header = parse(made(tmp_path / "disk.qcow2", "compat=1.1"))
    assert (header.backing_name, header.backing_format) == ("", "")


def test_the_longest_name_is_read_and_a_longer_one_refused(tmp_path):
    name = "n" * LONGEST_NAME
    data = bytearray(made(tmp_path / "disk.qcow2", "compat=1.1", backing=name))
    assert parse(bytes(data[:HEAD])).backing_name == name
    struct.pack_into(">I", data, 16, LONGEST_NAME + 1)
    with pytest.raises(Damaged):
        parse(bytes(data))


def test_a_name_that_the_head_does_not_reach_is_an_error_not_none(tmp_path):
    data = made(tmp_path / "disk.qcow2", "compat=1.1", backing="below.img")
    end = data.index(b"below.img") + len("below.img")
    for length in range(end):
        with pytest.raises((Damaged, Unsupported)):
            parse(data[:length])
    assert parse(data[:end]).backing_name == "below.img"


@pytest.mark.parametrize(
    ("at", "value", "kind"),
    [
        (20, struct.pack(">I", 8), Damaged),  # cluster_bits
        (20, struct.pack(">I", 22), Damaged),
        (20, struct.pack(">I", 1 << 31), Damaged),
        (24, struct.pack(">Q", 1 << 63), Damaged),  # size
        (36, struct.pack(">I", 5), Damaged),  # l1_size: the disk needs 6
        (36, struct.pack(">I", (32 << 20) // 8 + 1), Damaged),
        (40, struct.pack(">Q", 0x30200), Damaged),  # l1_offset
        (72, struct.pack(">Q", 1 << 63), Unsupported),  # incompatible_features
        (100, struct.pack(">I", 103), Damaged),  # header_length
        (100, struct.pack(">I", 96), Damaged),
        (100, struct.pack(">I", 0xFFFFFFF8), Damaged),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, at, value, kind):
    data = bytearray(made(tmp_path / "disk.qcow2", "compat=1.1"))
    data[at : at + len(value)] = value
    with pytest.raises(kind) as raised:
        parse(bytes(data))
    assert not raised.value.temporary


@pytest.mark.parametrize(("at", "value"), [(35, 1), (35, 2), (35, 77), (79, 2), (79, 4)])
def test_what_nobody_can_read_has_a_flaw(tmp_path, at, value):
    """Encryption (AES, LUKS, others), the bits for corrupt and for an external data file."""
    data = bytearray(made(tmp_path / "disk.qcow2", "compat=1.1"))
    data[at] = value
    assert parse(bytes(data)).flaw


def test_a_dirty_image_has_no_flaw(tmp_path):
    data = bytearray(made(tmp_path / "disk.qcow2", "compat=1.1"))
    data[79] |= 1
    assert parse(bytes(data)).flaw == ""


def test_whatever_is_written_there_ends_in_a_header_or_an_error_of_ours(tmp_path):
    good = made(tmp_path / "disk.qcow2", "compat=1.1", backing="below.img")[:HEAD]
    chance = random.Random(5)
    read = 0
    for _ in range(4000):
        data = bytearray(good[: chance.choice((len(good), chance.randrange(1200)))])
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(min(len(data), 700) or 1)
            data[at : at + 1] = bytes([chance.choice((0, 1, 255, chance.randrange(256)))])
        try:
            assert len(parse(bytes(data)).backing_name) <= LONGEST_NAME
            read += 1
        except NebfsError as exc:
            assert not exc.temporary
    assert read > 400
