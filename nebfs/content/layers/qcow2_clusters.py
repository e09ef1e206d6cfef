"""Compressed clusters of qcow2 images: where they are, and what unpacks them.

How they are brought and kept is in packed.py.
"""

from __future__ import annotations

from functools import partial
from typing import Final, TypeAlias

from nebfs.content.layers.packed import PackedBlocks, Place
from nebfs.content.layers.qcow2_header import Header
from nebfs.content.layers.unpacking import unpacker
from nebfs.content.stack import Reader
from nebfs.errors import Damaged

SECTOR: Final = 512

Clusters: TypeAlias = PackedBlocks[int]
"""By their entries in L2 tables."""


def clusters_of(file: Reader, header: Header) -> Clusters:
    """Return the compressed clusters of the image that `file` is."""
    size = 1 << header.cluster_bits
    place = partial(place_of, cluster_bits=header.cluster_bits, file_size=file.size)
    unpack = unpacker(header.compression)
    return PackedBlocks(file, size, place, lambda _, data: unpack(data, size))


def place_of(entry: int, cluster_bits: int, file_size: int) -> Place:
    """Read the L2 entry of a compressed cluster. Raises Damaged.

    The length counts sectors, beginning with the one that the cluster begins in. The last one may
    end after the file does.
    """
    offset_bits = 62 - (cluster_bits - 8)
    offset = entry & (1 << offset_bits) - 1
    sectors = ((entry & (1 << 62) - 1) >> offset_bits) + 1
    length = min(sectors * SECTOR - offset % SECTOR, file_size - offset)
    if length <= 0:
        raise Damaged("a compressed cluster of the qcow2 image is beyond its end", at=offset)
    return Place(offset, length)
