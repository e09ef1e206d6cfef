"""Holding a whole object to the checksum that was published about it.

A part of an object cannot be compared with a checksum of the whole. So reads are answered while the
object is incomplete (``user.nebfs.verified`` is ``no``), and the read that completes it waits for
the verdict: a ``cp`` of a corrupted image fails, and does not merely leave a line in a log.

The checksum is of the bytes as published. It is taken from the cache file, front to back, in a
worker thread; it starts when a quarter of the object is here, so that a stream is followed and a
booting guest, which reads a few percent, is left alone.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog
import trio

from nebfs.blocks import SLOT_SIZE, BlockFile
from nebfs.blocks.index import Verdict
from nebfs.content.layers.cached import Cached
from nebfs.content.stack import ReaderFacts
from nebfs.errors import CacheFault, Damaged
from nebfs.model import Checksum, Revision
from nebfs.units import MIB

log = structlog.get_logger()

STRENGTH = ("sha512", "sha256", "sha1", "md5")
"""What we compare, the best first. One is enough: they are of the same bytes."""

STEP = 4 * MIB
"""Hashed at a time: 2 to 6 ms of a thread, so a stop is never waited for long."""

PATIENCE = 30.0
"""Seconds that a read waits for the verdict, before it is answered as before completion. At 700
MB/s (md5) that is enough for the last 20 GiB."""

QUARANTINE = 3600.0
"""Seconds for which a mismatch is remembered: then the object is fetched afresh, once."""

hash_threads = trio.CapacityLimiter(1)
"""One hash at a time: it must leave a processor to the streams."""


def strongest(checksums: Sequence[Checksum]) -> Checksum | None:
    """Return the best checksum that we can compare, or None."""
    usable = [c for c in checksums if c.algorithm in STRENGTH and c.digest]
    return min(usable, key=lambda c: STRENGTH.index(c.algorithm), default=None)


class Verified:
    """Compares the object below with `checksum` once all of it is here.

    `on_mismatch` is called once, for the kernel's cached pages and attributes to be dropped.
    """

    def __init__(
        self,
        below: Cached,
        checksum: Checksum,
        nursery: trio.Nursery,
        on_mismatch: Callable[[], None],
    ) -> None:
        self._below = below
        self._checksum = checksum
        self._nursery = nursery
        self._on_mismatch = on_mismatch
        self._hashing = False
        self._hashed = 0
        self._overdue = False
        self.size = below.size
        self.verdict = Verdict.UNKNOWN
        self.warm: Callable[[int, int], memoryview | None] = self._warm

    @property
    def revision(self) -> Revision:
        """The revision of the object below."""
        return self._below.revision

    async def recall(self) -> None:
        """Take up the verdict of an earlier life; a mismatch is lifted when its time is over."""
        verdict, judged = self._below.file.verdict
        if verdict is Verdict.MISMATCH and not 0 <= time.time() - judged < QUARANTINE:
            await self._below.file.drop(0, self._below.file.slots)
            await self._below.file.judge(Verdict.UNKNOWN)
            verdict = Verdict.UNKNOWN
        if verdict is Verdict.VERIFIED and not self._below.file.complete:
            verdict = Verdict.UNKNOWN  # some of it has left since: the next completion tells
        if verdict is not Verdict.UNKNOWN:
            self._settle(verdict)
        self.follow()

    @property
    def withholds(self) -> bool:
        """Whether a read has to wait for the verdict now, or that is a bad one."""
        if self.verdict is not Verdict.UNKNOWN:
            return self.verdict is Verdict.MISMATCH
        return (self._below.file.complete and not self._overdue) or self._below.owing

    def _warm(self, offset: int, length: int) -> memoryview | None:
        if self.withholds:
            return None  # pread waits for the verdict
        return self._below.warm(offset, length)

    async def pread(self, offset: int, length: int) -> bytes | memoryview:
        """Return bytes; once the object is complete, only after the verdict. Raises Damaged."""
        if self.verdict is Verdict.MISMATCH:
            raise self._damaged()
        data = await self._below.pread(offset, length)
        if self._below.file.complete or self._below.owing:
            data = bytes(data)  # a view does not outlast the wait
            # Otherwise the last read could have its bytes before the block that completes all.
            await self._below.redeem()
        await self._await_verdict()
        return data

    async def confirm(self) -> None:
        """Wait for the verdict about a complete object, however long that takes.

        Raises Damaged, or CacheFault when part of it leaves the cache meanwhile.
        """
        while self.verdict is Verdict.UNKNOWN:
            if not self._below.file.complete:
                raise CacheFault("part of it has left the cache before it could be verified")
            self.follow()
            with trio.move_on_after(1.0):
                await self._below.file.arrival(0, self._below.file.slots)
        if self.verdict is Verdict.MISMATCH:
            raise self._damaged()

    async def _await_verdict(self) -> None:
        """Wait for the verdict if the object is complete. Raises Damaged."""
        self.follow()
        file = self._below.file
        if file.complete and not self._overdue:
            with trio.move_on_after(PATIENCE) as wait:
                while self.verdict is Verdict.UNKNOWN and self._is_near(file):
                    await file.arrival(0, file.slots)  # or until some of it has left
            self._overdue = wait.cancelled_caught
        if self.verdict is Verdict.MISMATCH:
            raise self._damaged()

    def _is_near(self, file: BlockFile) -> bool:
        """Whether all that has not been hashed yet is here. What has left the cache may be brought
        by nobody but those who would wait for the verdict.
        """
        rest = -(-self._hashed // SLOT_SIZE)
        return file is self._below.file and file.has(rest, file.slots)

    def _damaged(self) -> Damaged:
        return Damaged(
            f"the bytes differ from the published {self._checksum.algorithm}; "
            "the copy at its source is damaged or was replaced"
        )

    @property
    def algorithm(self) -> str:
        """By which the object is compared, as hashlib names it."""
        return self._checksum.algorithm

    @property
    def hashed(self) -> int:
        """How many bytes were hashed, from the beginning on."""
        return self.size if self.verdict is Verdict.VERIFIED else self._hashed

    def reached(self, offset: int) -> bool:
        """Whether everything before `offset` has been hashed, or need not be."""
        return self.verdict is Verdict.VERIFIED or self._hashed >= offset

    def follow(self) -> None:
        """Start hashing when it is time for it."""
        file = self._below.file
        if not self._hashing and self.verdict is Verdict.UNKNOWN and file.here * 4 >= file.slots:
            self._hashing = True
            self._nursery.start_soon(self._hash_safely)

    async def _hash_safely(self) -> None:
        try:
            await self._hash()
        except Exception:  # a bug must cost the verdict, which is waited for within bounds
            log.exception("verified.bug")

    async def _hash(self) -> None:
        digest = hashlib.new(self._checksum.algorithm, usedforsecurity=False)
        self._hashed = 0
        try:
            while self._hashed < self.size:
                self._hashed += await self._hash_next(digest, self._hashed)
        finally:
            self._hashing = False
        if digest.hexdigest() == self._checksum.digest.lower():
            self._settle(Verdict.VERIFIED)
            await self._below.file.judge(Verdict.VERIFIED)
        else:
            log.error(
                "content.checksum_mismatch",
                algorithm=self._checksum.algorithm,
                published=self._checksum.digest,
                found=digest.hexdigest(),
                remedy="the copy at its source is damaged, or was replaced without a new checksum",
            )
            self._settle(Verdict.MISMATCH)
            await self._below.file.judge(Verdict.MISMATCH)
            await self._below.file.drop(0, self._below.file.slots)

    async def _hash_next(self, digest: hashlib._Hash, offset: int) -> int:
        """Hash what is here at `offset`, waiting for it if need be; return how much that was."""
        file = self._below.file
        first = offset // SLOT_SIZE
        stop = first
        while stop < min(first + STEP // SLOT_SIZE, file.slots) and file.has(stop, stop + 1):
            stop += 1
        if stop == first:
            await file.arrival(first, first + 1)
            return 0
        length = min(stop * SLOT_SIZE, self.size) - offset
        data = await file.read(offset, length)  # proves the blocks, so rot is not a mismatch
        if data is None:
            return 0
        await trio.to_thread.run_sync(digest.update, data, limiter=hash_threads)
        return length

    def _settle(self, verdict: Verdict) -> None:
        self.verdict = verdict
        if verdict is Verdict.VERIFIED:
            self.warm = self._below.warm
        else:
            self.warm = _nothing
            self._on_mismatch()
        self._below.file.tell()  # whoever waits in `arrival` looks at the verdict, too

    def facts(self) -> ReaderFacts:
        """Add the verdict to what is known below."""
        verified = {Verdict.UNKNOWN: "no", Verdict.VERIFIED: "yes"}.get(self.verdict, "mismatch")
        return replace(self._below.facts(), verified=verified)

    async def aclose(self) -> None:
        """Close what is below."""
        await self._below.aclose()


def _nothing(offset: int, length: int) -> memoryview | None:  # noqa: ARG001 - warm()'s shape
    return None
