"""HTTP/1.1 for the control socket and what is shown to browsers: one question, one answer, closed.

The protocol itself is h11's affair (RFC 9112). What may be asked is a table of routes; this module
bounds sizes and times, and turns failures into answers: the mount outlives every question.

An answer that is JSON and tells of a failure is ``{"error": text, "kind": name}``, the name being
that of a class in nebfs/errors.py, with a status of 400 and more.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, urlsplit

import h11
import structlog
import trio

import nebfs
from nebfs.ending import pass_on
from nebfs.errors import (
    Busy,
    Changed,
    Missing,
    NebfsError,
    Refused,
    TimedOut,
    Unreachable,
    Unready,
    Unsupported,
    UserError,
)

log = structlog.get_logger()

LONGEST_BODY = 16 << 20  # bytes; an imported boot profile, at most
LONGEST_HEAD = 64 << 10  # bytes; a path of 4096 bytes takes three times that when it is quoted
CHUNK = 64 << 10
LINGER = 1.0  # seconds

JSON = "application/json"
LINES = "application/x-ndjson"
"""One JSON object in each line: what goes on for a while."""

_STATUS: tuple[tuple[type[NebfsError], int], ...] = (
    (UserError, 400),
    (Refused, 403),
    (Missing, 404),
    (Changed, 409),
    (Busy, 409),
    (Unready, 409),
    (Unsupported, 501),
    (TimedOut, 504),
    (Unreachable, 503),
)


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked. `path` is decoded, without the query."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> dict[str, object]:
        """Return the body, a JSON object; empty where there is none. Raises UserError."""
        if not self.body:
            return {}
        try:
            said = json.loads(self.body)
        except (ValueError, RecursionError) as exc:
            raise UserError("the question is not JSON") from exc
        if not isinstance(said, dict):
            raise UserError("the question is not a JSON object")
        return said


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered. A `body` that is a generator is sent as it comes; it is closed, which ends
    whatever it does, when nobody listens any more.
    """

    body: bytes | AsyncGenerator[bytes]
    status: int = 200
    kind: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[Request], Awaitable[Reply]]
Routes = Mapping[tuple[str, str], Handler]
"""By method and path."""


def as_json(said: object, status: int = 200) -> Reply:
    """Return `said` as one JSON document."""
    return Reply(json.dumps(said).encode(), status)


def as_lines(said: AsyncGenerator[dict[str, object]]) -> Reply:
    """Return objects as they come, one in a line. A failure on the way is the last of them."""

    async def lines() -> AsyncGenerator[bytes]:
        async with aclosing(said):
            try:
                async for one in said:
                    yield json.dumps(one).encode() + b"\n"
            except NebfsError as exc:
                yield json.dumps(_told(exc)).encode() + b"\n"
            except BaseException as exc:
                pass_on(exc)
                log.exception("control_answer_failed")
                yield json.dumps(_BUG).encode() + b"\n"

    return Reply(lines(), kind=LINES)


async def converse(
    stream: trio.abc.Stream,
    routes: Routes,
    *,
    patience: float,
    hosts: frozenset[str] | None = None,
) -> None:
    """Answer the one question that comes on `stream`. It has to be asked within `patience` seconds,
    and a client that takes nothing of an answer for as long is left.

    `hosts`: the names by which a browser may call us; others are refused, so that no web page can
    have a name of its own point here and read what is shown (DNS rebinding). None: any.
    """
    asking = h11.Connection(h11.SERVER, max_incomplete_event_size=LONGEST_HEAD)
    try:
        try:
            with trio.fail_after(patience):
                request = await _question(stream, asking, hosts)
        except trio.TooSlowError:
            return
        except h11.RemoteProtocolError as exc:
            reply, method = as_json({"error": str(exc)}, exc.error_status_hint), ""
        except NebfsError as exc:
            reply, method = as_json(_told(exc), _status(exc)), ""
        else:
            if request is None:
                return  # a mere probe
            reply, method = await _answered(request, routes), request.method
        await _send(stream, asking, reply, patience, head_only=method == "HEAD")
        if not method:
            # Closing while there is more to read would take our answer away from the asker.
            with trio.move_on_after(LINGER):
                while await stream.receive_some(CHUNK):
                    pass
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        log.debug("control_broke_off")  # who asked did not wait for the answer
    except BaseException as exc:  # whatever somebody sends, the mount must outlive it
        pass_on(exc)
        log.exception("control_conversation_failed")


async def _question(
    stream: trio.abc.Stream, asking: h11.Connection, hosts: frozenset[str] | None
) -> Request | None:
    head: h11.Request | None = None
    body = bytearray()
    longest = 0
    while True:
        event = asking.next_event()
        if event is h11.NEED_DATA:
            data = await stream.receive_some(CHUNK)
            if not data and head is None and not asking.trailing_data[0]:
                return None
            asking.receive_data(bytes(data))
        elif isinstance(event, h11.Request):
            head = event
            if hosts is not None:
                _check_host(event, hosts)
        elif isinstance(event, h11.Data):
            # All of it is taken, if not kept: who still sends does not hear what is answered.
            longest = max(longest, len(body) + len(event.data))
            if longest <= LONGEST_BODY:
                body += event.data
        else:
            break
    if longest > LONGEST_BODY:
        raise UserError(f"a question has at most {LONGEST_BODY} bytes")
    if head is None:
        return None
    target = _split(head.target.decode("ascii", "replace"))
    query = dict(parse_qsl(target.query, keep_blank_values=True, errors="surrogateescape"))
    return Request(head.method.decode("ascii"), target.path, query, bytes(body))


def _check_host(head: h11.Request, hosts: frozenset[str]) -> None:
    named = next((value for name, value in head.headers if name == b"host"), b"")
    host = _split(f"//{named.decode('ascii', 'replace')}").hostname
    if host not in hosts:
        raise Refused("nebfs is not called by that name")


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as exc:  # brackets that hold no IPv6 address
        raise h11.RemoteProtocolError("the address is not understood", 400) from exc


async def _answered(request: Request, routes: Routes) -> Reply:
    method = "GET" if request.method == "HEAD" else request.method
    handler = routes.get((method, request.path))
    if handler is None:
        others = sorted(m for m, path in routes if path == request.path)
        if others:
            return as_json({"error": f"that is asked by {' or '.join(others)}"}, 405)
        what = f"this nebfs ({nebfs.__version__}) does not know {request.path!r}"
        return as_json({"error": what, "kind": "Unsupported"}, 404)
    try:
        return await handler(request)
    except NebfsError as exc:
        return as_json(_told(exc), _status(exc))
    except BaseException as exc:  # the mount must outlive a question that fails; it is told
        pass_on(exc)
        log.exception("control_answer_failed")
        return as_json(_BUG, 500)


async def _send(
    stream: trio.abc.Stream,
    asking: h11.Connection,
    reply: Reply,
    patience: float,
    *,
    head_only: bool,
) -> None:
    headers = [
        ("content-type", reply.kind),
        ("cache-control", "no-store"),
        ("server", f"nebfs/{nebfs.__version__}"),
        ("connection", "close"),
        *reply.headers,
    ]
    if isinstance(reply.body, bytes):
        headers.append(("content-length", str(len(reply.body))))
    await _put(stream, asking, patience, h11.Response(status_code=reply.status, headers=headers))
    if isinstance(reply.body, bytes):
        if not head_only:
            await _put(stream, asking, patience, h11.Data(data=reply.body))
    else:
        async with aclosing(reply.body) as pieces:
            if not head_only and not await _passed_on(stream, asking, pieces, patience):
                raise trio.BrokenResourceError
    await _put(stream, asking, patience, h11.EndOfMessage())


async def _passed_on(
    stream: trio.abc.Stream,
    asking: h11.Connection,
    pieces: AsyncGenerator[bytes],
    patience: float,
) -> bool:
    """Send pieces as they come. Return whether that came to its end: somebody who stops a command
    that shows progress stops what it was about.
    """
    whole = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_until_gone, stream, nursery.cancel_scope)
        with suppress(trio.BrokenResourceError):
            async for piece in pieces:
                await _put(stream, asking, patience, h11.Data(data=piece))
            whole = True
        nursery.cancel_scope.cancel()
    return whole


async def _until_gone(stream: trio.abc.Stream, scope: trio.CancelScope) -> None:
    try:
        while await stream.receive_some(CHUNK):
            pass
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    scope.cancel()


async def _put(
    stream: trio.abc.Stream,
    asking: h11.Connection,
    patience: float,
    event: h11.Event,
) -> None:
    data = asking.send(event)
    if data:
        with trio.move_on_after(patience) as bounded:
            await stream.send_all(data)
        if bounded.cancelled_caught:
            raise trio.BrokenResourceError


def _status(exc: NebfsError) -> int:
    return next((status for kind, status in _STATUS if isinstance(exc, kind)), 500)


def _told(exc: NebfsError) -> dict[str, object]:
    return {"error": str(exc), "kind": type(exc).__name__}


_BUG: dict[str, object] = {
    "error": "the daemon failed to answer; its log says why",
    "kind": "NebfsError",
}
