"""Files in restic repositories as bytes: which blobs a range is in. asyncio.

A file is a list of blobs, of which a read needs those that it touches. The list comes with the
directory's tree; the lengths of the blobs, and so where each begins, are in the index.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from cachetools import LRUCache

from nebfs.errors import Damaged, Missing, Unsupported
from nebfs.fetcher.transports.restic_documents import Node
from nebfs.fetcher.transports.restic_index import IDENTITY
from nebfs.fetcher.transports.restic_places import FilePlace, Repositories
from nebfs.fetcher.transports.restic_repository import Repository
from nebfs.model import Revision

KEPT = 192 << 20
"""Bytes of lists of blobs that are kept: 40 for each blob, so those of 4 TiB of disks."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The bytes [start, stop) of a blob."""

    identity: bytes
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class File:
    """The blobs of one file."""

    identities: bytes
    ends: npt.NDArray[np.int64]
    """Of each blob, the offset behind it."""

    @property
    def revision(self) -> Revision:
        """Its version: it is named by what is in it."""
        size = int(self.ends[-1]) if len(self.ends) else 0
        return Revision(size, etag=etag_of(self.identities))

    def cuts(self, start: int, stop: int) -> Iterator[Cut]:
        """Give what of which blobs the bytes [start, stop) are, which are within the file."""
        number = bisect.bisect_right(self.ends, start)
        while start < stop:
            end = int(self.ends[number])
            begin = int(self.ends[number - 1]) if number else 0
            until = min(end, stop)
            identity = self.identities[number * IDENTITY : (number + 1) * IDENTITY]
            yield Cut(identity, start - begin, until - begin)
            start, number = until, number + 1


def etag_of(identities: bytes) -> str:
    """Return what tells a file from all others: a digest of its blobs' names."""
    return hashlib.sha256(identities).hexdigest()[:32]


class Files:
    """The files that are read now, and were a while ago."""

    def __init__(self, repositories: Repositories) -> None:
        self._repositories = repositories
        self._kept: LRUCache[tuple[str, bytes, str], File] = LRUCache(
            KEPT, getsizeof=lambda file: 40 * len(file.ends) + 200
        )

    async def at(self, place: FilePlace) -> tuple[Repository, File]:
        """Return a file and its repository. Raises Missing, Damaged, and what reading raises."""
        repository = await self._repositories.at(place.repository)
        key = place.repository.address, place.tree, place.name
        file = self._kept.get(key)
        if file is None:
            node = (await repository.tree(place.tree)).get(place.name)
            if node is None or node.kind != "file":
                raise Missing("there is no such file in the backup")
            file = await self._file(repository, node)
            self._kept[key] = file
        return repository, file

    async def _file(self, repository: Repository, node: Node) -> File:
        if 40 * (len(node.content) // IDENTITY) > KEPT // 2:
            raise Unsupported("a file of the backup has too many parts", bytes=node.size)
        sizes = await repository.sizes(node.content)
        ends: npt.NDArray[np.int64] = await self._repositories.cpu.run(partial(np.cumsum, sizes))
        if (int(ends[-1]) if len(ends) else 0) != node.size:
            raise Damaged("the parts of a file in the backup do not add up to it")
        return File(node.content, ends)
