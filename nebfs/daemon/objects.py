"""The cache of a running daemon: what is in it, which parts, and taking it out.

* ``GET /v1/cache``: ``kind``, ``directory``, ``limit``, ``used``, ``reserved`` (bytes), and
  ``objects``, a list of ``{"key", "source", "size", "cached", "disk" (bytes that it takes),
  "used" (seconds since the epoch), "verified" ("yes", "mismatch", or empty where it is not known),
  "decompressed", "open", "pinned", "measured"}``. What is decompressed is an object of its own
  beside the compressed one: its source ends in "(decompressed)", and ``measured`` is false while
  its size is a guess.
* ``GET /v1/cache/map?path=``: ``files``, a list of ``{"key", "source", "size", "cached", "ranges":
  [[start, stop], ...]}``, in bytes; what is decompressed, if anything is, comes first.
  What was unpacked of compressed clusters is an object, too: its source ends in "(unpacked)".
* ``POST /v1/cache/drop`` with ``{"paths": [...]}`` or ``{"all": true}``, and ``force``: ``dropped``
  (objects), ``bytes``, ``kept``, a list of ``{"key", "source", "reason"}``.
"""

from __future__ import annotations

import trio

from nebfs.blocks import BlockFile, DiskStore
from nebfs.content.layers.here import TRANSPORTS
from nebfs.content.library import object_key
from nebfs.content.unpackings import SHOWN
from nebfs.daemon.finding import image_at, path_in, paths_in
from nebfs.daemon.here import ranges_of, size_of
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
        image = await image_at(house, path, unready=True)
        if image.unkept:
            raise UserError(f"{path}: {image.unkept}")
        files = [
            await _parts(house, f.key, f.content.locator.shown, f.revision.size)
            for f in image.files
            if not f.is_here
        ]
        one = image.decompressed
        if one is not None:
            size = await size_of(house, one)
            files.insert(0, await _parts(house, one.key, one.source, size))
        return as_json({"path": path, "files": files})

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
        "measured": True,
        "cached": file.cached_bytes,
        "disk": file.disk_bytes,
        "used": 0.0,
        "verified": "",
        "decompressed": False,
        "open": True,
        "pinned": False,
    }


async def _parts(house: House, key: str, source: str, size: int | None) -> dict[str, object]:
    ranges = await ranges_of(house, key)
    return {
        "key": key,
        "source": source,
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
            image = await image_at(house, path, unready=True)
            wanted |= {file.key: file.content.locator.shown for file in image.files}
            if image.decompressed is not None:
                wanted[image.decompressed.key] = image.decompressed.source
        wanted |= await _unpacked_of(house, set(wanted.values()))
    gone: set[str] = set()
    kept = []
    freed = 0
    for key, source in wanted.items():
        try:
            freed += await house.store.discard(key, force=force)
            gone.add(key)
            house.library.decodings.forgive(key)
        except NebfsError as exc:
            kept.append({"key": key, "source": source, "reason": str(exc)})
    _forget_pages(house, gone)
    return {"dropped": len(gone), "bytes": freed, "kept": kept}


async def _unpacked_of(house: House, sources: set[str]) -> dict[str, str]:
    """Return the objects, by key, in which it is kept what was unpacked of files that are fetched
    anew.
    """
    found = {str(one["key"]): str(one["source"]) for one in await listed(house)}
    made = {f"{source}{SHOWN}" for source in sources}
    return {key: source for key, source in found.items() if source in made}


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
