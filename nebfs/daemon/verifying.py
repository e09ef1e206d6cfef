"""Comparing a whole image with what was published about it: ``POST /v1/verify``, ``{"path": ...}``.

The answer is JSON lines: ``{"event": "progress", "size", "here"}`` (bytes that were compared), and
``{"event": "end", "algorithm", "found", "published", "same", "inside", "decompressed"}``: ``same``
is null where nothing was published about exactly these bytes; they then have the SHA-256 that is
told. So it is with a disk inside a file: ``inside`` lists the files that it is made of, each
``{"source", "verified"}`` as /v1/explain has them, and is empty for a file itself.

All of it is read as by any reader: from the cache, and from its place what is not there. What was
compared earlier is compared again.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator

import trio

from nebfs.blocks.index import Verdict
from nebfs.content import Reader
from nebfs.content.layers.here import TRANSPORTS
from nebfs.content.layers.readahead import ReadAhead
from nebfs.content.layers.verified import STEP, hash_threads, strongest
from nebfs.content.stack import read
from nebfs.daemon import jobs
from nebfs.daemon.finding import Image, image_at
from nebfs.daemon.here import verdict_of
from nebfs.daemon.web import Reply, Request, Routes, as_lines
from nebfs.daemon.wiring import House
from nebfs.errors import Damaged, UserError
from nebfs.model import Checksum
from nebfs.units import MIB

WINDOW = 32 * MIB
"""Bytes that are ordered ahead, as for any stream."""


def routes(house: House) -> Routes:
    """Return what verifies images."""

    async def verify(request: Request) -> Reply:
        path = request.json().get("path")
        if not isinstance(path, str) or not path:
            raise UserError("name a path in the mount")
        work = Verifying(house, await image_at(house, path, fresh=True))
        return as_lines(jobs.done(house.nursery, work.run, work.news))

    return {("POST", "/v1/verify"): verify}


class Verifying:
    """One image that is read and hashed from its beginning to its end."""

    def __init__(self, house: House, image: Image) -> None:
        self._house = house
        self._image = image
        self._checksum = published(image)
        self._here = 0
        self._end: jobs.Told | None = None

    async def run(self) -> None:
        """Compare. Raises what reading it raises."""
        wanted = self._checksum
        algorithm = "sha256" if wanted is None else wanted.algorithm
        digest = hashlib.new(algorithm, usedforsecurity=False)
        size = self._image.revision.size
        async with self._reader() as reader:
            while self._here < size:
                length = min(STEP, size - self._here)
                data = bytes(await read(reader, self._here, length))
                await trio.to_thread.run_sync(digest.update, data, limiter=hash_threads)
                self._here += length
            inside = [
                {"source": f.content.locator.shown, "verified": await verdict_of(self._house, f)}
                for f in (self._image.files if self._image.content.view else ())
            ]
            self._conclude(algorithm, digest.hexdigest(), inside)

    def _conclude(self, algorithm: str, found: str, inside: list[dict[str, str]]) -> None:
        wanted = self._checksum
        self._end = {
            "event": "end",
            "algorithm": algorithm,
            "found": found,
            "published": "" if wanted is None else wanted.digest.lower(),
            "same": None if wanted is None else found == wanted.digest.lower(),
            "inside": inside,
            "decompressed": self._image.decompressed is not None,
        }

    @contextlib.asynccontextmanager
    async def _reader(self) -> AsyncIterator[Reader]:
        """Open the image, without the layer that compares: what it would refuse is told here."""
        content, revision = self._image.content, self._image.revision
        if content.view or content.volatile or content.locator.transport in TRANSPORTS:
            reader = await self._house.library.open(content, revision)
            try:
                yield reader
            finally:
                with trio.CancelScope(shield=True):
                    await reader.aclose()
            return
        async with self._house.library.held(content, revision) as held:
            yield ReadAhead(held.cached, held.cached, WINDOW)
            if held.verified is None or not held.cached.file.complete:
                return
            if held.verified.verdict is Verdict.MISMATCH and self._end and self._end["same"]:
                # Its place has mended it: whoever opens it next need not wait for the end of the
                # time for which a mismatch is remembered.
                await held.cached.file.judge(Verdict.UNKNOWN)
                return
            # So that readers know it, too, and a wrong one is taken out of the cache.
            with contextlib.suppress(Damaged):
                await held.verified.confirm()

    def news(self) -> list[jobs.Told]:
        """Return how far it is."""
        size = self._image.revision.size
        told: list[jobs.Told] = [{"event": "progress", "size": size, "here": self._here}]
        if self._end is not None:
            told.append(self._end)
            self._end = None
        return told


def published(image: Image) -> Checksum | None:
    """Return what an image can be compared with. Of a view's file it was published, if at all."""
    return None if image.content.view else strongest(image.content.checksums)
