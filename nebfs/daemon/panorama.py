"""What the dashboard shows: one look at everything, as a JSON object.

``status`` as in /v1/status, ``history`` as in /v1/history, ``now`` (seconds since the epoch), and

* ``servers``: ``name``, ``requests``, ``failures``, ``bytes``, ``latency`` (seconds) and ``rate``
  (bytes per second), or null;
* ``open``: objects of the cache that are open: ``key``, ``name``, ``source``, ``size``, ``cached``,
  ``fetching`` (blocks under way), ``blocks``, and their map: ``here``, a digit for each cell from 0
  (nothing of it is here) to 9 (all of it), and ``under_way``, the cells of which something is being
  fetched;
* ``objects``: what takes most of the cache, as in /v1/cache, with a ``name``; ``left_out`` counts
  the others.

Names are those of the files that were seen in the mount; empty where there was none yet.
"""

from __future__ import annotations

import time
from itertools import pairwise

import structlog
import trio

from nebfs.blocks import BlockFile
from nebfs.daemon.finding import path_of
from nebfs.daemon.history import History
from nebfs.daemon.objects import listed
from nebfs.daemon.status import Status
from nebfs.daemon.wiring import House
from nebfs.errors import NebfsError
from nebfs.tree import ContentFile

log = structlog.get_logger()

CELLS = 240
"""Of a map. Each stands for several blocks: a disk of 40 GiB has 327,680 of them."""

MOST_OPEN, MOST_OBJECTS = 50, 200
"""What a page can show. What takes most of the cache is shown first."""

MOST_NAMES = 20_000
"""Files whose names are looked at, in a thread: a tenth of a second."""

FRESH = 10.0
"""Seconds for which a look into the cache's directory is good."""

SHARE = 20
"""A look that took long is good for that many times as long: pages cost 5 % of a thread at most."""


class Panorama:
    """Looks at everything. Several pages share what is costly to see."""

    def __init__(self, house: House, status: Status, past: History) -> None:
        self._house = house
        self._status = status
        self._past = past
        self._looking = trio.Lock()
        self._again = 0.0
        self._objects: list[dict[str, object]] = []
        self._names: dict[str, str] = {}
        self._unknown: set[str] = set()

    async def seen(self) -> dict[str, object]:
        """Return everything as it is now."""
        async with self._looking:
            if trio.current_time() >= self._again:
                await self._look()
        opened = self._opened()
        return {
            "now": time.time(),
            "status": self._status.facts(),
            "history": self._past.told(),
            "servers": self._servers(),
            "open": opened[:MOST_OPEN],
            "open_left_out": max(0, len(opened) - MOST_OPEN),
            "objects": self._objects[:MOST_OBJECTS],
            "left_out": max(0, len(self._objects) - MOST_OBJECTS),
        }

    async def _look(self) -> None:
        began = trio.current_time()
        nodes = self._house.tree.inodes.nodes()
        files = [node for node in nodes if isinstance(node, ContentFile)]
        self._names = await trio.to_thread.run_sync(_names_of, files[:MOST_NAMES])
        try:
            found = await listed(self._house)
        except NebfsError as exc:  # the rest can still be shown
            log.info("dashboard.cache_unreadable", error=str(exc))
            found = []
        found.sort(key=lambda one: (_number(one["disk"]), _number(one["used"])), reverse=True)
        for one in found[:MOST_OBJECTS]:
            one["name"] = self._names.get(str(one["source"]), "")
        self._objects = found
        took = trio.current_time() - began
        self._again = trio.current_time() + max(FRESH, SHARE * took)

    def _opened(self) -> list[dict[str, object]]:
        store = self._house.store
        sources = {one["key"]: str(one["source"]) for one in self._objects}
        found = store.open_files()
        # What was read last comes first.
        found.sort(key=lambda file: max(file.touched.values(), default=0.0), reverse=True)
        keys = {file.key for file in found}
        if keys - sources.keys() - self._unknown:  # opened since: looked for once
            self._again = min(self._again, trio.current_time() + 1.0)
        self._unknown = keys - sources.keys()
        return [
            {
                "key": file.key,
                "name": self._names.get(sources.get(file.key, ""), ""),
                "source": sources.get(file.key, ""),
                "size": file.size,
                "cached": file.cached_bytes,
                "fetching": file.claimed.count(1),
                "blocks": file.slots,
                **map_of(file),
            }
            for file in found
        ]

    def _servers(self) -> list[dict[str, object]]:
        return [
            {
                "name": name,
                "requests": pace.requests,
                "failures": pace.failures,
                "bytes": pace.bytes,
                "latency": pace.latency or None,
                "rate": pace.rate if pace.measured else None,
            }
            for name, pace in sorted(self._house.library.paces().items())
            if pace.requests
        ]


def map_of(file: BlockFile) -> dict[str, object]:
    """Return which parts of an object are here, and which are under way."""
    states, claimed = file.present(), file.claimed
    cells = min(CELLS, file.slots)
    edges = [file.slots * cell // max(cells, 1) for cell in range(cells + 1)]
    here, under_way = [], []
    for cell, (first, stop) in enumerate(pairwise(edges)):
        count = states.count(1, first, stop)
        # Only what is whole is shown as whole, and only what is empty as empty.
        share = 9 if count == stop - first else min(8, -(-9 * count // (stop - first)))
        here.append(str(share))
        if claimed.count(1, first, stop):
            under_way.append(cell)
    return {"here": "".join(here), "under_way": under_way}


def _names_of(files: list[ContentFile]) -> dict[str, str]:
    """Return the paths of files in the mount, by where their bytes are."""
    names: dict[str, str] = {}
    for node in files:
        if node.content is not None:
            path = path_of(node)
            shown = node.content.locator.shown
            # The image itself rather than a view of it, or the same in the other face.
            if shown not in names or len(path) < len(names[shown]):
                names[shown] = path
    return names


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0
