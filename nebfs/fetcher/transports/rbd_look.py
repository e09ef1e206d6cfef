"""LOOK: what the images of a pool and their snapshots are, for a listing. asyncio.

The question is ``{"door": {conf, keyring, user, monitors}, "images": [name, ...], "snapshots":
[[name of its image, name], ...]}`` about the pool ``rbd://CLUSTER/POOL``; the answer ``{"cluster":
id, "images": [image, ...], "snapshots": [image, ...]}`` in the same order. An image is ``{"name",
"size": bytes, "id", "modified", "created"}``, times in seconds since the epoch and 0 where they are
not known, or ``{"errno", "reason"}``.

When an image is reverted to a snapshot, OpenNebula gives the image that it was until then another
name, behind which it writes the snapshots that went with it: those of ``one-3`` may be in
``one-3-0:1``. So the name in a snapshot's answer may be another one than was asked for.
"""

from __future__ import annotations

import asyncio
import errno
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from nebfs.errors import BadAnswer, NebfsError, Refused, TimedOut, Unreachable, Unsupported
from nebfs.fetcher.messages import CallAnswer, CallRequest
from nebfs.fetcher.transports.rbd_clusters import Cluster, Clusters
from nebfs.fetcher.transports.rbd_handles import facts_of
from nebfs.fetcher.transports.rbd_places import Door, Place
from nebfs.fetcher.transports.rbd_threads import Threads

T = TypeVar("T")

AT_ONCE = 8
"""Images that are opened at a time: opening one is some five round trips and no work."""


class Looks:
    """Answers such questions."""

    def __init__(self, clusters: Clusters) -> None:
        self._clusters = clusters
        # Its own, so that a long listing keeps nobody from opening an image.
        self._threads = Threads(AT_ONCE)

    async def answer(self, request: CallRequest) -> CallAnswer:
        """Answer one. Raises NebfsError when nothing can be said about any image."""
        until = time.monotonic() + request.timeout
        place = Place.at(request.url)
        door, names, snapshots = _question(request)
        async with self._clusters.use(door) as cluster:
            # A pool that is not there is no image's trouble.
            await self._threads.run(
                lambda: _held(cluster, cluster.pool, place), within=_left(until)
            )
            places = [replace(place, image=name) for name in names]
            images = await self._images(cluster, places, until)
            _judge(images)
            found = await self._snapshots(cluster, place, snapshots, until)
        facts = {"cluster": cluster.id, "images": images, "snapshots": found}
        body = json.dumps(facts).encode()
        if len(body) > request.max_body:
            raise BadAnswer("the pool has too many images", most=request.max_body)
        return CallAnswer(200, (), body)

    async def _snapshots(
        self, cluster: Cluster, place: Place, snapshots: Sequence[tuple[str, str]], until: float
    ) -> list[dict[str, Any]]:
        """Look where they were made; those that are not there, where a revert has left them."""
        places = [replace(place, image=image, snapshot=name) for image, name in snapshots]
        found = await self._images(cluster, places, until)
        lost = [n for n, facts in enumerate(found) if facts.get("errno") == errno.ENOENT]
        if lost:
            names = await self._threads.run(
                lambda: _held(cluster, _names, cluster, place), within=_left(until)
            )
            moved = {n: to for n in lost if (to := _moved(places[n], names)) is not None}
            again = await self._images(cluster, list(moved.values()), until)
            for number, facts in zip(moved, again, strict=True):
                found[number] = facts
        return found

    async def _images(
        self, cluster: Cluster, places: Sequence[Place], until: float
    ) -> list[dict[str, Any]]:
        shares = [places[start::AT_ONCE] for start in range(min(AT_ONCE, len(places)))]

        async def ask(share: Sequence[Place]) -> list[dict[str, Any]]:
            return await self._threads.run(
                lambda: _held(cluster, _look_at, cluster, share, until), within=_left(until)
            )

        answers = await asyncio.gather(*(ask(share) for share in shares))
        images: list[dict[str, Any]] = [{}] * len(places)
        for start, share in enumerate(answers):
            images[start::AT_ONCE] = share
        return images


def _question(request: CallRequest) -> tuple[Door, list[str], list[tuple[str, str]]]:
    question = json.loads(request.body)
    if request.method != "LOOK":
        raise Unsupported("this transport is asked by LOOK alone", method=request.method)
    names = [str(name) for name in question["images"]]
    snapshots = [(str(image), str(name)) for image, name in question.get("snapshots", ())]
    return Door.of(question["door"]), names, snapshots


def _left(until: float) -> float:
    return max(0.0, until - time.monotonic())


def _held(cluster: Cluster, work: Callable[..., T], *arguments: Any) -> T:
    """Do something in a thread that holds the connection."""
    cluster.hold()
    try:
        return work(*arguments)
    finally:
        cluster.release()


def _look_at(cluster: Cluster, places: Sequence[Place], until: float) -> list[dict[str, Any]]:
    return [_look(cluster, place, until) for place in places]


def _names(cluster: Cluster, place: Place) -> list[str]:
    """Return the names of a pool's images. Raises NebfsError; blocks."""
    try:
        return list(cluster.binding.rbd.RBD().list(cluster.pool(place)))
    except cluster.binding.rbd.Error as exc:
        raise cluster.failure(exc, place) from exc


def _moved(snapshot: Place, names: Sequence[str]) -> Place | None:
    """Return where a revert has left a snapshot, if one of the pool's images has its name."""
    number = re.escape(snapshot.snapshot)
    left = re.compile(rf"{re.escape(snapshot.image)}-(?:[0-9]+:)*{number}(?::[0-9]+)*")
    found = next((name for name in sorted(names) if left.fullmatch(name)), None)
    return None if found is None else replace(snapshot, image=found)


def _look(cluster: Cluster, place: Place, until: float) -> dict[str, Any]:
    """Look at one image. Raises Unreachable; blocks."""
    if time.monotonic() > until:
        raise TimedOut("the pool could not be looked at in time", pool=place.pool)
    try:
        with cluster.open(place) as image:
            facts = facts_of(image, place.snapshot)
    except (Unreachable, TimedOut):
        raise
    except NebfsError as exc:
        return {"errno": exc.errno, "reason": exc.message}
    except cluster.binding.rbd.Error as exc:
        failure = cluster.failure(exc, place)
        if isinstance(failure, Unreachable):
            raise failure from exc
        return {"errno": failure.errno, "reason": failure.message}
    return {
        "name": place.image,
        "size": facts.size,
        "id": facts.revision.etag,
        "modified": facts.modified,
        "created": facts.created,
    }


def _judge(images: Sequence[dict[str, Any]]) -> None:
    """A user who may read no image at all may not read the pool: that is no image's trouble."""
    refused = [image for image in images if image.get("errno") == Refused.errno]
    if refused and len(refused) == len(images):
        raise Refused(refused[0]["reason"])
