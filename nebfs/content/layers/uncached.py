"""Bytes that others may write to while they are read: each read asks, and nothing is kept.

A whole stack in one layer, over the fetcher process. What is asked for is not brought for anybody
else, so that it is no older than the read that wanted it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence

import structlog
import trio

from nebfs.content.layers.retried import FIRST_PAUSE, LONGEST_PAUSE, worth_retrying
from nebfs.content.stack import ReaderFacts
from nebfs.errors import BadAnswer, NebfsError
from nebfs.fetcher.messages import Fetcher, FetchRequest
from nebfs.model import Filled, Locator, Revision

log = structlog.get_logger()

UNIT = 4096
"""Bytes: what is asked for starts and ends on a multiple of it, as the reads of the kernel do."""


class Uncached:
    """Reads one locator, always anew. What is temporary is tried again for `patience` seconds."""

    def __init__(
        self, fetcher: Fetcher, locator: Locator, revision: Revision, patience: float
    ) -> None:
        self._fetcher = fetcher
        self._locator = locator
        self._patience = patience
        self._last_error = ""
        self.revision = revision
        self.size = revision.size

    def warm(self, offset: int, length: int) -> memoryview | None:  # noqa: ARG002 - never is
        """Nothing is here."""
        return None

    async def pread(self, offset: int, length: int) -> bytes:
        """Ask for what is there now. Raises what the fetcher raises."""
        until = trio.current_time() + self._patience
        pause = FIRST_PAUSE
        while True:
            try:
                return await self._asked(offset, length)
            except NebfsError as exc:
                self._last_error = str(exc)
                wait = exc.retry_after or pause * random.uniform(1.0, 1.5)  # noqa: S311
                if trio.current_time() + wait >= until or not worth_retrying(exc):
                    raise
                log.info("source.retry", after=round(wait, 2), reason=str(exc))
                await trio.sleep(wait)
                pause = min(pause * 2, LONGEST_PAUSE)

    async def _asked(self, offset: int, length: int) -> bytes:
        start = offset - offset % UNIT
        stop = min(-(-(offset + length) // UNIT) * UNIT, self.size)
        missing = set(range(start // UNIT, -(-stop // UNIT)))

        def arrived(filled: Sequence[Filled]) -> None:
            missing.difference_update(one.slot for one in filled)

        fd = os.memfd_create("nebfs-read", os.MFD_CLOEXEC)
        try:
            # What holds only zeros is not written: it must read as zeros all the same.
            os.ftruncate(fd, stop)
            request = FetchRequest(self._locator, ((start, stop),), self.revision, UNIT)
            await self._fetcher.fetch(request, fd, arrived)
            if missing:
                raise BadAnswer("some of the bytes that were asked for did not come")
            return os.pread(fd, length, offset)
        finally:
            os.close(fd)

    def facts(self) -> ReaderFacts:
        """Nothing is kept, and nothing was published about it."""
        return ReaderFacts(self.size, 0, "", self._last_error, where="uncached")

    async def aclose(self) -> None:
        """There is nothing to let go."""
