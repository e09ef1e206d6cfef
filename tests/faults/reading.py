"""What is published, in each kind of stack, and reading it at random."""

from __future__ import annotations

import functools
import random

import trio

from nebfs.content.stack import read
from nebfs.errors import NebfsError
from tests.content.decoding import pack
from tests.promises.subjects import compressed, disks

RAW = random.Random(1).randbytes(300_000) + bytes(200_000) + random.Random(2).randbytes(100_001)

QCOW2 = functools.partial(disks.image, "qcow2", "cluster_size=16k", compressed=True)

STACKS = {
    "raw": (lambda: RAW, lambda: RAW, ""),
    "qcow2, as published": (QCOW2, QCOW2, ""),
    "qcow2, raw face": (QCOW2, disks.disk, "raw"),
    "gzip": (lambda: pack(compressed.DISK, "gzip", "-c"), lambda: compressed.DISK, "raw"),
    "xz, one block": (lambda: pack(compressed.DISK, "xz", "-c"), lambda: compressed.DISK, "raw"),
    "xz, blocks": (
        lambda: pack(compressed.DISK, "xz", "-c", "-0", "-T2", "--block-size=90000"),
        lambda: compressed.DISK,
        "raw",
    ),
    "zstd, frames": (lambda: compressed._seekable(90_000), lambda: compressed.DISK, "raw"),
}
"""Of each kind: what is published, what is read, and the view."""

LENGTHS = (1, 4096, 70_000, 200_000)


@functools.cache
def made(kind):
    published, wanted, view = STACKS[kind]
    return published(), wanted(), view


async def random_reads(reader, data, allowed, seed=1, number=6):
    """Read at random, all at once. Return the errnos; raises what is not `allowed`."""
    chance = random.Random(seed)
    assert reader.size == len(data)
    found = []

    async def one(offset, length):
        try:
            got = bytes(await read(reader, offset, length))
        except NebfsError as exc:
            if exc.errno not in allowed:
                raise
            found.append(exc.errno)
        else:
            assert len(got) == length, f"{len(got)} of {length} bytes"
            assert got == data[offset : offset + length], f"wrong bytes at {offset}"
            found.append(0)

    async with trio.open_nursery() as nursery:
        for _ in range(number):
            length = min(chance.choice(LENGTHS), len(data))
            nursery.start_soon(one, chance.randrange(len(data) - length + 1), length)
    return found
