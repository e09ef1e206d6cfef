"""A qcow2 image: opened as it is and over another disk, and read."""

from __future__ import annotations

from functools import partial

import trio

from nebfs.content.formats import disk_flaw, disk_size
from nebfs.content.layers.qcow2 import Qcow2
from nebfs.model import Revision
from tests.promises.fuzzing.memory_file import MemoryFile, read_about

BENEATH = b"what is in the disk below. " * 2000


def one(data: bytes) -> None:
    """`data` is the image. What lies below is chosen by its length, so that both are tried."""
    disk_flaw(data[:1024])
    disk_size(data[:1024])
    trio.run(partial(_opened, data))


async def _opened(data: bytes) -> None:
    file = MemoryFile.of(data)
    beneath = MemoryFile.of(BENEATH) if len(data) & 1 else None
    try:
        reader = await Qcow2.open(file, beneath, Revision(0))
    except BaseException:
        assert file.closed
        raise
    try:
        await read_about(reader, len(data))
    finally:
        await reader.aclose()
    assert file.closed
