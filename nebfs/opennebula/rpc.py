"""Calls to one front-end: how many at once, how long, how often tried, where they are decoded.

A front-end accepts 15 connections from a whole cloud by default (oned.conf MAX_CONN) and an idle
one counts, so a mount uses two and the answers say ``Connection: close``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
import trio

from nebfs.errors import BadAnswer, NebfsError, Unreachable
from nebfs.fetcher.messages import CallAnswer, CallRequest
from nebfs.model import without_credentials
from nebfs.opennebula.session import Session
from nebfs.opennebula.xmlrpc import MAX_ANSWER, Parameter, Value, decode, encode
from nebfs.units import KIB

T = TypeVar("T")
Call = Callable[[CallRequest], Awaitable[CallAnswer]]

log = structlog.get_logger()

# Decoding and parsing cost some 100 ms per MB of answer: single objects and short lists are done in
# less than the price of a few thread switches, pools are not.
INLINE_LIMIT = 64 * KIB

# A front-end that restarts is back within seconds. Longer outages are the catalog's timer's work.
ATTEMPTS = 3
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 10.0

# The fetcher keeps the deadline of a request; this much later we stop waiting for the fetcher.
_GRACE = 5.0

_TRANSIENT_STATUS = frozenset({408, 425, 429})


class NotAnEndpoint(BadAnswer):
    """The URL answers that a call to it is a mistake (HTTP 4xx): asking again is useless."""

    temporary = False


class Caller:
    """Calls to one front-end as one user.

    Safe to use from many tasks: at most `connections` requests are in flight, the others wait their
    turn. Answers are decoded one at a time, big ones in a worker thread.
    """

    def __init__(
        self,
        call: Call,
        endpoint: str,
        session: Session,
        *,
        connections: int = 2,
        timeout: float = 30.0,
    ) -> None:
        """`call` is Fetcher.call; `timeout` is in seconds for each attempt."""
        self._call = call
        self._endpoint = endpoint
        self._session = session
        self._timeout = timeout
        self._in_flight = trio.CapacityLimiter(connections)
        # One: decoding holds the interpreter, so a second thread would only add to the memory.
        self._decoding = trio.CapacityLimiter(1)

    @property
    def endpoint(self) -> str:
        """The front-end's URL as it may be shown."""
        return without_credentials(self._endpoint)

    @property
    def session(self) -> Session:
        """As whom it calls."""
        return self._session

    def renew(self, session: Session) -> None:
        """Use `session`, which has another secret, from the next call on."""
        self._session = session

    def as_user(self, session: Session) -> Caller:
        """Return who calls with another session, and takes his turns among ours."""
        other = Caller(self._call, self._endpoint, session, timeout=self._timeout)
        other._in_flight, other._decoding = self._in_flight, self._decoding
        return other

    async def once(self, parse: Callable[[Value], T], method: str, *params: Parameter) -> T:
        """Return ``parse(answer)`` of one call; the session is put in front of `params`.

        `parse` runs where the answer is decoded, so it may be slow and must not touch trio. Raises
        RpcError, Unreachable, BadAnswer, UserError (a parameter that cannot be sent), FetcherDied,
        and whatever `parse` raises.
        """
        session = self._session
        body = encode(method, (session.text, *params))
        request = CallRequest(
            method="POST",
            url=self._endpoint,
            headers=(("Content-Type", "text/xml"),),
            body=body,
            timeout=self._timeout,
            max_body=MAX_ANSWER,
        )
        async with self._in_flight:
            answer = await self._answered(request, method)
        self._check_status(answer, method)

        def decoded() -> T:
            return parse(decode(answer.body, method=method, secret=session.secret))

        if len(answer.body) <= INLINE_LIMIT:
            return decoded()
        return await trio.to_thread.run_sync(decoded, limiter=self._decoding)

    async def read(self, parse: Callable[[Value], T], method: str, *params: Parameter) -> T:
        """Like ``once``, for calls that change nothing: temporary failures are tried again."""
        pause = FIRST_PAUSE
        for attempt in range(1, ATTEMPTS):
            try:
                return await self.once(parse, method, *params)
            except NebfsError as exc:
                if not exc.temporary:
                    raise
                wait = min(exc.retry_after or pause, LONGEST_PAUSE)
                log.info("rpc.again", method=method, attempt=attempt, wait=wait, error=str(exc))
            await trio.sleep(wait)
            pause *= 2
        return await self.once(parse, method, *params)

    async def _answered(self, request: CallRequest, method: str) -> CallAnswer:
        try:
            with trio.fail_after(self._timeout + _GRACE):
                return await self._call(request)
        except trio.TooSlowError as exc:
            raise Unreachable(
                "the front-end did not answer in time",
                endpoint=self.endpoint,
                method=method,
                after=self._timeout + _GRACE,
            ) from exc

    def _check_status(self, answer: CallAnswer, method: str) -> None:
        status = answer.status
        if status == 200:
            return
        hint = ": is this the XML-RPC endpoint? it usually ends in /RPC2" if status == 404 else ""
        mistaken = 400 <= status < 500 and status not in _TRANSIENT_STATUS
        kind = NotAnEndpoint if mistaken else BadAnswer
        seconds = answer.header("Retry-After").strip()
        raise kind(
            f"the front-end answered HTTP {status}{hint}",
            # Only plain seconds: a date would need a clock that agrees with the other side's.
            retry_after=float(seconds) if seconds.isascii() and seconds.isdigit() else None,
            endpoint=self.endpoint,
            method=method,
            status=status,
        )
