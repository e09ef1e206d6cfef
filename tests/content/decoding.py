"""Compressed images for tests of their decoders, made and unpacked by the formats' own tools."""

from __future__ import annotations

import random
import subprocess

from nebfs.content.decoders import PIECE, decoder
from nebfs.errors import NebfsError

TOOLS = {"bz2": "bzip2", "gz": "gzip", "xz": "xz", "zst": "zstd"}
NAMES = tuple(TOOLS)


def pack(data, *command):
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout


def told(name, packed):
    """What ``TOOL -dc`` writes, and whether it is content."""
    done = subprocess.run([TOOLS[name], "-dc"], input=packed, capture_output=True)
    return done.stdout, done.returncode == 0


def unpack(name, packed, step=1 << 20):
    """What a decoder hands out that is fed `step` bytes at a time, and its error or None."""
    pieces = []
    view = memoryview(packed)
    with decoder(name) as made:
        try:
            for at in range(0, len(view), step):
                pieces += taken(made.feed(view[at : at + step]))
            pieces += taken(made.end())
        except NebfsError as exc:
            return b"".join(pieces), exc
    return b"".join(pieces), None


def taken(pieces):
    for piece in pieces:
        assert 0 < len(piece) <= PIECE
        yield piece


def text(length, seed=1):
    """Bytes that compress to about a third."""
    chance = random.Random(seed)
    words = [b"%x" % chance.getrandbits(chance.choice((8, 16, 32))) for _ in range(2000)]
    found = b" ".join(chance.choice(words) for _ in range(length // 4 + 1))
    return found[:length]


def noise(length, seed=1):
    return random.Random(seed).randbytes(length)
