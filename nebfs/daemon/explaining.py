"""What the daemon says about one image: ``GET /v1/explain?path=...``.

The answer: ``path``, ``name``, ``view`` (``raw`` or empty), ``format``, ``size`` (null while it is
not known), ``access`` (``random`` or ``sequential``), ``kept`` (why nothing of it is cached, or
empty), ``open_files``, ``hits`` (reads of these that were answered at once), ``verified`` (``yes``,
``no``, ``mismatch``, or empty where nothing was published), ``cached``, ``last_error``,
``profile``, and ``files``: of each file that it is made of its ``key`` in the cache, ``source``,
``format``, ``transport``, ``size``, ``etag``, ``modified``, ``published`` (algorithms), ``open``,
``cached``, ``verified``, ``last_error``, ``latency`` (seconds) and ``rate`` (bytes per second) of
its place, or null, and ``layers``, from the top down: ``name``, ``purpose``, ``counted``.

``decompressed`` is the object that a compressed file is decompressed into, or null: ``key``,
``source``, ``compression``, ``size`` (null while it is not known), ``cached``, ``frontier`` (bytes
from its beginning that are decompressed), ``open``, ``last_error`` and ``layers``, which lie above
those of the file. ``unpacked`` is the object in which it is kept what was unpacked of compressed
clusters, or null where nothing is: ``key``, ``source``, ``size``, ``cached``. Nothing is asked of
its place, and nothing is opened.
"""

from __future__ import annotations

from dataclasses import asdict

from nebfs.content.decodings import Decompressed
from nebfs.content.explaining import explained_decoding
from nebfs.content.layers.here import TRANSPORTS
from nebfs.content.profiling import lineage
from nebfs.daemon.finding import File, Image, image_at, path_in
from nebfs.daemon.here import bytes_of, ranges_of, size_of, verdict_of
from nebfs.daemon.web import Reply, Request, Routes, as_json
from nebfs.daemon.wiring import House
from nebfs.model import Content


def routes(house: House) -> Routes:
    """Return what is asked about single images."""

    async def explain(request: Request) -> Reply:
        path = path_in(request)
        image = await image_at(house, path, unready=True)
        return as_json({"path": path, **await explained(house, image)})

    return {("GET", "/v1/explain"): explain}


async def explained(house: House, image: Image) -> dict[str, object]:
    """Return what is known of an image."""
    content, revision = image.content, image.revision
    files = [await _file(house, file) for file in image.files]
    probed = house.prober.known(content)
    opened, hits = house.operations.handles.use_of(content)
    errors = [str(file["last_error"]) for file in files if file["last_error"]]
    cached = [file["cached"] for file in files if isinstance(file["cached"], int)]
    return {
        "name": image.node.name,
        "view": content.view,
        "format": probed.format.extension if probed is not None else content.format,
        "size": image.size,
        "access": "random" if revision.ranges else "sequential",
        "kept": image.unkept,
        "open_files": opened,
        "hits": hits,
        "verified": files[0]["verified"] if len(files) == 1 else "",
        "cached": sum(cached) if cached else None,
        "last_error": errors[0] if errors else "",
        "profile": "" if content.locator.transport in TRANSPORTS else lineage(content),
        "files": files,
        "decompressed": await _decompressed(house, image.decompressed),
        "unpacked": await _unpacked(house, content),
    }


async def _unpacked(house: House, view: Content) -> dict[str, object] | None:
    kept = house.library.unpackings.of(view)
    cached = 0 if kept is None else await bytes_of(house, kept.key)
    return None if kept is None or not cached else {**asdict(kept), "cached": cached}


async def _decompressed(house: House, one: Decompressed | None) -> dict[str, object] | None:
    if one is None:
        return None
    size, decoding = await size_of(house, one), one.decoding
    told: dict[str, object] = {
        "key": one.key,
        "source": one.source,
        "compression": one.compression,
        "size": size,
        "cached": await bytes_of(house, one.key),
        "open": decoding is not None,
        "last_error": "",
        "layers": [],
    }
    if decoding is None:
        ranges = await ranges_of(house, one.key)
        return {**told, "frontier": ranges[0][1] if ranges and not ranges[0][0] else 0}
    failure = decoding.passing.failure
    return {
        **told,
        "frontier": decoding.frontier,
        "last_error": str(failure or ""),
        "layers": [asdict(explained_decoding(decoding))],
    }


async def _file(house: House, file: File) -> dict[str, object]:
    content, revision = file.content, file.revision
    key = file.key
    stack = house.library.explained(content, revision)
    probed = house.prober.known(content)
    pace = house.library.pace(content)
    measured = pace is not None and pace.measured
    told: dict[str, object] = {
        "key": key,
        "source": content.locator.shown,
        "format": probed.format.extension if probed is not None else content.format,
        "transport": content.locator.transport,
        "size": revision.size,
        "etag": revision.etag,
        "modified": revision.modified,
        "published": [checksum.algorithm for checksum in content.checksums],
        "open": stack is not None,
        "cached": None,
        "verified": await verdict_of(house, file),
        "last_error": "",
        "latency": pace.latency if pace is not None and pace.latency else None,
        "rate": pace.rate if pace is not None and measured else None,
        "layers": [],
    }
    if stack is not None:
        told |= {
            "cached": stack.facts.cached,
            "last_error": stack.facts.last_error,
            "layers": [asdict(layer) for layer in stack.layers],
        }
    elif not file.is_here and not content.volatile:
        told["cached"] = await bytes_of(house, key)
    return told
