"""LOOK: which files are in snapshots of a restic repository.

Asked with JSON ``{"snapshots": [ID, ...], "options": {...}}``; the first eight digits of an id are
enough. Answered is ``{"snapshots": [...]}``: of each ``[errno, entries]``, and of an entry ``[name,
place, kind, size, etag, head, errno]``. The place is what is to follow the repository's address and
``/trees/``; the head are the first bytes (base64) of a disk that is a qcow2 image, the errno that
of reading them.

OpenNebula names the files of a backup one by one, so a snapshot's paths are those. One that is a
directory stands for the files in it.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import posixpath
import re

import structlog

from nebfs.errors import BadAnswer, Damaged, Missing, NebfsError, Unreachable, Unsupported
from nebfs.fetcher.messages import CallAnswer, CallRequest
from nebfs.fetcher.transports.restic_documents import Node, Snapshot
from nebfs.fetcher.transports.restic_files import etag_of
from nebfs.fetcher.transports.restic_index import IDENTITY
from nebfs.fetcher.transports.restic_places import Place, Repositories, options_of
from nebfs.fetcher.transports.restic_repository import Repository

log = structlog.get_logger()

MAX_SNAPSHOTS = 1024

MAX_FILES = 1024
"""Files of one snapshot: a VM has some tens of disks at most."""

HEAD = 4096
"""First bytes that are told: as datastores/entries.py says."""

PARALLEL = 4
"""Files whose first blob is read at a time: each is 1 MiB or so."""

_QCOW2 = b"QFI\xfb"
_SNAPSHOT = re.compile(r"[0-9a-f]{8,64}")
_DISK = re.compile(r"disk\.[0-9]{1,9}\.[0-9]{1,9}")

Entry = tuple[str, str, str, int, str, str, int]


class Looks:
    """Answers for the transport."""

    def __init__(self, repositories: Repositories) -> None:
        self._repositories = repositories

    async def answer(self, request: CallRequest) -> CallAnswer:
        """Answer a LOOK. Raises NebfsError when nothing can be known."""
        if request.method != "LOOK":
            raise Unsupported("repositories know no such method", method=request.method)
        try:
            asked = json.loads(request.body)
            names = [str(name) for name in asked["snapshots"]]
            place = Place(request.url, options_of(asked.get("options", {})))
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise BadAnswer("what is to be looked at is not understood") from exc
        if len(names) > MAX_SNAPSHOTS or not all(map(_SNAPSHOT.fullmatch, names)):
            raise BadAnswer("what is to be looked at is not understood")
        try:
            async with asyncio.timeout(request.timeout):
                repository = await self._repositories.at(place)
                told = await _Looking(repository).told(names)
        except TimeoutError as exc:
            raise Unreachable("no answer in time", after=request.timeout) from exc
        body = json.dumps({"snapshots": told}).encode()
        if len(body) > request.max_body:
            raise BadAnswer("the answer is too long", bytes=len(body))
        return CallAnswer(200, (("Content-Type", "application/json"),), body)


class _Looking:
    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._trees: dict[bytes, dict[str, Node]] = {}
        self._gate = asyncio.Semaphore(PARALLEL)

    async def told(self, names: list[str]) -> list[tuple[int, list[Entry]]]:
        """Look at each of the snapshots; what is wrong with one alone is its own answer."""
        # In this order: what a snapshot needs was in an index before it.
        found = await self._repository.snapshots(names)
        await self._repository.ready()
        told: list[tuple[int, list[Entry]]] = []
        for name in names:
            snapshot = found[name]
            try:
                if isinstance(snapshot, NebfsError):
                    raise snapshot
                told.append((0, await self._entries(snapshot)))
            except (Missing, BadAnswer, Damaged, Unsupported) as exc:
                told.append((exc.errno, []))
            self._trees.clear()  # two snapshots have nothing but small ones in common
        return told

    async def _entries(self, snapshot: Snapshot) -> list[Entry]:
        files: dict[str, tuple[bytes, Node]] = {}
        for path in snapshot.paths:
            tree, node = await self._walk(snapshot.tree, path)
            if node is not None and node.kind == "directory":
                for name, inside in (await self._tree(node.subtree)).items():
                    files.setdefault(name, (node.subtree, inside))
            elif node is not None:
                files.setdefault(posixpath.basename(path), (tree, node))
        if len(files) > MAX_FILES:
            raise BadAnswer("a snapshot has too many files", limit=MAX_FILES)
        tasks = [
            asyncio.create_task(self._entry(name, tree, node))
            for name, (tree, node) in files.items()
        ]
        try:
            return [await task for task in tasks]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _walk(self, root: bytes, path: str) -> tuple[bytes, Node | None]:
        """Return what is at `path`, and the tree that it is in."""
        tree, node = root, Node("directory", subtree=root)
        for name in path.strip("/").split("/"):
            if node.kind != "directory":
                return tree, None
            tree = node.subtree
            found = (await self._tree(tree)).get(name)
            if found is None:
                return tree, None
            node = found
        return tree, node

    async def _tree(self, identity: bytes) -> dict[str, Node]:
        if identity not in self._trees:
            self._trees[identity] = await self._repository.tree(identity)
        return self._trees[identity]

    async def _entry(self, name: str, tree: bytes, node: Node) -> Entry:
        head, failed = b"", 0
        if node.content and _DISK.fullmatch(name):
            try:
                async with self._gate:
                    head = (await self._repository.blob(node.content[:IDENTITY]))[:HEAD]
            except (Missing, BadAnswer, Damaged) as exc:
                failed = errno.EIO
                log.warning("restic.disk_unreadable", file=name, reason=str(exc))
        told = base64.b64encode(head.rstrip(b"\0")).decode() if head.startswith(_QCOW2) else ""
        return (
            name,
            f"{tree.hex()}/{name}",
            node.kind,
            node.size,
            etag_of(node.content),
            told,
            failed,
        )
