"""The disk inside qcow2 images of every kind that qemu-img makes: byte for byte what it reads."""

from __future__ import annotations

import os
import random
import sys

import pytest

from nebfs.errors import Damaged
from tests.content.qcow2 import Slow, opened, oracle, run

KIB, MIB = 1 << 10, 1 << 20
SIZE = 5 * MIB + 3 * KIB


def content(seed: int, size: int = SIZE) -> bytes:
    """Some of everything: noise, text that can be compressed, zeros, in pieces of odd sizes."""
    source = random.Random(seed)
    pieces: list[bytes] = []
    while (left := size - sum(map(len, pieces))) > 0:
        length = min(left, source.choice([512, 4096, 65536, 70_000, 200_000, 1]))
        match source.randrange(4):
            case 0:
                pieces.append(bytes(length))
            case 1:
                pieces.append(source.randbytes(length))
            case _:
                pieces.append((source.randbytes(64) * (length // 64 + 1))[:length])
    return b"".join(pieces)


async def whole(reader, step=1 * MIB):
    parts = []
    for at in range(0, reader.size, step):
        length = min(step, reader.size - at)
        view = reader.warm(at, length)
        parts.append(bytes(view if view is not None else await reader.pread(at, length)))
    return b"".join(parts)


async def check(reader, expected, seed=0):
    """Read all of it, and pieces at random: at once where that is offered, and waiting."""
    assert reader.size == len(expected)
    assert await whole(reader) == expected
    source = random.Random(seed)
    for _ in range(60):
        at = source.randrange(len(expected))
        length = min(source.choice([1, 512, 4096, 65536, 300_000]), len(expected) - at)
        assert await reader.pread(at, length) == expected[at : at + length]
        view = reader.warm(at, length)
        assert view is None or view == expected[at : at + length]


CLUSTERS = [512, 4096, 65536, 2 * MIB]
OPTIONS = [
    *[f"cluster_size={size}" for size in CLUSTERS],
    "compat=0.10",
    "compat=0.10,cluster_size=512",
    "extended_l2=on,cluster_size=16k",
    "extended_l2=on,cluster_size=128k",
    "preallocation=metadata",
    "lazy_refcounts=on",
]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.raw"
    path.write_bytes(content(1))
    return path


@pytest.fixture
def made(tmp_path, source):
    def made(name, *words):
        path = tmp_path / name
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *words, source, path)
        return path

    return made


@pytest.mark.parametrize("wrap", [lambda reader: reader, Slow], ids=["near", "far"])
@pytest.mark.parametrize("options", OPTIONS)
async def test_every_layout(made, options, wrap):
    path = made("image", "-o", options)
    await check(await opened(path, wrap=wrap), oracle(path))


@pytest.mark.parametrize("kind", ["zlib", "zstd"])
@pytest.mark.parametrize(
    "options", ["cluster_size=4096", "cluster_size=65536", "cluster_size=2M", "extended_l2=on"]
)
async def test_compressed_clusters(made, kind, options):
    path = made("image", "-c", "-o", f"compression_type={kind},{options}")
    await check(await opened(path), oracle(path))
    await check(await opened(path, wrap=Slow), oracle(path))


def scribble(path, seed, size, times=25):
    """Write, discard and zero here and there."""
    source = random.Random(seed)
    commands = []
    for _ in range(times):
        length = source.choice([512, 1024, 4096, 65536, 131072])
        at = source.randrange(0, (size - length) // 512) * 512
        what = source.choice(
            [f"write -P {source.randrange(256)}", "write -z", "write -zu", "discard"]
        )
        commands += ["-c", f"{what} {at} {length}"]
    run("qemu-io", "-f", "qcow2", *commands, path)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("options", ["cluster_size=4k", "", "extended_l2=on,cluster_size=64k"])
async def test_written_to_here_and_there(made, seed, options):
    words = ["-c"] if seed % 2 else []
    path = made("image", *words, *(("-o", options) if options else ()))
    scribble(path, seed, SIZE // 512 * 512)
    await check(await opened(path), oracle(path), seed)
    await check(await opened(path, wrap=Slow), oracle(path), seed)


@pytest.mark.parametrize("seed", range(3))
async def test_chains_of_images_of_different_lengths_and_clusters(made, tmp_path, seed):
    paths = [made("0")]
    layouts = ["cluster_size=4k", "cluster_size=2M", "extended_l2=on,cluster_size=32k", ""]
    sizes = [SIZE + 2 * MIB, SIZE - 2 * MIB, SIZE + MIB]
    for number, size in enumerate((one // 512 * 512 for one in sizes), 1):
        path = tmp_path / str(number)
        options = layouts[(number + seed) % 4]
        words = ["-o", options] if options else []
        run("qemu-img", "create", "-f", "qcow2", *words, "-F", "qcow2", "-b", paths[0], path, size)
        scribble(path, seed * 10 + number, size)
        paths.insert(0, path)
    await check(await opened(*paths), oracle(paths[0]), seed)
    await check(await opened(*paths, wrap=Slow), oracle(paths[0]), seed)


async def test_a_raw_file_at_the_bottom(source, tmp_path):
    top = tmp_path / "top"
    run("qemu-img", "create", "-f", "qcow2", "-F", "raw", "-b", source, top, SIZE + 700 * KIB)
    scribble(top, 3, SIZE)
    expected = oracle(top)
    await check(await opened(top, source, last_is_raw=True), expected)
    await check(await opened(top, source, last_is_raw=True, wrap=Slow), expected)


async def test_a_large_empty_disk_is_zeros(tmp_path):
    path = tmp_path / "image"
    run("qemu-img", "create", "-f", "qcow2", path, "16T")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 15T 64k", path)
    reader = await opened(path)
    assert await reader.pread(3 << 40, 4096) == bytes(4096)
    assert await reader.pread((15 << 40) - 512, 1024) == bytes(512) + b"\7" * 512
    assert reader.warm((15 << 40) + 100, 4) == b"\7" * 4


async def test_a_read_in_the_middle_reads_two_tables_and_the_data(made):
    path = made("image", "-o", "cluster_size=64k")
    reader = await opened(path, wrap=Slow)
    expected = oracle(path)
    file = reader.file
    at = next(at for at in range(0, SIZE, 65536) if any(expected[at : at + 4096]))
    file.reads.clear()
    assert await reader.pread(at, 4096) == expected[at : at + 4096]
    assert len(file.reads) == 3
    assert sum(length for _, length in file.reads) <= 65536 + 32 * KIB + 4096
    file.reads.clear()
    assert await reader.pread(at + 8, 100) == expected[at + 8 : at + 108]
    assert file.reads[0][1] == 100


@pytest.fixture
def last_written(tmp_path):
    """An image whose last cluster in the file is that of 4 MiB."""
    path = tmp_path / "image"
    run("qemu-img", "create", "-f", "qcow2", path, "8M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 8 0 64k", "-c", "write -P 9 4m 64k", path)
    return path


async def test_a_file_whose_last_cluster_is_not_written_out(last_written):
    """As QEMU leaves it when less than a cluster was written to."""
    os.truncate(last_written, last_written.stat().st_size - 1000)
    expected = oracle(last_written)
    assert expected[4 * MIB : 4 * MIB + 65536] == b"\t" * 64536 + bytes(1000)
    await check(await opened(last_written), expected)
    assert await (await opened(last_written)).pread(4 * MIB + 65000, 500) == bytes(500)


async def test_a_file_that_was_cut_off_gives_an_error_and_no_zeros(last_written):
    os.truncate(last_written, last_written.stat().st_size - 65536 - 1000)
    reader = await opened(last_written)
    assert reader.warm(4 * MIB, 4096) is None
    with pytest.raises(Damaged, match="cut off"):
        await reader.pread(4 * MIB, 4096)


def test_importing_the_readers_starts_no_threads():
    """numpy's linear algebra would start one for each processor."""
    run(
        *(sys.executable, "-c"),
        "import os, nebfs.content.layers.qcow2; assert len(os.listdir('/proc/self/task')) == 1",
    )
