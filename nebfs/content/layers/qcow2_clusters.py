"""Compressed clusters of qcow2 images. Source: QEMU's docs/interop/qcow2.txt.

A cluster is a raw deflate stream or a zstd frame of its own, and what follows it in its last
sectors belongs to others. It gives one cluster of bytes, or the image is damaged: no more is ever
unpacked, whatever it says about itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import zstandard
from isal import isal_zlib

from nebfs.errors import Damaged

SECTOR = 512

WINDOW = 27
"""Bits of the longest window that a zstd frame may ask memory for: 128 MiB, what zstd itself allows
without being told; a cluster has 2 MiB at most."""

Place = tuple[int, int]
"""Where the bytes of a compressed cluster are in the file: offset and length."""


def place_of(entry: int, cluster_bits: int, file_size: int) -> Place:
    """Read an L2 entry of a compressed cluster. Raises Damaged.

    The length is in sectors, the first of which the cluster begins in the middle of; the last one
    may be beyond the end of the file.
    """
    offset_bits = 62 - (cluster_bits - 8)
    offset = entry & ((1 << offset_bits) - 1)
    sectors = ((entry & ((1 << 62) - 1)) >> offset_bits) + 1
    length = min(sectors * SECTOR - offset % SECTOR, file_size - offset)
    if length <= 0:
        raise Damaged("a compressed cluster of the qcow2 image is beyond its end", at=offset)
    return offset, length


def unpacker(compression: str) -> Callable[[bytes | memoryview, int], bytes]:
    """Return what unpacks one cluster, given its bytes and its size. It raises Damaged."""
    return _zstd if compression == "zstd" else _deflate


def unpack_all(
    unpack: Callable[[bytes | memoryview, int], bytes], parts: Sequence[memoryview], size: int
) -> list[bytes]:
    """Unpack several clusters; made for a worker thread."""
    return [unpack(part, size) for part in parts]


def _deflate(data: bytes | memoryview, size: int) -> bytes:
    try:
        found = isal_zlib.decompressobj(wbits=-15).decompress(data, size)
    except isal_zlib.error as exc:  # type: ignore[misc]  # its stubs make it an instance
        raise Damaged("a compressed cluster of the qcow2 image cannot be unpacked") from exc
    return _whole(found, size)


_contexts = threading.local()


def _context() -> zstandard.ZstdDecompressor:
    """Return this thread's: making one takes as long as unpacking a cluster."""
    try:
        context: zstandard.ZstdDecompressor = _contexts.zstd
    except AttributeError:
        context = _contexts.zstd = zstandard.ZstdDecompressor(max_window_size=1 << WINDOW)
    return context


def _zstd(data: bytes | memoryview, size: int) -> bytes:
    try:
        context = _context()
        if zstandard.frame_content_size(data) == size:
            found = context.decompress(data)  # as long as the frame says, and no longer
        else:
            with context.stream_reader(data) as stream:
                found = stream.read(size)
    except (zstandard.ZstdError, MemoryError) as exc:
        raise Damaged("a compressed cluster of the qcow2 image cannot be unpacked") from exc
    return _whole(found, size)


def _whole(found: bytes, size: int) -> bytes:
    if len(found) != size:
        raise Damaged("a compressed cluster of the qcow2 image is too short", size=len(found))
    return bytes(found)
