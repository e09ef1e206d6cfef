"""The disk inside vmdk, vdi, vhd and vhdx images of every kind: byte for byte as qemu-img reads it.

No test of these is of the tools of VMware, VirtualBox or Microsoft: they cannot be had here.
"""

from __future__ import annotations

import os
import random

import pytest
import trio

from nebfs.errors import Damaged
from tests.content.disk_images import FORMATS, QEMU, flaw, make, opened, oracle
from tests.content.qcow2 import Slow, raw, run
from tests.content.test_qcow2 import SIZE, check, content

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

LAYOUTS = [
    ("vdi", ""),
    ("vdi", "static=on"),
    ("vhd", ""),
    ("vhd", "force_size=on"),
    ("vhd", "subformat=fixed"),
    ("vhd", "subformat=fixed,force_size=on"),
    ("vhdx", ""),
    ("vhdx", "subformat=fixed"),
    ("vhdx", "block_size=1M"),
    ("vhdx", "block_size=2M,log_size=3M"),
    ("vhdx", "block_size=256M,block_state_zero=off"),
    ("vmdk", ""),
    ("vmdk", "zeroed_grain=on"),
    ("vmdk", "adapter_type=lsilogic,hwversion=13"),
    ("vmdk", "adapter_type=buslogic"),
    ("vmdk", "adapter_type=legacyESX"),
    ("vmdk", "compat6=on"),
    ("vmdk", "subformat=streamOptimized"),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "source.raw"
    path.write_bytes(content(1))
    return path


@pytest.mark.parametrize(("kind", "options"), LAYOUTS)
async def test_every_layout(source, tmp_path, kind, options):
    path = make(kind, source, tmp_path / "image", options)
    expected = oracle(kind, path)
    assert expected.startswith(source.read_bytes())
    file = await raw(path)
    assert (await FORMATS[kind].look(file)).size == len(expected)
    await file.aclose()
    for wrap in (lambda reader: reader, Slow):
        reader = await opened(kind, path, wrap)
        await check(reader, expected)
        assert reader.facts().size == len(expected)
        await reader.aclose()


def scribbled(kind, path, seed, size, times=25):
    """Write and zero here and there, with the format's own writer."""
    source = random.Random(seed)
    commands = []
    for _ in range(times):
        length = source.choice([512, 1024, 4096, 65536, 131072])
        at = source.randrange(0, (size - length) // 512) * 512
        what = source.choice([f"write -P {source.randrange(256)}", "write -z", "discard"])
        commands += ["-c", f"{what} {at} {length}"]
    run("qemu-io", "-f", QEMU[kind], *commands, path)


@pytest.mark.parametrize(("kind", "options"), [one for one in LAYOUTS if "stream" not in one[1]])
async def test_written_to_here_and_there(tmp_path, kind, options):
    path = tmp_path / "image"
    words = ["-o", options] if options else []
    run("qemu-img", "create", "-f", QEMU[kind], *words, path, "9M")
    scribbled(kind, path, 7, 9 * MIB)
    expected = oracle(kind, path)
    for wrap in (lambda reader: reader, Slow):
        reader = await opened(kind, path, wrap)
        await check(reader, expected, seed=1)
        await reader.aclose()


@pytest.mark.parametrize(
    ("kind", "options", "covered", "size"),
    [
        ("vdi", "", 16 * GIB, 40 * GIB),
        ("vhd", "force_size=on", 32 * GIB, 80 * GIB),
        ("vhdx", "block_size=1M", 8 * GIB, 20 * GIB),
        ("vhdx", "block_size=32M", 256 * GIB, 64 << 40),
        ("vmdk", "", 32 * MIB, 40 * GIB),
        ("vmdk", "", 512 * GIB, 1100 * GIB),  # parts of the directory
    ],
)
async def test_reads_across_the_parts_of_a_table(tmp_path, kind, options, covered, size):
    path = tmp_path / "image"
    words = ["-o", options] if options else []
    run("qemu-img", "create", "-f", QEMU[kind], *words, path, size)
    written = {0: 1, covered - 1024: 2, covered: 3, 2 * covered - 512: 4, size - 1024: 5}
    # Of vhdx, entries for bitmaps are between the others: after each chunk of 4 GiB.
    written |= {4 * GIB - 512: 6, 4 * GIB: 7}
    commands = [f"write -P {what} {at} 512" for at, what in written.items()]
    run("qemu-io", "-f", QEMU[kind], *(w for one in commands for w in ("-c", one)), path)
    for wrap in (lambda reader: reader, Slow):
        reader = await opened(kind, path, wrap)
        assert reader.size == size
        for at, what in written.items():
            assert await reader.pread(at, 512) == bytes([what]) * 512
        around = await reader.pread(covered - 2048, 4096)
        assert around == bytes(1024) + b"\2" * 512 + bytes(512) + b"\3" * 512 + bytes(1536)
        assert await reader.pread(size - 2048, 2048) == bytes(1024) + b"\5" * 512 + bytes(512)
        view = reader.warm(covered - 1000, 10)
        assert view is None or view == b"\2" * 10
        assert await reader.pread(size // 2 + 5 * MIB, MIB) == bytes(MIB)
        await reader.aclose()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("vdi", ""),
        ("vhd", ""),
        ("vhdx", "block_size=1M"),
        ("vmdk", ""),
        ("vmdk", "subformat=streamOptimized"),
    ],
)
async def test_a_file_that_was_cut_off_gives_an_error_and_no_zeros(tmp_path, kind, options):
    noise = tmp_path / "noise"
    noise.write_bytes(random.Random(2).randbytes(9 * MIB))
    path = make(kind, noise, tmp_path / "image", options)
    os.truncate(path, path.stat().st_size - 3 * MIB)
    reader = await opened(kind, path)
    expected = noise.read_bytes()
    assert await reader.pread(MIB, MIB) == expected[MIB : 2 * MIB]
    at = 9 * MIB - 4096
    assert reader.warm(at, 4096) is None
    with pytest.raises(Damaged):
        await reader.pread(at, 4096)
    await reader.aclose()


@pytest.mark.parametrize("kind", FORMATS)
async def test_what_is_no_such_image_is_said_to_be_none(tmp_path, kind):
    for data in (b"", b"x", bytes(700), random.Random(1).randbytes(2 * MIB)):
        path = tmp_path / "image"
        path.write_bytes(data)
        assert "it is no" in await flaw(kind, path) or "cut off" in await flaw(kind, path)
        with pytest.raises(Damaged):
            await opened(kind, path)


@pytest.mark.parametrize("kind", FORMATS)
async def test_a_read_in_the_middle_reads_one_part_of_the_table_and_the_data(
    source, tmp_path, kind
):
    path = make(kind, source, tmp_path / "image")
    reader = await opened(kind, path, Slow)
    file = reader._file
    expected = source.read_bytes()
    at = next(at for at in range(0, SIZE, 65536) if any(expected[at : at + 4096]))
    file.reads.clear()
    assert await reader.pread(at, 4096) == expected[at : at + 4096]
    assert len(file.reads) == (3 if kind == "vmdk" else 2)  # its directory besides
    assert sum(length for _, length in file.reads) <= 3 * 64 * KIB + 4096
    file.reads.clear()
    assert await reader.pread(at + 8, 100) == expected[at + 8 : at + 108]
    assert [length for _, length in file.reads] == [100]


@pytest.mark.parametrize(("kind", "options"), [("vmdk", ""), ("vmdk", "subformat=streamOptimized")])
async def test_readers_who_come_together_read_once(source, tmp_path, kind, options):
    path = make(kind, source, tmp_path / "image", options)
    reader = await opened(kind, path, Slow)
    expected = source.read_bytes()

    async def read() -> None:
        assert await reader.pread(0, 300_000) == expected[:300_000]

    reader._file.reads.clear()
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(read)
    reads = reader._file.reads
    assert sum(1 for _, length in reads if length == 2048) == 1  # the table
    if options:
        assert len(reads) == len(set(reads))
    await reader.aclose()
