"""Disks of which parts are compressed: where in the cache it is kept what was unpacked of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from nebfs.blocks import DiskStore, Store
from nebfs.content import views
from nebfs.content.layers.blockmap_reader import Mapped
from nebfs.content.layers.here import TRANSPORTS
from nebfs.content.layers.qcow2 import Qcow2
from nebfs.content.layers.readahead import ReadAhead
from nebfs.content.layers.unpacked import Unpacked
from nebfs.content.layers.verified import Verified
from nebfs.content.prober import Probed
from nebfs.content.stack import Reader
from nebfs.model import Content, Revision
from nebfs.units import GIB

SHOWN = " (unpacked)"
"""What follows the source of the topmost file where the object is shown."""

LARGEST = 64 * GIB
"""Bytes of the longest disk of which something is kept: for each 128 KiB of it, unpacked or not,
16 bytes are set aside on the disk and 10 in memory."""

METHOD = 1
"""To be another one should ever something else be unpacked: what was kept is left aside then."""


@dataclass(frozen=True, slots=True)
class UnpackedObject:
    """An object of the cache with what was unpacked of a disk. `size`: bytes of the disk."""

    key: str
    source: str
    size: int


class Unpackings:
    """Has what is unpacked of the disks of one library kept. What writes runs in `nursery`."""

    def __init__(
        self,
        store: Store,
        nursery: trio.Nursery,
        key_of: Callable[[Content, Revision], str],
        known: Callable[[Content], Probed | None],
    ) -> None:
        """`key_of` names a file in the cache, `known` tells what its place was found to have."""
        self._store = store
        self._nursery = nursery
        self._key_of = key_of
        self._known = known

    def of(self, view: Content) -> UnpackedObject | None:
        """Return the object for a raw view; None: there can be none, or too little is known.

        Of what others may write to nothing is kept, nor of what is read in place: its version is
        looked at with each read.
        """
        whole = self._known(view) if view.view and not view.volatile else None
        if whole is None or not 0 < whole.revision.size <= LARGEST:
            return None
        facts: list[object] = [METHOD, whole.revision.size, whole.revision.etag]
        files = views.files(view)
        for file in files:
            probed = self._known(file)
            if probed is None or probed.format.compression or file.volatile:
                return None
            if file.locator.transport in TRANSPORTS:
                return None
            kind = probed.format.name if probed.inside is None else probed.inside.kind
            facts.append((self._key_of(file, probed.revision), kind))
        key = hashlib.sha256(repr(facts).encode("utf-8", "surrogatepass")).hexdigest()
        return UnpackedObject(key, files[0].locator.shown + SHOWN, whole.revision.size)

    async def over(self, reader: Reader, view: Content, files: Sequence[Reader]) -> Reader:
        """Return a reader that keeps what `reader` unpacks, the disk in a raw view made of `files`:
        where that can be. It owns `reader`, also if it fails.
        """
        if not isinstance(self._store, DiskStore) or not isinstance(reader, (Qcow2, Mapped)):
            return reader
        kept = self.of(view)
        if kept is None or not reader.packs or kept.size != reader.size:
            return reader
        tops = [file.below for file in files if isinstance(file, ReadAhead)]
        published = [top for top in tops if isinstance(top, Verified)]
        unpacked = Unpacked(reader, self._store, self._nursery, kept.key, kept.source, published)
        await unpacked.open()
        return unpacked
