"""qcow2 images that somebody made up: errors of ours, bounded memory, and no other file opened."""

from __future__ import annotations

import os
import random
import struct
import zlib

import pytest
import trio

from nebfs.content.layers.qcow2 import Qcow2
from nebfs.content.layers.qcow2_header import HEAD, MAGIC, parse
from nebfs.content.layers.unpacking import unpacker
from nebfs.content.stack import ReaderFacts
from nebfs.errors import Damaged, NebfsError, Unsupported
from nebfs.model import Revision
from tests.content.qcow2 import opened, run

MIB = 1 << 20


class Bytes:
    """A file in memory."""

    def __init__(self, data):
        self.data, self.size, self.revision = data, len(data), Revision(len(data))
        self.closed = False
        self.most = 0

    def warm(self, offset, length):
        self.most = max(self.most, length)
        return memoryview(self.data)[offset : offset + length] if length <= MIB else None

    async def pread(self, offset, length):
        assert offset >= 0
        assert 0 < length <= self.size - offset
        self.most = max(self.most, length)
        await trio.lowlevel.checkpoint()
        return self.data[offset : offset + length]

    def facts(self):
        return ReaderFacts(self.size, self.size, "", "")

    async def aclose(self):
        self.closed = True


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Small images with something of everything in them."""
    directory = tmp_path_factory.mktemp("images")
    raw = directory / "raw"
    raw.write_bytes(random.Random(3).randbytes(100_000) + bytes(200_000) + b"text" * 30_000)
    made = []
    for number, words in enumerate(
        [
            ("-o", "cluster_size=512"),
            ("-o", "cluster_size=4k"),
            ("-c", "-o", "cluster_size=4k"),
            ("-c", "-o", "cluster_size=4k,compression_type=zstd"),
            ("-o", "cluster_size=16k,extended_l2=on"),
            ("-o", "compat=0.10,cluster_size=4k"),
        ]
    ):
        path = directory / str(number)
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *words, raw, path)
        made.append(path.read_bytes())
    return made


INTERESTING = (0, 1, 0xFF, 0x7F, 0x80, 0xFFFFFFFF, 0x7FFFFFFF, 1 << 63, (1 << 64) - 1, 1 << 62)


def mutated(data, source):
    """Change some bytes, mostly where headers and tables are."""
    changed = bytearray(data)
    for _ in range(source.choice([1, 1, 2, 5, 20])):
        limit = source.choice([112, 112, 4096, len(data)])
        at = source.randrange(min(limit, len(data)) - 8)
        match source.randrange(3):
            case 0:
                changed[at] = source.randrange(256)
            case 1:
                struct.pack_into(">Q", changed, at - at % 8, source.choice(INTERESTING))
            case 2:
                struct.pack_into(
                    ">I", changed, at - at % 4, source.choice(INTERESTING) & 0xFFFFFFFF
                )
    if source.random() < 0.1:
        del changed[source.randrange(len(changed)) :]
    return bytes(changed)


async def test_mutated_images_end_in_our_errors_or_in_bytes(images):
    source = random.Random(11)
    ends = {True: 0, False: 0}
    for _ in range(1500):
        file = Bytes(mutated(source.choice(images), source))
        beneath = Bytes(bytes(50_000)) if source.random() < 0.3 else None
        try:
            reader = await Qcow2.open(file, beneath, Revision(0))
            for _ in range(4):
                if reader.size:
                    at = source.randrange(min(reader.size, MIB))
                    length = min(source.choice([1, 4096, 300_000]), reader.size - at)
                    view = reader.warm(at, length)
                    assert view is None or len(view) == length
                    assert len(await reader.pread(at, length)) == length
            ends[True] += 1
        except NebfsError:
            ends[False] += 1
        assert file.most <= 8 * MIB
    assert min(ends.values()) > 100


def test_random_headers_end_in_our_errors():
    source = random.Random(5)
    for _ in range(3000):
        head = MAGIC + struct.pack(">I", source.choice([2, 3])) + source.randbytes(HEAD - 8)
        try:
            parse(head[: source.choice([0, 8, 72, 104, HEAD])])
        except NebfsError:
            continue


async def refused(path, words, kind=Unsupported):
    with pytest.raises(kind, match=words):
        await opened(path)


async def test_an_image_that_names_a_backing_file_is_refused_and_the_file_not_opened(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * MIB)
    path = tmp_path / "image"
    run("qemu-img", "create", "-f", "qcow2", "-b", secret, "-F", "raw", path)
    os.utime(secret, (5, 5))
    await refused(path, "which it names and which is not followed")
    assert secret.stat().st_atime == 5
    assert parse(path.read_bytes()[:HEAD]).backing_name == str(secret)
    assert parse(path.read_bytes()[:HEAD]).backing_format == "raw"


async def test_what_is_beneath_is_what_we_say_and_not_what_the_image_says(tmp_path):
    path = tmp_path / "image"
    run("qemu-img", "create", "-u", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", path, "1M")
    file = Bytes(path.read_bytes())
    reader = await Qcow2.open(file, Bytes(b"ours" * 1000), Revision(0))
    assert await reader.pread(0, 8) == b"oursours"
    assert await reader.pread(4000, 8) == bytes(8)


@pytest.mark.parametrize("method", [1, 2])
async def test_encrypted_images_are_refused(tmp_path, method):
    """AES and LUKS. qemu-img takes seconds to derive a key, and fails where it cannot time that."""
    path = tmp_path / "image"
    run("qemu-img", "create", "-f", "qcow2", path, "1M")
    with path.open("r+b") as file:
        file.seek(32)
        file.write(struct.pack(">I", method))
    await refused(path, "encrypted")


async def test_images_whose_data_is_elsewhere_are_refused(tmp_path):
    path = tmp_path / "image"
    run("qemu-img", "create", "-f", "qcow2", "-o", f"data_file={tmp_path}/data", path, "1M")
    await refused(path, "in another file")


@pytest.mark.parametrize(
    ("at", "value", "kind", "words"),
    [
        (72, 2, Unsupported, "corrupt"),
        (72, 1 << 17, Unsupported, "features"),
        (72, 1 << 3, Damaged, "contradicts itself"),
        (24, 1 << 50, Damaged, "too small"),
        (40, 12345, Damaged, "where one can be"),
        (40, 1 << 40, Damaged, "cut off"),
    ],
)
async def test_headers_that_cannot_be(tmp_path, at, value, kind, words):
    path = tmp_path / "image"
    run("qemu-img", "create", "-f", "qcow2", path, "1M")
    data = bytearray(path.read_bytes())
    struct.pack_into(">Q", data, at, value)
    file, beneath = Bytes(bytes(data)), Bytes(b"x")
    with pytest.raises(kind, match=words):
        await Qcow2.open(file, beneath, Revision(0))
    assert file.closed
    assert beneath.closed


@pytest.mark.parametrize("version", [0, 1, 4])
def test_other_versions(version):
    with pytest.raises(Unsupported, match="another version"):
        parse(MAGIC + struct.pack(">I", version) + bytes(HEAD))


async def test_what_is_no_image_is_said_to_be_none():
    for data in (b"", b"QFI", b"QFI\xfb", bytes(5000)):
        with pytest.raises(Damaged, match="no qcow2 image"):
            await Qcow2.open(Bytes(data), None, Revision(0))


@pytest.mark.parametrize("kind", ["zlib", "zstd"])
def test_a_bomb_gives_no_more_than_a_cluster(kind):
    if kind == "zlib":
        packer = zlib.compressobj(9, wbits=-12)
        bomb = packer.compress(bytes(100 * MIB)) + packer.flush()
    else:
        import zstandard

        bomb = zstandard.compress(bytes(100 * MIB))
    assert unpacker(kind)(bomb, 65536) == bytes(65536)


@pytest.mark.parametrize("kind", ["zlib", "zstd"])
@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"\xff" * 100, b"noise" * 20])
def test_what_cannot_be_unpacked_is_damaged(kind, data):
    with pytest.raises(Damaged):
        unpacker(kind)(data, 65536)


def test_a_long_name_that_is_cut_off_is_not_taken_for_none(tmp_path):
    path = tmp_path / "image"
    name = "/" + "/".join(["x" * 100] * 9)
    run("qemu-img", "create", "-u", "-f", "qcow2", "-b", name, "-F", "raw", path, "1M")
    data = path.read_bytes()
    assert parse(data[:HEAD]).backing_name == name
    with pytest.raises(Unsupported, match="not among the image's first bytes"):
        parse(data[:600])
    assert parse(data[:600], named=False).backing_name == ""
