"""The cache of a running daemon: what is in it, which parts, and taking it out.

* ``GET /v1/cache``: ``kind``, ``directory``, ``limit``, ``used``, ``reserved`` (bytes), and
  ``objects``, a list of ``{"key", "source", "size", "cached", "disk" (bytes that it takes),
  "used" (seconds since the epoch), "verified" ("yes", "mismatch", or empty where it is not known),
  "open", "pinned"}``.
* ``GET /v1/cache/map?path=``: ``files``, a list of ``{"key", "source", "size", "cached", "ranges":
  [[start, stop], ...]}``, in bytes.
* ``POST /v1/cache/drop`` with ``{"paths": [...]}`` or ``{"all": true}``, and ``force``: ``dropped``
  (objects), ``bytes``, ``kept``, a list of ``{"key", "source", "reason"}``.
"""

from __future__ import annotations

import trio

from nebfs.blocks import SLOT_SIZE, BlockFile, DiskStore
from nebfs.blocks.blockfile import runs
from nebfs.blocks.resting import look
from nebfs.content.layers.here import TRANSPORTS
from nebfs.content.library import object_key
from nebfs.daemon.finding import File, image_at, path_in, paths_in
from nebfs.daemon.resting import records
from nebfs.daemon.web import Reply, Request, Routes, as_json
from nebfs.daemon.wiring import House
from nebfs.errors import NebfsError, UserError
from nebfs.tree import ContentFile


def routes(house: House) -> Routes:
    """Return what is asked about the cache."""

    async def cache(_: Request) -> Reply:
        store = house.store
        facts = {
            "kind": store.kind,
            "directory": str(store.directory) if isinstance(store, DiskStore) else "",
            "limit": store.limit,
            "used": store.used,
            "reserved": store.reserved,
            "objects": await listed(house),
        }
        return as_json(facts)

    async def parts(request: Request) -> Reply:
        path = path_in(request)
        image = await image_at(house, path)
        if image.unkept:
            raise UserError(f"{path}: {image.unkept}")
        return as_json({"path": path, "files": [await _parts(house, f) for f in image.files]})

    async def drop(request: Request) -> Reply:
        return as_json(await _dropped(house, request.json()))

    return {
        ("GET", "/v1/cache"): cache,
        ("GET", "/v1/cache/map"): parts,
        ("POST", "/v1/cache/drop"): drop,
    }


async def listed(house: House) -> list[dict[str, object]]:
    """Return all objects of the cache, of those that are open as they are at this moment."""
    store = house.store
    if isinstance(store, DiskStore):
        found = await trio.to_thread.run_sync(records, store.directory)
    else:
        found = [_of_memory(file) for file in store.open_files()]
    for one in found:
        one["pinned"] = one["key"] in store.pinned
        file = store.file_of(str(one["key"]))
        if file is not None:
            used = max(file.touched.values(), default=one["used"])
            one |= {"open": True, "cached": file.cached_bytes, "used": used}
    return found


def _of_memory(file: BlockFile) -> dict[str, object]:
    return {
        "key": file.key,
        "source": "",
        "size": file.size,
        "cached": file.cached_bytes,
        "disk": file.disk_bytes,
        "used": 0.0,
        "verified": "",
        "open": True,
        "pinned": False,
    }


async def _parts(house: House, file: File) -> dict[str, object]:
    key, size = file.key, file.revision.size
    opened = house.store.file_of(key)
    states = b""
    if opened is not None:
        states = opened.present()
    elif isinstance(house.store, DiskStore):
        resting = await trio.to_thread.run_sync(look, house.store.directory, key)
        states = b"" if resting is None else resting.states
    here = runs([slot for slot, state in enumerate(states) if state == 1])
    ranges = [[first * SLOT_SIZE, min(stop * SLOT_SIZE, size)] for first, stop in here]
    return {
        "key": key,
        "source": file.content.locator.shown,
        "size": size,
        "cached": sum(stop - start for start, stop in ranges),
        "ranges": ranges,
    }


async def _dropped(house: House, said: dict[str, object]) -> dict[str, object]:
    force = said.get("force") is True
    wanted: dict[str, str] = {}
    if said.get("all") is True:
        wanted = {str(one["key"]): str(one["source"]) for one in await listed(house)}
    else:
        for path in paths_in(said):
            for file in (await image_at(house, path)).files:
                wanted[file.key] = file.content.locator.shown
    gone: set[str] = set()
    kept = []
    freed = 0
    for key, source in wanted.items():
        try:
            freed += await house.store.discard(key, force=force)
            gone.add(key)
        except NebfsError as exc:
            kept.append({"key": key, "source": source, "reason": str(exc)})
    _forget_pages(house, gone)
    return {"dropped": len(gone), "bytes": freed, "kept": kept}


def _forget_pages(house: House, keys: set[str]) -> None:
    """Have the kernel drop what it has of these objects: whoever reads them has them fetched."""
    nodes = house.tree.inodes.nodes()
    house.tree.damaged(n for n in nodes if isinstance(n, ContentFile) and _is_of(n, keys))


def _is_of(node: ContentFile, keys: set[str]) -> bool:
    content, revision = node.content, node.revision
    if content is None or revision is None or content.locator.transport in TRANSPORTS:
        return False
    # Of what a view is made of is known by its files only: its pages are dropped with any of them.
    return bool(content.view) or object_key(content, revision) in keys
