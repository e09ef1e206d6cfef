"""Where the blobs of a restic repository are: its index files, merged into one table. Pure.

A million blobs, which is 1 TiB of disks, are 60 MiB here; as Python's own objects they would be
five times as much. A table is never changed: a newer one takes its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nebfs.errors import BadAnswer, Missing, Unsupported
from nebfs.fetcher.transports.restic_documents import MAX_BLOB, Packed
from nebfs.fetcher.transports.restic_sealing import SEAL

IDENTITY = 32
"""Bytes of a SHA-256."""

MAX_BLOBS = 1 << 23
"""Blobs of one repository, and of all that are held at a time: 8 TiB of disks, 480 MiB here."""

_ROW = np.dtype(
    [("pack", "<u4"), ("offset", "<u4"), ("length", "<u4"), ("size", "<u4"), ("file", "<u4")]
)


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a blob is: `length` bytes at `offset` of a pack; it has `size` bytes when opened."""

    pack: bytes
    offset: int
    length: int
    size: int
    packed: bool
    """Whether it is compressed."""

    @property
    def stop(self) -> int:
        """The offset behind it."""
        return self.offset + self.length


class Part:
    """What one index file says."""

    def __init__(
        self, packs: Iterable[tuple[bytes, Sequence[Packed]]], room: int = MAX_BLOBS
    ) -> None:
        """Raises Unsupported for more than `room` blobs, and what reading `packs` raises."""
        names: list[bytes] = []
        identities: list[bytes] = []
        rows: list[tuple[int, int, int, int, int]] = []
        for name, blobs in packs:
            if len(rows) + len(blobs) > room:
                raise Unsupported("the index of the repository is too large", limit=MAX_BLOBS)
            for blob in blobs:
                identities.append(blob.identity)
                rows.append((len(names), blob.offset, blob.length, blob.size, 0))
            names.append(name)
        self.packs = tuple(names)
        self.identities = np.frombuffer(b"".join(identities), np.uint8).reshape(-1, IDENTITY)
        self.rows: npt.NDArray[np.void] = np.array(rows, _ROW)


class Index:
    """All of a repository's index files. `files` are their names."""

    def __init__(
        self,
        files: Sequence[str] = (),
        packs: Sequence[bytes] = (),
        identities: npt.NDArray[np.uint8] | None = None,
        rows: npt.NDArray[np.void] | None = None,
    ) -> None:
        """Rows in any order; each names its pack and its file by number."""
        self.files = tuple(files)
        self._packs = tuple(packs)
        found = np.empty((0, IDENTITY), np.uint8) if identities is None else identities
        keys = _keys(found)
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._identities = found[order]
        self._rows = np.empty(0, _ROW) if rows is None else rows[order]

    def __len__(self) -> int:
        return len(self._keys)

    def changed(self, parts: dict[str, Part], gone: set[str]) -> Index:
        """Return the table with the files in `parts`, and without those that are `gone`.

        Raises Unsupported when it is too large. Slow.
        """
        kept_files = [name for name in self.files if name not in gone]
        numbers = {name: number for number, name in enumerate(kept_files)}
        renumbered = np.array([numbers.get(name, -1) for name in self.files] or [-1], np.int64)
        files = renumbered[self._rows["file"]] if len(self) else np.empty(0, np.int64)
        stay = files >= 0
        rows = self._rows[stay].copy()
        rows["file"] = files[stay]
        packs = list(self._packs)
        all_rows, identities = [rows], [self._identities[stay]]
        for name, part in parts.items():
            more = part.rows.copy()
            more["pack"] += len(packs)
            more["file"] = len(kept_files)
            kept_files.append(name)
            packs += part.packs
            all_rows.append(more)
            identities.append(part.identities)
        merged = np.concatenate(all_rows)
        if len(merged) > MAX_BLOBS:
            raise Unsupported("the index of the repository is too large", limit=MAX_BLOBS)
        # Packs that nobody names any more go, or they would be more with every change.
        used, inverse = np.unique(merged["pack"], return_inverse=True)
        merged["pack"] = inverse.reshape(-1)
        return Index(kept_files, [packs[n] for n in used], np.concatenate(identities), merged)

    def spots(self, identity: bytes) -> list[Spot]:
        """Return where a blob is: in several packs, perhaps; nowhere, perhaps."""
        return [self._spot(row) for row in self._numbers(identity)]

    def sizes(self, identities: bytes) -> npt.NDArray[np.int64]:
        """Return the lengths of blobs, whose SHA-256 come one behind the other.

        Raises Missing when one of them is nowhere, or BadAnswer for a length that cannot be. Slow
        for many.
        """
        wanted = np.frombuffer(identities, np.uint8).reshape(-1, IDENTITY)
        if not len(wanted):
            return np.empty(0, np.int64)
        if not len(self):
            raise _missing(identities[:IDENTITY])
        at = np.minimum(np.searchsorted(self._keys, _keys(wanted)), len(self) - 1)
        for number in np.flatnonzero((self._identities[at] != wanted).any(axis=1)):
            # Its first eight bytes are those of another blob, or it is nowhere.
            identity = wanted[number].tobytes()
            found = self._numbers(identity)
            if not found:
                raise _missing(identity)
            at[number] = found[0]
        rows = self._rows[at]
        size, length = rows["size"].astype(np.int64), rows["length"].astype(np.int64)
        sizes: npt.NDArray[np.int64] = np.where(size > 0, size, length - SEAL)
        if sizes.min() < 1 or sizes.max() > MAX_BLOB:
            raise BadAnswer("a blob of the repository has an impossible length")
        return sizes

    def _numbers(self, identity: bytes) -> list[int]:
        key = int.from_bytes(identity[:8], "big")
        number = int(np.searchsorted(self._keys, np.uint64(key)))
        found = []
        while number < len(self) and int(self._keys[number]) == key:
            if self._identities[number].tobytes() == identity:
                found.append(number)
            number += 1
        return found

    def _spot(self, number: int) -> Spot:
        row = self._rows[number]
        length, size = int(row["length"]), int(row["size"])
        return Spot(
            self._packs[int(row["pack"])],
            int(row["offset"]),
            length,
            size or length - SEAL,
            packed=size > 0,
        )


def _keys(identities: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Return the first eight bytes of each as a number: they are as good as random."""
    first = np.ascontiguousarray(identities[:, :8])
    return first.view(">u8").reshape(-1).astype(np.uint64)


def _missing(identity: bytes) -> Missing:
    return Missing("a part of the backup is not in its repository", blob=identity.hex()[:8])
