"""Taking new lists at once: ``POST /v1/refresh``, with ``{"path": ...}`` or nothing.

With a path in a marketplace or datastore only that one is asked, and the front-end for what it has
of that kind; the others stay as they are, and as old. While the whole is in trouble (see
``trouble`` in the status) all are asked all the same. A front-end that hangs is waited for as long
as `listing_deadline` says, and all together four times as long, as at the start; where a survey was
under way, that long for this one first.

The answer: ``refreshed`` (bool), ``trouble`` and ``kind`` (why not, and the name of the failure's
class), ``took`` (seconds), ``asked`` (``all``, or the path of the one that was asked), ``places``
as the status has them: all, or the one that the path is in, each with ``changes``, and ``gone``,
those that are not there any more. ``changes`` has ``added``, ``removed`` and ``changed``, lists of
``{"id", "name"}`` of apps, images or VMs, since the lists before.
"""

from __future__ import annotations

import trio

from nebfs.catalog import (
    DATASTORE,
    MARKETPLACE,
    Changes,
    CloudSnapshot,
    DatastoreListing,
    MarketplaceListing,
    Place,
    changes,
)
from nebfs.daemon.finding import path_of
from nebfs.daemon.status import Status
from nebfs.daemon.web import Reply, Request, Routes, as_json
from nebfs.daemon.wiring import House
from nebfs.errors import UserError
from nebfs.tree.walk import find

NO_PLACE = (
    "{path} is in no marketplace or datastore: name one of them, or something in it, or the mount "
    "point for all of them"
)


def routes(house: House, status: Status) -> Routes:
    """Return what takes new lists."""

    async def refresh(request: Request) -> Reply:
        path = request.json().get("path") or ""
        if not isinstance(path, str):
            raise UserError("a path is text")
        chosen, where = await _place_at(house, path)
        before = house.catalog.current
        began = trio.current_time()
        failure = await house.catalog.refresh(chosen, awaited=True)
        after = house.catalog.current
        found = (
            await trio.to_thread.run_sync(changes, before, after)
            if after is not None and failure is None
            else {}
        )
        places = [
            {**place, "changes": _told(found.get((str(place["kind"]), int(str(place["id"])))))}
            for place in status.places()
            if chosen in {None, (place["kind"], place["id"])}
        ]
        answer = {
            "refreshed": failure is None,
            "trouble": str(failure or ""),
            "kind": type(failure).__name__ if failure is not None else "",
            "took": trio.current_time() - began,
            "asked": where or "all",
            "places": places,
            "gone": _gone(before, after, chosen),
        }
        return as_json(answer)

    return {("POST", "/v1/refresh"): refresh}


async def _place_at(house: House, path: str) -> tuple[Place | None, str]:
    """Return the place that `path` is in and its path; None and nothing for the mount's root.

    What comes below the place is not looked for: it may be what somebody waits to see. Raises
    UserError for what is in no place, and Missing.
    """
    parts = [part for part in path.split("/") if part not in {"", "."}]
    for number in range(1, len(parts) + 1):
        node = await find(house.tree, "/".join(parts[:number]))
        match house.tree.listing_of(node):
            case MarketplaceListing() as listing:
                return (MARKETPLACE, listing.marketplace.id), path_of(node)
            case DatastoreListing() as listing:
                return (DATASTORE, listing.datastore.id), path_of(node)
    if parts:
        raise UserError(NO_PLACE.format(path="/".join(parts)))
    return None, ""


def _told(found: Changes | None) -> dict[str, list[dict[str, object]]]:
    facts = found or Changes()
    return {
        "added": [{"id": number, "name": name} for number, name in facts.added],
        "removed": [{"id": number, "name": name} for number, name in facts.removed],
        "changed": [{"id": number, "name": name} for number, name in facts.changed],
    }


def _gone(
    before: CloudSnapshot | None, after: CloudSnapshot | None, chosen: Place | None
) -> list[dict[str, object]]:
    """Return the places that were there before, and are not."""
    old, new = _names(before), _names(after)
    return [
        {"kind": place[0], "id": place[1], "name": name}
        for place, name in old.items()
        if place not in new and chosen in {None, place}
    ]


def _names(snapshot: CloudSnapshot | None) -> dict[Place, str]:
    if snapshot is None:
        return {}
    markets = {(MARKETPLACE, m.marketplace.id): m.marketplace.name for m in snapshot.marketplaces}
    return markets | {(DATASTORE, d.datastore.id): d.datastore.name for d in snapshot.datastores}
