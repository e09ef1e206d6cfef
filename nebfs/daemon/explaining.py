"""What the daemon says about one image: ``GET /v1/explain?path=...``.

The answer: ``path``, ``name``, ``view`` (``raw`` or empty), ``format``, ``size``, ``access``
(``random`` or ``sequential``), ``kept`` (why nothing of it is cached, or empty), ``open_files``,
``hits`` (reads of these that were answered at once), ``verified`` (``yes``, ``no``, ``mismatch``,
or empty where nothing was published), ``cached``, ``last_error``, ``profile``, and ``files``: of
each file that it is made of its ``key`` in the cache, ``source``, ``format``, ``transport``,
``size``, ``etag``, ``modified``, ``published`` (algorithms), ``open``, ``cached``, ``verified``,
``last_error``, ``latency`` (seconds) and ``rate`` (bytes per second) of its place, or null, and
``layers``, from the top down: ``name``, ``purpose``, ``counted``. Nothing is asked of its place,
and nothing is opened.
"""

from __future__ import annotations

from dataclasses import asdict

import trio

from nebfs.blocks import DiskStore
from nebfs.blocks.index import Verdict
from nebfs.blocks.resting import Resting, look
from nebfs.content.layers.here import TRANSPORTS
from nebfs.content.profiling import lineage
from nebfs.daemon.finding import File, Image, image_at, path_in
from nebfs.daemon.web import Reply, Request, Routes, as_json
from nebfs.daemon.wiring import House

VERDICTS = {Verdict.UNKNOWN: "no", Verdict.VERIFIED: "yes", Verdict.MISMATCH: "mismatch"}


def routes(house: House) -> Routes:
    """Return what is asked about single images."""

    async def explain(request: Request) -> Reply:
        path = path_in(request)
        return as_json({"path": path, **await explained(house, await image_at(house, path))})

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
        "size": revision.size,
        "access": "random" if revision.ranges else "sequential",
        "kept": image.unkept,
        "open_files": opened,
        "hits": hits,
        "verified": files[0]["verified"] if len(files) == 1 else "",
        "cached": sum(cached) if cached else None,
        "last_error": errors[0] if errors else "",
        "profile": "" if content.locator.transport in TRANSPORTS else lineage(content),
        "files": files,
    }


async def cached_of(house: House, file: File) -> int:
    """Return how many bytes of a file are in the cache, whether it is open or not."""
    facts = house.library.facts(file.content, file.revision)
    if facts is not None:
        return facts.cached
    resting = await _resting(house, file.key)
    return 0 if resting is None else resting.cached


async def _resting(house: House, key: str) -> Resting | None:
    if not isinstance(house.store, DiskStore):
        return None
    return await trio.to_thread.run_sync(look, house.store.directory, key)


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
        "verified": "no" if content.checksums else "",
        "last_error": "",
        "latency": pace.latency if pace is not None and pace.latency else None,
        "rate": pace.rate if pace is not None and measured else None,
        "layers": [],
    }
    if stack is not None:
        told |= {
            "cached": stack.facts.cached,
            "verified": stack.facts.verified,
            "last_error": stack.facts.last_error,
            "layers": [asdict(layer) for layer in stack.layers],
        }
    elif not file.is_here and not content.volatile:
        told["cached"] = 0
        resting = await _resting(house, key)
        if resting is not None:
            told["cached"] = resting.cached
            if content.checksums:
                told["verified"] = VERDICTS[resting.verdict]
    return told
