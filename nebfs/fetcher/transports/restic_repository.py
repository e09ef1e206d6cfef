"""One restic repository, unlocked: its snapshots, its trees, its blobs. asyncio.

A blob is brought once however many wait for it, and neighbours in a pack come with one read. What
is not where the index says is looked for again in a newer one: pruning moves blobs to other packs,
and a backup that was made meanwhile has an index of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import structlog
from cachetools import LRUCache

from nebfs.errors import BadAnswer, Damaged, Missing, NebfsError, Unsupported
from nebfs.fetcher.transports import restic_documents as documents
from nebfs.fetcher.transports.rbd_threads import Threads
from nebfs.fetcher.transports.restic_documents import Node, Snapshot
from nebfs.fetcher.transports.restic_index import Index, Part, Spot
from nebfs.fetcher.transports.restic_sealing import SEAL, Keys, opened, unpacked
from nebfs.fetcher.transports.restic_stores import Store, path_of

log = structlog.get_logger()

T = TypeVar("T")

KEPT_BLOBS = 128 << 20
"""Bytes of opened blobs that are kept, of all repositories: a hundred or so, for what is read next
is mostly in the blob that was read last."""

TOGETHER = 4 << 20
"""Bytes that are read from a pack at once: enough for a far place, and what is wanted first is not
late."""

MAX_TREE = 256 << 20
"""Bytes of one tree: the entries of 4 TiB of disks."""

SMALL, LARGE = 1 << 20, 128 << 20
"""Bytes of a snapshot's or configuration's file, and of an index's: restic ends those at 8 MiB."""

INDEXES = 4
"""Index files that are read at a time."""

FRESH = 1.0
"""Seconds between two looks for a newer index, however much is not found meanwhile."""

Blobs = LRUCache[tuple[str, bytes], bytes]
"""Opened blobs, by the address of their repository and their SHA-256."""

Begun = bytes | asyncio.Task[dict[bytes, bytes | NebfsError]] | None
"""A blob that is there, or is being brought; None: the index does not know it."""


class Cpu:
    """Runs what takes the processor for long, in threads: the loop goes on meanwhile."""

    def __init__(self, limit: int = 2, patience: float = 120.0) -> None:
        """`patience`, in seconds, is for work and its turn: a slow machine under load."""
        self._threads = Threads(limit, "this machine's processors do not get to it")
        self._patience = patience

    async def run(self, work: Callable[[], T]) -> T:
        """Return what `work` returns; raise what it raises, or Unreachable."""
        return await self._threads.run(work, within=self._patience)


class Repository:
    """Owned by the pool of repositories."""

    def __init__(self, address: str, store: Store, keys: Keys, blobs: Blobs, cpu: Cpu) -> None:
        """`blobs` is where opened blobs are kept, and may be shared with other repositories."""
        self._address = address
        self._store = store
        self._keys = keys
        self._blobs = blobs
        self._cpu = cpu
        self._loop = asyncio.get_running_loop()
        self._index: Index | None = None
        self._looked = 0.0
        self._looking: asyncio.Task[Index] | None = None
        self._bringing: dict[bytes, asyncio.Task[dict[bytes, bytes | NebfsError]]] = {}
        self._running: set[asyncio.Task[object]] = set()

    @property
    def held(self) -> int:
        """Blobs in the index that is held."""
        return len(self._index) if self._index is not None else 0

    async def aclose(self) -> None:
        """Wait until nothing of it runs."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def ready(self) -> None:
        """Load the index, if that was not done. Raises NebfsError."""
        await self._known()

    async def snapshots(self, names: Iterable[str]) -> dict[str, Snapshot | NebfsError]:
        """Return the snapshots with these names, of which the first digits are enough.

        Raises what reading the list raises.
        """
        listed = await self._store.names("snapshots")
        found: dict[str, Snapshot | NebfsError] = {}
        for name in names:
            whole = [one for one in listed if one.startswith(name)]
            try:
                if not whole:
                    raise Missing("the snapshot is not in the repository", snapshot=name)
                if len(whole) > 1:
                    raise BadAnswer("several snapshots begin with this name", snapshot=name)
                text = await self._document("snapshots", whole[0], SMALL)
                found[name] = documents.read_snapshot(text)
            except (Missing, BadAnswer, Damaged, Unsupported) as exc:
                found[name] = exc
        return found

    async def tree(self, identity: bytes) -> dict[str, Node]:
        """Return the entries of a directory. Raises NebfsError."""
        text = await self._brought_again(identity, MAX_TREE)
        return await self._cpu.run(partial(documents.read_tree, text))

    async def sizes(self, identities: bytes) -> npt.NDArray[np.int64]:
        """Return the lengths of blobs; see Index.sizes. Raises NebfsError."""
        index = await self._known()
        try:
            return await self._cpu.run(partial(index.sizes, identities))
        except Missing:
            index = await self._newer(index)
            return await self._cpu.run(partial(index.sizes, identities))

    # --- blobs --------------------------------------------------------------------------------

    async def begin(self, identities: Sequence[bytes]) -> list[Begun]:
        """Have blobs of files brought, neighbours together; return what there is of each by now."""
        index = await self._known()
        begun: dict[bytes, Begun] = {}
        group: list[tuple[bytes, Spot]] = []

        def bring() -> None:
            if group:
                begun.update(dict.fromkeys((one for one, _ in group), self._bring(group.copy())))
                group.clear()

        for identity in dict.fromkeys(identities):
            known = self._blobs.get((self._address, identity))
            begun[identity] = known if known is not None else self._bringing.get(identity)
            if begun[identity] is not None or not (spots := index.spots(identity)):
                continue
            spot = spots[0]
            if group:
                last = group[-1][1]
                apart = (last.pack, last.stop) != (spot.pack, spot.offset)
                if apart or spot.stop - group[0][1].offset > TOGETHER:
                    bring()
            group.append((identity, spot))
        bring()
        return [begun[identity] for identity in identities]

    async def blob(self, identity: bytes, begun: Begun = None) -> bytes:
        """Return a blob of a file, which may have `begun` to be brought.

        Raises Missing, Damaged, and what its store raises.
        """
        if begun is None:
            (begun,) = await self.begin([identity])
        if isinstance(begun, bytes):
            return begun
        if begun is not None:
            # Many may wait for it; one that gives up does not take it from the others.
            found = (await asyncio.shield(begun))[identity]
            if isinstance(found, bytes):
                return found
            if not isinstance(found, (Missing, Damaged)):
                raise found
            # Elsewhere, perhaps, or whole elsewhere.
        return await self._brought_again(identity, documents.MAX_BLOB)

    def _bring(
        self, group: Sequence[tuple[bytes, Spot]]
    ) -> asyncio.Task[dict[bytes, bytes | NebfsError]]:
        task = self._loop.create_task(self._brought(group))
        self._running.add(task)
        for identity, _ in group:
            self._bringing[identity] = task

        def done(_: object) -> None:
            self._running.discard(task)
            for identity, _ in group:
                self._bringing.pop(identity, None)

        task.add_done_callback(done)
        return task

    async def _brought(
        self, group: Sequence[tuple[bytes, Spot]]
    ) -> dict[bytes, bytes | NebfsError]:
        """Read neighbours of one pack, and open each. A bad one leaves the others good."""
        first, last = group[0][1], group[-1][1]
        try:
            if max(max(spot.size, spot.length - SEAL) for _, spot in group) > documents.MAX_BLOB:
                raise BadAnswer("a blob of the repository is too large")
            sealed = await self._store.read(path_of(first.pack), first.offset, last.stop)
            found = await self._cpu.run(partial(_opened, self._keys, sealed, group))
        except NebfsError as exc:
            return dict.fromkeys((identity for identity, _ in group), exc)
        for identity, data in found.items():
            if isinstance(data, bytes):
                self._blobs[self._address, identity] = data
        return found

    async def _brought_again(self, identity: bytes, limit: int) -> bytes:
        """Bring one blob from wherever it is, by a newer index if need be; not to be kept."""
        index = await self._known()
        failure: NebfsError | None = None
        for newer in (False, True):
            if newer:
                index = await self._newer(index)
            for spot in index.spots(identity):
                if max(spot.size, spot.length - SEAL) > limit:
                    raise BadAnswer("a blob of the repository is too large", limit=limit)
                try:
                    sealed = await self._store.read(path_of(spot.pack), spot.offset, spot.stop)
                    return await self._cpu.run(
                        partial(opened, self._keys, sealed, identity, spot.size, packed=spot.packed)
                    )
                except (Missing, Damaged) as exc:
                    failure = exc
            if isinstance(failure, Damaged):
                raise failure
        what = "a part of the backup is not in its repository"
        raise Missing(what, blob=identity.hex()[:8]) from failure

    # --- the index ----------------------------------------------------------------------------

    async def _known(self) -> Index:
        return self._index if self._index is not None else await self._newer(None)

    async def _newer(self, known: Index | None) -> Index:
        """Return another index than the one that is known, if there is one by now."""
        if self._index is not None and self._index is not known:
            return self._index
        if self._looking is None:
            self._looking = self._loop.create_task(self._look())
            self._running.add(self._looking)
            self._looking.add_done_callback(self._looked_for)
        return await asyncio.shield(self._looking)

    def _looked_for(self, task: asyncio.Task[Index]) -> None:
        self._running.discard(task)
        self._looking = None
        if not task.cancelled():
            task.exception()  # perhaps nobody waits for it

    async def _look(self) -> Index:
        index = self._index or Index()
        if self._index is not None:
            await asyncio.sleep(self._looked + FRESH - self._loop.time())
        for _ in range(3):
            names = await self._store.names("index")
            gone, fresh = set(index.files) - names, sorted(names - set(index.files))
            try:
                parts = await self._parts(fresh)
            except Missing:
                continue  # it was replaced between the list and the read
            if parts or gone:
                index = await self._cpu.run(partial(index.changed, parts, gone))
            break
        else:
            raise BadAnswer("the repository's index does not stand still")
        self._index = index
        self._looked = self._loop.time()
        log.debug("restic.index", files=len(index.files), blobs=len(index))
        return index

    async def _parts(self, names: Sequence[str]) -> dict[str, Part]:
        gate = asyncio.Semaphore(INDEXES)

        async def one(name: str) -> Part:
            async with gate:
                text = await self._document("index", name, LARGE)
                return await self._cpu.run(lambda: Part(documents.read_index(text)))

        tasks = [asyncio.create_task(one(name)) for name in names]
        try:
            return dict(zip(names, await asyncio.gather(*tasks), strict=True))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _document(self, directory: str, name: str, limit: int) -> bytes:
        sealed = await self._store.load(f"{directory}/{name}", limit)
        return await self._cpu.run(partial(unpacked, self._keys, sealed, name, limit))


def _opened(
    keys: Keys, sealed: bytes, group: Sequence[tuple[bytes, Spot]]
) -> dict[bytes, bytes | NebfsError]:
    view = memoryview(sealed)
    start = group[0][1].offset
    found: dict[bytes, bytes | NebfsError] = {}
    for identity, spot in group:
        part = view[spot.offset - start : spot.stop - start]
        try:
            found[identity] = opened(keys, part, identity, spot.size, packed=spot.packed)
        except NebfsError as exc:
            found[identity] = exc
    return found
