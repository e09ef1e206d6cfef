"""LOOK: what the images of a pool are, for a listing. asyncio.

The question is ``{"door": {conf, keyring, user, monitors}, "images": [name, ...]}`` about the pool
``rbd://CLUSTER/POOL``; the answer ``{"cluster": id, "images": [image, ...]}`` in the same order. An
image is ``{"size": bytes, "id", "modified", "created"}``, times in seconds since the epoch and 0
where they are not known, or ``{"errno", "reason"}``.
"""

from __future__ import annotations

import asyncio
import json
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
        door, names = _question(request)
        async with self._clusters.use(door) as cluster:
            # A pool that is not there is no image's trouble.
            await self._threads.run(
                lambda: _held(cluster, cluster.pool, place), within=_left(until)
            )
            images = await self._images(cluster, place, names, until)
            _judge(images)
        body = json.dumps({"cluster": cluster.id, "images": images}).encode()
        if len(body) > request.max_body:
            raise BadAnswer("the pool has too many images", most=request.max_body)
        return CallAnswer(200, (), body)

    async def _images(
        self, cluster: Cluster, place: Place, names: Sequence[str], until: float
    ) -> list[dict[str, Any]]:
        shares = [names[start::AT_ONCE] for start in range(min(AT_ONCE, len(names)))]

        async def ask(share: Sequence[str]) -> list[dict[str, Any]]:
            return await self._threads.run(
                lambda: _held(cluster, _look_at, cluster, place, share, until), within=_left(until)
            )

        answers = await asyncio.gather(*(ask(share) for share in shares))
        images: list[dict[str, Any]] = [{}] * len(names)
        for start, share in enumerate(answers):
            images[start::AT_ONCE] = share
        return images


def _question(request: CallRequest) -> tuple[Door, list[str]]:
    question = json.loads(request.body)
    if request.method != "LOOK":
        raise Unsupported("this transport is asked by LOOK alone", method=request.method)
    return Door.of(question["door"]), [str(name) for name in question["images"]]


def _left(until: float) -> float:
    return max(0.0, until - time.monotonic())


def _held(cluster: Cluster, work: Callable[..., T], *arguments: Any) -> T:
    """Do something in a thread that holds the connection."""
    cluster.hold()
    try:
        return work(*arguments)
    finally:
        cluster.release()


def _look_at(
    cluster: Cluster, place: Place, names: Sequence[str], until: float
) -> list[dict[str, Any]]:
    return [_look(cluster, replace(place, image=name), until) for name in names]


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
        "size": facts.size,
        "id": facts.id,
        "modified": facts.modified,
        "created": facts.created,
    }


def _judge(images: Sequence[dict[str, Any]]) -> None:
    """A user who may read no image at all may not read the pool: that is no image's trouble."""
    refused = [image for image in images if image.get("errno") == Refused.errno]
    if refused and len(refused) == len(images):
        raise Refused(refused[0]["reason"])
