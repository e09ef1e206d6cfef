"""Bytes over HTTP and HTTPS by Range requests (RFC 9110 section 14), and plain calls.

An answer is judged (http_answers.py) before a byte of it is written. Ranges come over connections
of our own (http_ranges.py); what is out of the ordinary there comes by aiohttp. A server without
Range answers with everything: what was asked for is then picked out of that one stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import aiohttp
from multidict import CIMultiDict

from nebfs.errors import BadAnswer, NebfsError, Unreachable
from nebfs.fetcher.messages import CallAnswer, CallRequest, FetchRequest
from nebfs.fetcher.pouring import Read, Sink, clipped, meanwhile, pour
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.slots import Buffers
from nebfs.fetcher.transports.http_addresses import REFUSED, Addresses, Plain
from nebfs.fetcher.transports.http_answers import Verdict, judge_range, refusal
from nebfs.fetcher.transports.http_calls import Calls
from nebfs.fetcher.transports.http_connections import (
    MAX_REDIRECTS,
    Connections,
    Target,
    network_failures,
    next_target,
)
from nebfs.fetcher.transports.http_jobs import Glimpse, Job, Wanted
from nebfs.fetcher.transports.http_pool import FAR, RangePool
from nebfs.fetcher.transports.http_private import EVERYWHERE, Private
from nebfs.fetcher.transports.http_ranges import BURST, Head, Unusual
from nebfs.fetcher.transports.http_redirects import STALE, Redirects, Turn
from nebfs.model import Locator, Revision

if TYPE_CHECKING:
    from nebfs.fetcher.transports import Listener

PARALLEL_RANGES = 2
"""Ranges of one request under way at once: one is answered while the next one is asked."""

TURNS = 2
"""Of the event loop: what somebody waits for, if it was asked for in the same one, takes that long
until each of its parts has a connection. The others come after it: of a place far away there may
be no more than one or two connections that stand, and any other begins with a round trip."""

Ranges = Sequence[tuple[int, int]]


class Http:
    """The transport ``http``, and what others are made of that bring their own `addresses`."""

    def __init__(
        self,
        settings: FetcherSettings,
        connections: Connections | None = None,
        addresses: Addresses | None = None,
    ) -> None:
        """`connections` become this object's own. Raises UserError (the file of credentials)."""
        self._settings = settings
        self._connections = connections or Connections(settings)
        self._addresses = addresses or Plain(self._connections)
        self._calls = Calls(settings, self._connections)
        # Others bring addresses that the administrator has named.
        self._private = EVERYWHERE if addresses else Private(settings.private_addresses)
        self._pool = RangePool(settings, self._connections.tls, self._private)
        self._buffers = Buffers()
        self._redirects = Redirects()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pool.aclose()
        await self._connections.aclose()

    async def fetch(self, request: FetchRequest, fd: int, listener: Listener) -> Revision:
        """Fill the request's ranges; see messages.Fetcher.fetch."""
        expected = request.expected
        ranges = clipped(request.ranges, expected.size) if expected else request.ranges
        if not ranges and expected is not None:
            return expected
        job = Job(request, fd, listener, self._buffers)
        # A probe without ranges still has to ask for something: one byte, which is not kept.
        asked, rest = (ranges[0], ranges[1:]) if ranges else ((0, 1), ())
        if not request.awaited and self._is_far(request.locator):
            for _ in range(TURNS):
                await asyncio.sleep(0)
        async with self._glimpse(job, asked):
            revision = await self._bring(job, asked, expected, rest)
            if revision.ranges:
                await self._bring_rest(job, clipped(rest, revision.size), expected or revision)
        return revision

    async def _bring_rest(self, job: Job, ranges: Ranges, expected: Revision) -> None:
        waiting = iter(ranges)

        async def work() -> None:
            for asked in waiting:
                await self._bring(job, asked, expected)

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

    async def _bring(
        self, job: Job, asked: tuple[int, int], expected: Revision | None, rest: Ranges = ()
    ) -> Revision:
        """Bring one range; a server without Range gives `rest` in the same answer."""
        if expected is None or expected.ranges:
            wanted = Wanted(job, asked, expected)
            keep = True
            try:
                urgent = job.request.awaited
                await self._ask(job.request.locator, asked, wanted.accept, urgent=urgent)
            except Unusual:
                pass
            except asyncio.CancelledError:
                keep = False  # nothing may be written any more
                raise
            else:
                assert wanted.revision is not None  # noqa: S101 - it was accepted
                return wanted.revision
            finally:
                wanted.end(keep=keep)
        return await self._bring_by_library(job, asked, expected, rest)

    async def _bring_by_library(
        self, job: Job, asked: tuple[int, int], expected: Revision | None, rest: Ranges
    ) -> Revision:
        locator = job.request.locator
        async with self._answer(locator, asked, expected) as (read, verdict):
            revision = verdict.revision
            if expected is None:
                job.listener.found(revision)
            vessel = job.vessel(revision.size)
            if not revision.ranges:
                # Everything comes in this one answer; it is left as soon as the last range is in.
                wanted = [asked, *rest] if job.request.ranges else []
                await pour(read, 0, clipped(wanted, revision.size), vessel)
                return revision
            runs = clipped([asked], verdict.stop)
            if runs:  # there are none in an empty content, whose 416 has a body of its own
                excess = await pour(read, verdict.start, runs, vessel)
                await _expect_end(read, excess, locator)
        return revision

    # --- over connections of our own ----------------------------------------------------------

    async def _ask(
        self,
        locator: Locator,
        asked: tuple[int, int],
        accept: Callable[[Head, str], Sink | None],
        *,
        urgent: bool = False,
    ) -> None:
        """Ask for one range, following redirects. Raises Unusual for what aiohttp is to do."""
        remembered = self._redirects.known(locator)
        target = remembered or await self._first(locator)
        redirected = renewed = False
        turn: Turn | None = None
        given_up = False
        try:
            for _ in range(MAX_REDIRECTS + 1):
                if self._connections.proxy_of(target.url) is not None:
                    raise Unusual
                accepted = False

                def judge(
                    head: Head,
                    target: Target = target,
                    known: bool = target is remembered,
                    leads: bool = redirected,
                    turn: Turn | None = turn,
                ) -> Sink | None:
                    if head.redirect or head.status in REFUSED:
                        return None
                    if known and head.status in STALE:
                        return None
                    nonlocal accepted
                    accepted = True
                    sink = accept(head, target.shown)
                    if leads:
                        self._redirects.led(locator, target, turn)
                    return sink

                try:
                    head = await self._pool.ask(target, asked, judge, urgent=urgent)
                except Unreachable:
                    if target is not remembered or accepted:
                        raise
                    head = None
                if accepted:
                    return
                if head is not None and head.redirect:
                    following = next_target(target, head.headers["Location"])
                    target, redirected = self._connections.authorized(following), True
                elif target is remembered:
                    # What a redirect led to is not there any more: one asks anew, for all.
                    remembered, turn = await self._redirects.again(locator, target)
                    target, redirected = remembered or await self._first(locator), False
                else:
                    assert head is not None  # noqa: S101 - only the remembered may fail without
                    status, headers = head.status, head.headers
                    if renewed or not await self._renewed(locator, target, status, headers):
                        raise refusal(status, headers, target.shown)
                    target, renewed = await self._first(locator), True
            raise BadAnswer("too many redirects", url=target.shown)
        except asyncio.CancelledError:
            given_up = True
            raise
        finally:
            self._redirects.end(locator, turn, given_up=given_up)

    @contextlib.asynccontextmanager
    async def _glimpse(self, job: Job, asked: tuple[int, int]) -> AsyncIterator[None]:
        """Meanwhile, ask by itself for what somebody waits for, if that is worth it."""
        request = job.request
        wanted = request.wanted
        if (
            wanted is None
            or request.expected is None
            or wanted[1] - asked[0] <= BURST
            or not self._is_far(request.locator)
        ):
            yield
            return
        # Begun first, it gets the connection that was used last, and is sure to stand.
        async with meanwhile(self._look(job, wanted)):
            yield

    async def _look(self, job: Job, wanted: tuple[int, int]) -> None:
        """Hand over `wanted`, asked for in parts that come within one round trip each."""
        locator, expected = job.request.locator, job.request.expected
        data = bytearray(wanted[1] - wanted[0])
        target = self._target(locator)
        assert target is not None  # noqa: S101 - it is known to be far away
        shares = self._pool.shares(target, len(data))
        missing = len(shares)

        def came() -> None:
            nonlocal missing
            missing -= 1
            if not missing:  # here, and not some turns of the loop later, when all tasks have ended
                job.listener.early(wanted[0], bytes(data))

        async def part(start: int, stop: int) -> None:
            sink = Glimpse(memoryview(data)[start - wanted[0] : stop - wanted[0]], came)

            def accept(head: Head, shown: str) -> Sink:
                if head.status != 206:
                    raise Unusual
                judge_range(head.status, head.headers, (start, stop), expected, shown)
                return sink

            await self._ask(locator, (start, stop), accept, urgent=True)

        first, *others = itertools.pairwise(itertools.accumulate(shares, initial=wanted[0]))
        # Whatever is wrong, the request for the whole range finds it out, too.
        with contextlib.suppress(NebfsError, Unusual, ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                for other in others:
                    group.create_task(part(*other))
                # Here, and not as a task: so it is the first to take a connection.
                await part(*first)

    async def _first(self, locator: Locator) -> Target:
        return self._addresses.known(locator) or await self._addresses.find(locator)

    async def _renewed(
        self, locator: Locator, target: Target, status: int, headers: Mapping[str, str]
    ) -> bool:
        return status in REFUSED and await self._addresses.renewed(locator, target, status, headers)

    def _target(self, locator: Locator) -> Target | None:
        """Return where its bytes are, if that is known."""
        return self._redirects.known(locator) or self._addresses.known(locator)

    def _is_far(self, locator: Locator) -> bool:
        target = self._target(locator)
        return target is not None and self._pool.first_byte(target) >= FAR

    # --- by aiohttp ---------------------------------------------------------------------------

    async def call(self, request: CallRequest) -> CallAnswer:
        """Return the answer to a plain request; see messages.Fetcher.call."""
        options = tuple((f"header:{name}", text) for name, text in request.headers)
        locator = Locator(request.transport, request.url, options)
        target = await self._addresses.find(locator)
        answer = await self._calls.call(request, target)
        if answer.status in REFUSED:
            headers = CIMultiDict(answer.headers)
            if await self._addresses.renewed(locator, target, answer.status, headers):
                answer = await self._calls.call(request, await self._addresses.find(locator))
        return answer

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
        remembered = self._redirects.known(locator)
        turn: Turn | None = None
        given_up = False
        try:
            # Twice: what another request was led to meanwhile is tried, too.
            for _ in range(2):
                if remembered is None:
                    break
                try:
                    response, target = await self._follow(remembered, headers)
                except Unreachable:
                    pass
                else:
                    if response.status not in STALE:
                        return response, target
                    response.close()
                remembered, turn = await self._redirects.again(locator, remembered)
            for last in (False, True):
                first = await self._first(locator)
                response, target = await self._follow(first, headers)
                status, said = response.status, response.headers
                if last or not await self._renewed(locator, target, status, said):
                    break
                response.close()
            if target is not first and response.status not in STALE:
                self._redirects.led(locator, target, turn)
        except asyncio.CancelledError:
            given_up = True
            raise
        finally:
            self._redirects.end(locator, turn, given_up=given_up)
        return response, target

    async def _follow(
        self, target: Target, headers: dict[str, str]
    ) -> tuple[aiohttp.ClientResponse, Target]:
        timeout = self._connections.fetch_timeout
        return await self._connections.follow(
            "GET", target, headers, timeout=timeout, private=self._private
        )


async def _expect_end(read: Read, excess: int, locator: Locator) -> None:
    """Read the end of the body, without which the connection cannot be used again."""
    if excess or await read():
        raise BadAnswer("the server sent more than it announced", url=locator.shown)
