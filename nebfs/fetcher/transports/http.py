"""Bytes over HTTP and HTTPS by Range requests (RFC 9110 section 14), and plain calls.

An answer is judged (http_answers.py) before a byte of it is written. A server without Range
answers with everything: what was asked for is then picked out of that one stream.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import aiohttp
from cachetools import TTLCache

from nebfs.errors import BadAnswer, Unreachable
from nebfs.fetcher.messages import CallAnswer, CallRequest, FetchRequest
from nebfs.fetcher.pouring import Read, Vessel, pour
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.slots import Buffers
from nebfs.fetcher.transports.http_answers import Verdict, judge_range
from nebfs.fetcher.transports.http_connections import (
    Connections,
    Target,
    first_target,
    network_failures,
)
from nebfs.model import Locator, Revision

if TYPE_CHECKING:
    from nebfs.fetcher.transports import Listener

REMEMBERED = 1024
REMEMBERED_SECONDS = 300
"""For how many locators, and how long, the end of a redirect is asked directly: shorter than the
signed addresses of object stores live (15 minutes and more)."""

PARALLEL_RANGES = 2
"""Ranges of one request under way at once: one is answered while the next one is asked."""

_STALE = frozenset((401, 403, 404, 410))
_HEADER = "header:"

Ranges = Sequence[tuple[int, int]]


class Http:
    """The transport ``http``. Option ``header:NAME`` of a locator sends a header to its host."""

    def __init__(self, settings: FetcherSettings) -> None:
        self._settings = settings
        self._connections = Connections(settings)
        self._buffers = Buffers()
        self._remembered: TTLCache[Locator, Target] = TTLCache(REMEMBERED, REMEMBERED_SECONDS)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._connections.aclose()

    async def fetch(self, request: FetchRequest, fd: int, listener: Listener) -> Revision:
        """Fill the request's ranges; see messages.Fetcher.fetch."""
        expected = request.expected
        ranges = _clipped(request.ranges, expected.size) if expected else request.ranges
        if not ranges and expected is not None:
            return expected
        # A probe without ranges still has to ask for something: one byte, which is not kept.
        asked, rest = (ranges[0], ranges[1:]) if ranges else ((0, 1), ())
        async with self._answer(request.locator, asked, expected) as (read, verdict):
            revision = verdict.revision
            if expected is None:
                listener.found(revision)
            vessel = Vessel(fd, request, revision.size, listener.filled, self._buffers)
            if not revision.ranges:
                # Everything comes in this one answer; it is left as soon as the last range is in.
                await pour(read, 0, _clipped(ranges, revision.size), vessel)
                return revision
            runs = _clipped(ranges[:1], verdict.stop)
            if runs:  # there are none in an empty content, whose 416 has a body of its own
                excess = await pour(read, verdict.start, runs, vessel)
                await _expect_end(read, excess, request.locator)
        await self._fetch_rest(request, _clipped(rest, revision.size), expected or revision, vessel)
        return revision

    async def _fetch_rest(
        self, request: FetchRequest, ranges: Ranges, expected: Revision, vessel: Vessel
    ) -> None:
        waiting = iter(ranges)

        async def work() -> None:
            for asked in waiting:
                async with self._answer(request.locator, asked, expected) as (read, verdict):
                    excess = await pour(read, verdict.start, [asked], vessel)
                    if verdict.revision.ranges:
                        await _expect_end(read, excess, request.locator)

        if len(ranges) <= 1:
            await work()
            return
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(PARALLEL_RANGES):
                    group.create_task(work())
        except BaseExceptionGroup as failures:
            first = failures.exceptions[0]
            raise first from first.__cause__

    async def call(self, request: CallRequest) -> CallAnswer:
        """Return the answer to a plain request; see messages.Fetcher.call."""
        target = first_target(request.url, request.headers)
        try:
            async with asyncio.timeout(request.timeout):
                return await self._call(request, target)
        except TimeoutError as exc:
            raise Unreachable("no answer in time", after=request.timeout, url=target.shown) from exc

    async def _call(self, request: CallRequest, target: Target) -> CallAnswer:
        response = await self._ask_twice(request, target)
        try:
            coding = response.headers.get("Content-Encoding", "").strip().lower()
            if coding not in ("", "identity"):
                raise BadAnswer("the answer is encoded unasked", coding=coding, url=target.shown)
            body = await self._body(response, request.max_body, target.shown)
        finally:
            response.close()
        return CallAnswer(response.status, tuple(response.headers.items()), body)

    async def _body(self, response: aiohttp.ClientResponse, limit: int, url: str) -> bytes:
        pieces: list[bytes] = []
        size = 0
        announced = response.content_length or 0
        while max(size, announced) <= limit:
            with network_failures(url, self._settings):
                piece = await response.content.readany()
            if not piece:
                return b"".join(pieces)
            pieces.append(piece)
            size += len(piece)
        raise BadAnswer("the answer is larger than allowed", limit=limit, url=url)

    async def _ask_twice(self, request: CallRequest, target: Target) -> aiohttp.ClientResponse:
        for last in (False, True):
            try:
                response, _ = await self._connections.follow(
                    request.method,
                    target,
                    {},
                    timeout=self._connections.call_timeout,
                    body=request.body,
                )
            except Unreachable as exc:
                # A kept connection that the server had just hung up: aiohttp asks again by itself
                # but for POST. Whatever nebfs calls only reads, so asking twice does no harm.
                if last or not _hung_up(exc.__cause__):
                    raise
            else:
                return response
        raise AssertionError("unreachable")

    @contextlib.asynccontextmanager
    async def _answer(
        self, locator: Locator, asked: tuple[int, int], expected: Revision | None
    ) -> AsyncIterator[tuple[Read, Verdict]]:
        """Ask for one range; give the accepted answer's body and verdict."""
        headers = {}
        if expected is None or expected.ranges:
            headers["Range"] = f"bytes={asked[0]}-{asked[1] - 1}"
        response, target = await self._locate(locator, headers)
        shown = target.shown
        content = response.content

        async def read() -> bytes:
            try:
                return await content.readany()
            except (aiohttp.ClientError, OSError) as exc:
                with network_failures(shown, self._settings):
                    raise exc

        try:
            verdict = judge_range(response.status, response.headers, asked, expected, shown)
            yield read, verdict
        finally:
            # A connection whose answer was read to its end is already back in the pool; of any
            # other the rest of the body is not worth the wait.
            response.close()

    async def _locate(
        self, locator: Locator, headers: dict[str, str]
    ) -> tuple[aiohttp.ClientResponse, Target]:
        timeout = self._connections.fetch_timeout
        remembered = self._remembered.get(locator)
        if remembered is not None:
            try:
                response, target = await self._connections.follow(
                    "GET", remembered, headers, timeout=timeout
                )
            except Unreachable:
                self._remembered.pop(locator, None)
            else:
                if response.status not in _STALE:
                    return response, target
                response.close()
                self._remembered.pop(locator, None)
        first = _target_of(locator)
        response, target = await self._connections.follow("GET", first, headers, timeout=timeout)
        if target is not first and response.status not in _STALE:
            self._remembered[locator] = target
        return response, target


def _hung_up(cause: BaseException | None) -> bool:
    """Whether a connection that stood was closed before the answer."""
    if isinstance(cause, aiohttp.ClientConnectorError):
        return False
    return isinstance(cause, (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError))


def _target_of(locator: Locator) -> Target:
    headers = tuple(
        (name.removeprefix(_HEADER), text)
        for name, text in locator.options
        if name.startswith(_HEADER)
    )
    return first_target(locator.address, headers)


def _clipped(ranges: Ranges, size: int) -> list[tuple[int, int]]:
    return [(start, min(stop, size)) for start, stop in ranges if start < min(stop, size)]


async def _expect_end(read: Read, excess: int, locator: Locator) -> None:
    """Read the end of the body, without which the connection cannot be used again."""
    if excess or await read():
        raise BadAnswer("the server sent more than it announced", url=locator.shown)
