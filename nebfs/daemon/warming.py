"""Bringing whole images into the cache: ``POST /v1/warm``.

Asked with ``{"paths": [...], "recursive": bool, "rate": bytes per second or null}``. The answer is
JSON lines, each with an ``event``:

* ``plan``: ``images``, ``size`` and ``here`` (bytes, of all), ``left_out`` (``path``, ``reason``);
* ``progress``: ``path``, ``number`` (from 1), ``stage`` (``fetching`` or ``decompressing``),
  ``size`` and ``here`` of this image, and ``total``, the bytes that are here of all;
* ``image``: one is here: ``path``, ``verified`` (``yes``, or empty where nothing was published),
  ``decompressed`` (bool), and ``total``;
* ``failed``: one is not: ``path``, ``reason``;
* ``end``: ``images`` that are here now, ``failed``.

Of a raw view of a compressed file that is brought, and then what it is decompressed into; both
count. Where the length of that is not known before, the compressed bytes that were passed through
stand for it. It ends when nobody listens any more. What has come stays.
"""

from __future__ import annotations

import math
from collections import deque
from contextlib import AsyncExitStack
from dataclasses import dataclass

from nebfs.blocks import DiskStore
from nebfs.content.decodings import Decompressed
from nebfs.content.filling import Budget
from nebfs.content.warming import Warming
from nebfs.daemon import jobs
from nebfs.daemon.finding import (
    File,
    Image,
    file_at,
    image_of,
    images_below,
    path_of,
    paths_in,
)
from nebfs.daemon.here import bytes_of, cached_of, size_of
from nebfs.daemon.web import Reply, Request, Routes, as_lines
from nebfs.daemon.wiring import House
from nebfs.errors import CacheFault, NebfsError, UserError
from nebfs.model import Content
from nebfs.tree import ContentFile
from nebfs.units import format_size

SLOWEST = 1024.0
"""Bytes per second: a rate below it is a slip of the pen."""

DIRECTORY = "{path} is a directory: name an image in it, or say -r for all of them"

FETCHING, DECOMPRESSING = "fetching", "decompressing"


@dataclass(slots=True)
class _Wanted:
    """One image and what it needs. `cached`: how much of each file is here, as of the last look.

    `view` is decompressed as well, if it is not None: into `length` bytes, or those of its file,
    while that is not `measured`; `made` of them are.
    """

    path: str
    files: tuple[File, ...]
    cached: list[int]
    view: Content | None = None
    key: str = ""
    length: int = 0
    measured: bool = True
    made: int = 0
    stage: str = FETCHING

    @property
    def here(self) -> int:
        return sum(self.cached) + self.made

    @property
    def size(self) -> int:
        return sum(file.revision.size for file in self.files) + self.length


def routes(house: House) -> Routes:
    """Return what brings images."""

    async def warm(request: Request) -> Reply:
        said = request.json()
        work = Work(house, rate_in(said))
        await work.prepare(paths_in(said), recursive=said.get("recursive") is True)
        return as_lines(jobs.done(house.nursery, work.run, work.news))

    return {("POST", "/v1/warm"): warm}


class Work:
    """Several images, one after the other."""

    def __init__(self, house: House, rate: float | None) -> None:
        self._house = house
        self._budget = None if rate is None else Budget(rate)
        self._images: list[_Wanted] = []
        self._left_out: list[dict[str, str]] = []
        self._news: deque[jobs.Told] = deque()
        self._now: tuple[int, _Wanted] | None = None
        self._failed = 0

    async def prepare(self, paths: list[str], *, recursive: bool) -> None:
        """Find out what is wanted and whether it can fit.

        Raises UserError when it cannot, and for what is no image.
        """
        for path in paths:
            if recursive:
                nodes, failed = await images_below(self._house, path)
                for node in nodes:
                    await self._want(node, alone=False)
                self._left_out += [{"path": at, "reason": str(exc)} for at, exc in failed]
            else:
                node = await file_at(self._house, path, DIRECTORY)
                await self._want(node, alone=True)
        self._check_room()
        plan: jobs.Told = {
            "event": "plan",
            "images": len(self._images),
            "size": sum(one.size for one in self._images),
            "here": sum(one.here for one in self._images),
            "left_out": self._left_out,
        }
        self._news.append(plan)

    async def _want(self, node: ContentFile, *, alone: bool) -> None:
        path = path_of(node)
        try:
            image = await image_of(self._house, node, fresh=True, unready=True)
        except NebfsError as exc:
            if alone:
                raise
            self._left_out.append({"path": path, "reason": str(exc)})
            return
        if image.unkept:
            self._left_out.append({"path": path, "reason": image.unkept})
            return
        files = tuple(f for f in image.files if not f.is_here)
        cached = [await cached_of(self._house, file) for file in files]
        wanted = _Wanted(path, files, cached)
        if image.decompressed is not None:
            await self._want_decompressed(wanted, image, image.decompressed)
        self._images.append(wanted)

    async def _want_decompressed(self, wanted: _Wanted, image: Image, one: Decompressed) -> None:
        size = await size_of(self._house, one)
        wanted.view, wanted.key = image.content, one.key
        wanted.measured = size is not None
        wanted.length = image.files[0].revision.size if size is None else size
        wanted.made = 0 if size is None else await bytes_of(self._house, one.key)

    def _check_room(self) -> None:
        sizes = {file.key: file.revision.size for one in self._images for file in one.files}
        sizes |= {one.key: one.length for one in self._images if one.view and one.measured}
        wanted, room = sum(sizes.values()), self._house.store.room(sizes)
        if wanted > room:
            raise UserError(
                f"that is {format_size(wanted)}, and the cache has room for {format_size(room)} at "
                f"most (limit {format_size(self._house.store.limit)}): name fewer images, or mount "
                f"with a larger cache_size"
            )

    async def run(self) -> None:
        """Bring one image after the other; one that fails does not keep the others away."""
        for number, wanted in enumerate(self._images, 1):
            self._now = number, wanted
            try:
                verified = await self._bring(wanted)
            except NebfsError as exc:
                self._failed += 1
                self._news.append({"event": "failed", "path": wanted.path, "reason": str(exc)})
            else:
                wanted.cached = [file.revision.size for file in wanted.files]
                wanted.made = wanted.length
                told = {
                    "path": wanted.path,
                    "verified": verified,
                    "decompressed": wanted.view is not None,
                    "total": self._total,
                }
                self._news.append({"event": "image", **told})
        self._now = None
        good = len(self._images) - self._failed
        self._news.append({"event": "end", "images": good, "failed": self._failed})

    async def _bring(self, wanted: _Wanted) -> str:
        verdicts = set()
        async with AsyncExitStack() as stack:
            for file in wanted.files:
                held = await stack.enter_async_context(
                    self._house.library.held(file.content, file.revision)
                )
                await Warming(
                    held.cached,
                    held.verified,
                    turns=held.turns,
                    patience=held.patience,
                    budget=self._budget,
                ).run()
                verdicts.add("" if held.verified is None else "yes")
            if wanted.view is not None:
                await self._decompress(wanted, wanted.view)
        return "yes" if verdicts == {"yes"} else ""

    async def _decompress(self, wanted: _Wanted, view: Content) -> None:
        """Have what is in a compressed file decompressed to its end."""
        if not isinstance(self._house.store, DiskStore):
            raise CacheFault("the cache disk cannot be used, so nothing can be kept")
        wanted.stage = DECOMPRESSING
        async with self._house.library.decodings.held(view) as decoding:
            await decoding.complete()

    @property
    def _total(self) -> int:
        return sum(one.here for one in self._images)

    def news(self) -> list[jobs.Told]:
        """Return what there is to tell since the last time."""
        told = list(self._news)
        self._news.clear()
        if self._now is not None:
            number, wanted = self._now
            for at, file in enumerate(wanted.files):
                facts = self._house.library.facts(file.content, file.revision)
                if facts is not None:
                    wanted.cached[at] = facts.cached
            self._look_at_decompressed(wanted)
            told.append(
                {
                    "event": "progress",
                    "path": wanted.path,
                    "number": number,
                    "stage": wanted.stage,
                    "size": wanted.size,
                    "here": wanted.here,
                    "total": self._total,
                }
            )
        return told

    def _look_at_decompressed(self, wanted: _Wanted) -> None:
        found = None if wanted.view is None else self._house.library.decodings.of(wanted.view)
        if found is None or found.decoding is None:
            return
        if wanted.measured:
            wanted.made = min(found.decoding.file.cached_bytes, wanted.length)
        elif found.decoding.passing.under_way:
            wanted.made = int(found.decoding.passing.progress * wanted.length)


def rate_in(said: dict[str, object]) -> float | None:
    """Return the rate that was asked for, in bytes per second, if any. Raises UserError."""
    rate = said.get("rate")
    if rate is None:
        return None
    if not isinstance(rate, (int, float)) or not SLOWEST <= rate < math.inf:
        raise UserError(f"the rate is bytes per second, {SLOWEST:.0f} at least")
    return float(rate)
