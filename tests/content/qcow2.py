"""qcow2 images made by qemu-img, and opening them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import trio

from nebfs.content.layers.inplace import InPlace, revision_of
from nebfs.content.layers.qcow2 import Qcow2
from nebfs.model import Locator, Revision


def run(*words):
    subprocess.run([str(word) for word in words], check=True, capture_output=True)


def oracle(path: Path) -> bytes:
    """What qemu-img reads out of an image."""
    flat = path.with_suffix(".flat")
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, flat)
    return flat.read_bytes()


class Slow:
    """A reader of which nothing is ever warm, as of a file far away."""

    def __init__(self, below):
        self.below, self.size, self.revision = below, below.size, below.revision
        self.reads = []

    def warm(self, offset, length):
        return None

    async def pread(self, offset, length):
        self.reads.append((offset, length))
        assert offset >= 0
        assert 0 < length <= self.size - offset
        await trio.lowlevel.checkpoint()
        return await self.below.pread(offset, length)

    def facts(self):
        return self.below.facts()

    async def aclose(self):
        await self.below.aclose()


async def raw(path):
    return await InPlace.open(Locator("file", str(path)), revision_of(os.stat(path)))


async def opened(*paths, wrap=lambda reader: reader, last_is_raw=False):
    """Open a chain of files, the topmost first."""
    reader = None
    for number, path in enumerate(reversed(paths)):
        below = wrap(await raw(path))
        reader = (
            below if last_is_raw and not number else await Qcow2.open(below, reader, Revision(0))
        )
    return reader
