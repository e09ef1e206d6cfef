"""Pinning images: they stay in the cache until they are unpinned.

* ``GET /v1/pins``: ``pins``, a list of ``{"key", "path", "source", "size", "cached"}``, ``limit``
  (bytes that pins may take together).
* ``POST /v1/pin`` with ``{"paths": [...]}``: ``pinned``, the same list of what is pinned now.
* ``POST /v1/unpin`` with ``{"paths": [...]}`` or ``{"all": true}``: ``unpinned``, that list of what
  was. A path need not be there any more.

Of a raw view of a compressed file both are pinned: the file, and what it is decompressed into.
"""

from __future__ import annotations

from dataclasses import asdict

from nebfs.daemon.finding import image_at, path_of, paths_in
from nebfs.daemon.here import bytes_of, cached_of, size_of
from nebfs.daemon.pins import SHARE, Pin
from nebfs.daemon.web import Reply, Request, Routes, as_json
from nebfs.daemon.wiring import House
from nebfs.errors import NebfsError, Unready, UserError


def routes(house: House) -> Routes:
    """Return what pins and unpins."""

    async def pins(_: Request) -> Reply:
        limit = int(house.store.limit * SHARE)
        return as_json({"pins": [asdict(pin) for pin in house.pins.all], "limit": limit})

    async def pin(request: Request) -> Reply:
        wanted = [one for path in paths_in(request.json()) for one in await _pins_of(house, path)]
        await house.pins.add(one for one, _ in wanted)
        return as_json({"pinned": [{**asdict(one), "cached": here} for one, here in wanted]})

    async def unpin(request: Request) -> Reply:
        said = request.json()
        if said.get("all") is True:
            keys = {one.key for one in house.pins.all}
        else:
            keys = set()
            for path in paths_in(said):
                keys |= await _keys_of(house, path)
        gone = await house.pins.remove(keys)
        return as_json({"unpinned": [asdict(one) for one in gone]})

    return {
        ("GET", "/v1/pins"): pins,
        ("POST", "/v1/pin"): pin,
        ("POST", "/v1/unpin"): unpin,
    }


async def _pins_of(house: House, path: str) -> list[tuple[Pin, int]]:
    """Return what is to be pinned for a path, and how much of it is here."""
    image = await image_at(house, path, fresh=True)
    if image.unkept:
        raise UserError(f"{path}: {image.unkept}")
    where = path_of(image.node)
    found = []
    for file in image.files:
        if not file.is_here:
            pin = Pin(file.key, where, file.content.locator.shown, file.revision.size)
            found.append((pin, await cached_of(house, file)))
    one = image.decompressed
    if one is not None:
        size = await size_of(house, one)
        if size is None:
            raise Unready(
                f"{image.node.name}: how long it is decompressed is known once that was done: "
                f"'nebfs warm' does that"
            )
        found.append((Pin(one.key, where, one.source, size), await bytes_of(house, one.key)))
    return found


async def _keys_of(house: House, path: str) -> set[str]:
    """Return the pins that a path means: those that were made by it, and those of what is there."""
    where = "/".join(part for part in path.split("/") if part not in {"", "."})
    keys = {pin.key for pin in house.pins.all if pin.path == where}
    try:
        image = await image_at(house, path, unready=True)
    except NebfsError:
        if not keys:
            raise
        return keys
    return keys | image.keys
