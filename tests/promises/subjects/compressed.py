"""What is in compressed files at a place far away: in one pass, or block by block."""

from __future__ import annotations

import math
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import zstandard

from tests.content.decoding import noise, pack, text
from tests.promises.cancelling import Readers
from tests.promises.subjects import Made, subject
from tests.promises.subjects.places import Files, shop

DISK = text(250_000) + bytes(150_000) + noise(100_001)


@asynccontextmanager
async def _decoded(
    home: Path, packed: bytes, *, known: bool = False, full: bool = False, **settings
) -> AsyncIterator[Made]:
    """`full`: the disk is, whenever the next reader begins."""
    address = "http://host/image"
    async with shop(home, Files({address: packed}), **settings) as made:
        content = made.content(address, format="raw", view="raw")

        async def cold() -> None:
            await made.cold()
            made.prober.forget(content)
            if full:
                made.store._full_until = math.inf

        yield Readers(lambda: made.open_disk(content), DISK, made.idle, None if known else cold)


@subject
async def in_one_pass(home: Path) -> AsyncIterator[Made]:
    """A length that only the end tells."""
    async with _decoded(home, pack(DISK, "gzip", "-c")) as made:
        yield made


@subject
async def in_one_pass_of_bzip2(home: Path) -> AsyncIterator[Made]:
    async with _decoded(home, pack(DISK, "bzip2", "-c", "-1")) as made:
        yield made


@subject
async def in_one_block(home: Path) -> AsyncIterator[Made]:
    """A length that is told at its end."""
    async with _decoded(home, pack(DISK, "xz", "-c", "-0")) as made:
        yield made


@subject
async def block_by_block(home: Path) -> AsyncIterator[Made]:
    packed = pack(DISK, "xz", "-c", "-0", "-T2", "--block-size=90000")
    async with _decoded(home, packed) as made:
        yield made


@subject
async def in_one_pass_and_the_disk_is_full(home: Path) -> AsyncIterator[Made]:
    """It goes on in memory."""
    async with _decoded(home, pack(DISK, "xz", "-c", "-0"), full=True) as made:
        yield made


@subject
async def block_by_block_and_the_disk_is_full(home: Path) -> AsyncIterator[Made]:
    packed = pack(DISK, "xz", "-c", "-0", "-T2", "--block-size=90000")
    async with _decoded(home, packed, full=True) as made:
        yield made


@subject
async def decoded_for_each_reader(home: Path) -> AsyncIterator[Made]:
    """There is no disk, and memory does not hold it."""
    packed = pack(DISK, "gzip", "-c")
    async with _decoded(home, packed, in_memory=True, limit=len(packed) + 200_000) as made:
        yield made


@subject
async def in_one_frame(home: Path) -> AsyncIterator[Made]:
    async with _decoded(home, pack(DISK, "zstd", "-q", "-c")) as made:
        yield made


@subject
async def frame_by_frame(home: Path) -> AsyncIterator[Made]:
    async with _decoded(home, _seekable(90_000)) as made:
        yield made


def _seekable(size: int) -> bytes:
    """Frames of `size` bytes, and a table of them: zstd's contrib/seekable_format."""
    parts = [DISK[at : at + size] for at in range(0, len(DISK), size)]
    frames = [zstandard.ZstdCompressor().compress(part) for part in parts]
    table = b"".join(
        struct.pack("<II", len(frame), len(part)) for frame, part in zip(frames, parts, strict=True)
    )
    footer = struct.pack("<IBI", len(frames), 0, 0x8F92EAB1)
    head = struct.pack("<II", 0x184D2A5E, len(table) + len(footer))
    return b"".join([*frames, head, table, footer])
