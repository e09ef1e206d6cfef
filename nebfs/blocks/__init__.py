"""Disk: where cached blocks rest. Nothing else touches the cache directory.

What lives here: the on-disk cache (a sparse data file and a preallocated index per object, every
slot with its own checksum), its size limit and eviction, the same thing in memory for when the disk
is full or broken, and a few small named documents (the saved catalogue, remembered probes).

What does not: knowing where bytes come from. An order to fill slots is given by ``content``; the
fetcher process writes the bytes into a descriptor that it is handed.

Who may import it: ``content`` (objects), ``catalog`` and ``daemon`` (documents, the store itself).

Start reading in blockfile.py (one object), then store.py (all of them) and
diskstore.py (in a directory).

Concurrency: everything runs on the trio thread and is never preempted between awaits. Blocking disk
work goes to worker threads in three places, each marked: reading what the page cache does not hold,
punching holes, and opening or deleting files. A slot's life is
``absent -> (claimed) -> present -> proven``, and back to absent only through ``leaving``, which it
leaves when its bytes are gone from the disk: nobody can claim a slot whose hole is still to be
punched. One daemon owns a cache directory (flock), so no lock protects single slots.

Format on disk, version 1 (numbers little-endian)::

    CACHEDIR.TAG, VERSION, lock
    documents/NAME
    objects/ab/KEY.dat   sparse, st_size = the object's size, each slot at its own offset
    objects/ab/KEY.idx   preallocated: a header of 4096 bytes, then 16 bytes per slot

A slot is written as data first, index second, both without fsync: after ``kill -9`` the page cache
keeps that order; after a power cut a slot whose data was lost fails its checksum and is a miss.
Forgetting goes the other way round: the index first, the hole second.
"""

from nebfs.blocks.blockfile import SLOT_SIZE, BlockFile
from nebfs.blocks.diskstore import DiskStore
from nebfs.blocks.documents import Documents
from nebfs.blocks.store import MemoryStore, Store, StoreStatistics

__all__ = [
    "SLOT_SIZE",
    "BlockFile",
    "DiskStore",
    "Documents",
    "MemoryStore",
    "Store",
    "StoreStatistics",
]
