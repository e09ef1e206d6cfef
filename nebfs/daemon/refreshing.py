"""Taking new lists at once: ``POST /v1/refresh``, with ``{"path": ...}`` or nothing.

The answer: ``refreshed`` (bool), ``trouble`` and ``kind`` (why not, and the name of the failure's
class), ``took`` (seconds), ``places`` as the status has them: all, or the one that the path is in.

The lists of all places are taken together, each from its place at the same time as the others: one
place alone would not be had sooner, so a path only chooses what is told.
"""

from __future__ import annotations

import trio

from nebfs.catalog.snapshot import DatastoreListing, MarketplaceListing
from nebfs.daemon.status import Status
from nebfs.daemon.web import Reply, Request, Routes, as_json
from nebfs.daemon.wiring import House
from nebfs.errors import UserError
from nebfs.tree import Node
from nebfs.tree.walk import find


def routes(house: House, status: Status) -> Routes:
    """Return what takes new lists."""

    async def refresh(request: Request) -> Reply:
        path = request.json().get("path") or ""
        if not isinstance(path, str):
            raise UserError("a path is text")
        chosen = await _place_at(house, path)
        began = trio.current_time()
        failure = await house.catalog.refresh()
        return as_json(
            {
                "refreshed": failure is None,
                "trouble": str(failure or ""),
                "kind": type(failure).__name__ if failure is not None else "",
                "took": trio.current_time() - began,
                "places": [
                    place
                    for place in status.places()
                    if chosen is None or (place["kind"], place["name"]) == chosen
                ],
            }
        )

    return {("POST", "/v1/refresh"): refresh}


async def _place_at(house: House, path: str) -> tuple[str, str] | None:
    """Return the kind and name of the place that `path` is in; None for what is above places."""
    if not path.strip("/."):
        return None
    node: Node | None = await find(house.tree, path)
    while node is not None:
        match house.tree.listing_of(node):
            case MarketplaceListing() as listing:
                return "marketplace", listing.marketplace.name
            case DatastoreListing() as listing:
                return "datastore", listing.datastore.name
        node = node.parent
    return None
