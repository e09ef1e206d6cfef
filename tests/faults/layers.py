"""Readers and sources that fail or are slow, to be put at any height of a stack.

They are what they wrap until they are told otherwise; what a layer above does with it is what is
looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import trio

from nebfs.content.stack import Order, Reader, ReaderFacts, Source
from nebfs.errors import NebfsError
from nebfs.model import Revision


class Over:
    """A reader that passes everything on to the one below, also what that one has of its own."""

    def __init__(self, below: Reader) -> None:
        self._below = below

    def __getattr__(self, name: str) -> Any:
        return getattr(self._below, name)

    @property
    def size(self) -> int:
        return self._below.size

    @property
    def revision(self) -> Revision:
        return self._below.revision

    def warm(self, offset: int, length: int) -> memoryview | None:
        return self._below.warm(offset, length)

    async def pread(self, offset: int, length: int) -> bytes | memoryview:
        return await self._below.pread(offset, length)

    def facts(self) -> ReaderFacts:
        return self._below.facts()

    async def aclose(self) -> None:
        await self._below.aclose()


class Delayed(Over):
    """Answers `seconds` later, on trio's clock, and nothing at once. For ever: ``math.inf``."""

    def __init__(self, below: Reader, seconds: float = math.inf) -> None:
        super().__init__(below)
        self.seconds = seconds

    def warm(self, offset: int, length: int) -> memoryview | None:
        return super().warm(offset, length) if not self.seconds else None

    async def pread(self, offset: int, length: int) -> bytes | memoryview:
        await trio.sleep(self.seconds)
        return await super().pread(offset, length)


class Failing(Over):
    """Raises what `failure` makes, in `left` of its reads after `after` that are right."""

    raised: type[Exception] = NebfsError
    """What a layer above may raise then."""

    def __init__(
        self,
        below: Reader,
        failure: Callable[[], BaseException],
        left: float = math.inf,
        after: int = 0,
    ) -> None:
        super().__init__(below)
        self.failure = failure
        self.left = left
        self.after = after
        self.failed = 0

    def warm(self, offset: int, length: int) -> memoryview | None:
        return super().warm(offset, length) if not self.left else None

    async def pread(self, offset: int, length: int) -> bytes | memoryview:
        await trio.lowlevel.checkpoint()
        if self.after:
            self.after -= 1
        elif self.left:
            self.left -= 1
            self.failed += 1
            raise self.failure()
        return await super().pread(offset, length)


class Short(Failing):
    """Gives one byte less than was asked for, as no reader may: it is a bug."""

    raised = Exception

    def __init__(self, below: Reader, left: float = math.inf, after: int = 0) -> None:
        super().__init__(below, NotImplementedError, left, after)

    async def pread(self, offset: int, length: int) -> bytes | memoryview:
        data = bytes(await self._below.pread(offset, length))
        if self.after:
            self.after -= 1
            return data
        if not self.left:
            return data
        self.left -= 1
        self.failed += 1
        return data[:-1]


class FailingSource:
    """The same among the sources: it raises instead of bringing anything."""

    def __init__(
        self, below: Source, failure: Callable[[], BaseException], left: float = math.inf
    ) -> None:
        self._below = below
        self.failure = failure
        self.left = left
        self.failed = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._below, name)

    @property
    def revision(self) -> Revision:
        return self._below.revision

    async def fill(self, order: Order) -> None:
        await trio.lowlevel.checkpoint()
        if self.left:
            self.left -= 1
            self.failed += 1
            raise self.failure()
        await self._below.fill(order)
