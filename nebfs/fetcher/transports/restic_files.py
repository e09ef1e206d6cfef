"""Files in restic repositories as bytes: which blobs a range is in. asyncio.

A file is a list of blobs, of which a read needs those that it touches. The list comes with the
directory's tree; the lengths of the blobs, and so where each begins, are in the index.
"""

from __future__ import annotations

import asyncio
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
"""Bytes of lists of blobs that are kept: 40 for each blob, so those of 4 TiB of disks. One file may
have half of them."""


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
    revision: Revision
    """It is named by what is in it."""

    @classmethod
    def of(cls, node: Node, sizes: npt.NDArray[np.int64]) -> File:
        """Make one of blobs of these lengths. Raises Damaged. Slow."""
        ends: npt.NDArray[np.int64] = np.cumsum(sizes)
        if (int(ends[-1]) if len(ends) else 0) != node.size:
            raise Damaged("the parts of a file in the backup do not add up to it")
        return cls(node.content, ends, Revision(node.size, etag=etag_of(node.content)))

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
        self._making: dict[tuple[str, bytes, str], asyncio.Task[File]] = {}
        self._kept: LRUCache[tuple[str, bytes, str], File] = LRUCache(
            KEPT, getsizeof=lambda file: 40 * len(file.ends) + 200
        )

    async def at(self, place: FilePlace) -> tuple[Repository, File]:
        """Return a file and its repository. Raises Missing, Damaged, and what reading raises."""
        repository = await self._repositories.at(place.repository)
        key = place.repository.address, place.tree, place.name
        known = self._kept.get(key)
        if known is not None:
            return repository, known
        making = self._making.get(key)
        if making is None:
            making = self._making[key] = asyncio.create_task(self._made(repository, place))
            making.add_done_callback(partial(self._done, key))
        # Many may wait for it; one that gives up does not take it from the others.
        return repository, await asyncio.shield(making)

    async def aclose(self) -> None:
        """Wait until nothing of it runs."""
        making = list(self._making.values())
        for task in making:
            task.cancel()
        await asyncio.gather(*making, return_exceptions=True)

    def _done(self, key: tuple[str, bytes, str], task: asyncio.Task[File]) -> None:
        del self._making[key]
        if not task.cancelled() and task.exception() is None:  # perhaps nobody waits for it
            self._kept[key] = task.result()

    async def _made(self, repository: Repository, place: FilePlace) -> File:
        node = (await repository.tree(place.tree)).get(place.name)
        if node is None or node.kind != "file":
            raise Missing("there is no such file in the backup")
        if 40 * (len(node.content) // IDENTITY) > KEPT // 2:
            raise Unsupported("a file of the backup has too many parts", bytes=node.size)
        sizes = await repository.sizes(node.content)
        return await self._repositories.cpu.run(partial(File.of, node, sizes))
