"""The records of messages.py as JSON values, and back. Written out: it is the protocol.

Both ends are always of one version (the worker is started by the daemon from the same package), so
there are no version numbers and nothing is optional.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nebfs.errors import KINDS, FetcherDied, NebfsError
from nebfs.fetcher.messages import CallAnswer, CallRequest, FetchRequest, Filled
from nebfs.model import Locator, Revision

Json = Mapping[str, Any]


def revision_to_json(revision: Revision | None) -> list[Any] | None:
    """``[size, etag, modified, ranges]``, or null."""
    if revision is None:
        return None
    return [revision.size, revision.etag, revision.modified, revision.ranges]


def revision_from_json(value: list[Any] | None) -> Revision | None:
    """Read what `revision_to_json` wrote."""
    return None if value is None else Revision(*value)


def fetch_to_json(request: FetchRequest) -> dict[str, Any]:
    """Everything but the descriptor."""
    locator = request.locator
    return {
        "transport": locator.transport,
        "address": locator.address,
        "options": locator.options,
        "ranges": request.ranges,
        "expected": revision_to_json(request.expected),
        "slot_size": request.slot_size,
        "seed": request.seed,
        "wanted": request.wanted,
        "awaited": request.awaited,
        "since": request.since,
    }


def fetch_from_json(value: Json) -> FetchRequest:
    """Read what `fetch_to_json` wrote."""
    options = tuple((name, text) for name, text in value["options"])
    return FetchRequest(
        locator=Locator(value["transport"], value["address"], options),
        ranges=tuple((start, stop) for start, stop in value["ranges"]),
        expected=revision_from_json(value["expected"]),
        slot_size=value["slot_size"],
        seed=value["seed"],
        wanted=tuple(value["wanted"]) if value["wanted"] else None,
        awaited=value["awaited"],
        since=value["since"],
    )


def call_to_json(request: CallRequest) -> dict[str, Any]:
    """Everything but the body, which is the frame's payload."""
    return {
        "method": request.method,
        "url": request.url,
        "headers": request.headers,
        "timeout": request.timeout,
        "max_body": request.max_body,
        "transport": request.transport,
    }


def call_from_json(value: Json, body: bytes) -> CallRequest:
    """Read what `call_to_json` wrote."""
    return CallRequest(
        method=value["method"],
        url=value["url"],
        headers=tuple((name, text) for name, text in value["headers"]),
        body=body,
        timeout=value["timeout"],
        max_body=value["max_body"],
        transport=value["transport"],
    )


def answer_to_json(answer: CallAnswer) -> dict[str, Any]:
    """Everything but the body, which is the frame's payload."""
    return {"status": answer.status, "headers": answer.headers}


def answer_from_json(value: Json, body: bytes) -> CallAnswer:
    """Read what `answer_to_json` wrote."""
    headers = tuple((name, text) for name, text in value["headers"])
    return CallAnswer(value["status"], headers, body)


def filled_to_json(slots: Iterable[Filled]) -> list[tuple[int, int, int, bool]]:
    """One ``[slot, length, checksum, zero]`` per slot: this is the hot message."""
    return [(filled.slot, filled.length, filled.checksum, filled.zero) for filled in slots]


def filled_from_json(value: list[Any]) -> list[Filled]:
    """Read what `filled_to_json` wrote."""
    return [Filled(*facts) for facts in value]


def error_to_json(error: NebfsError) -> dict[str, Any]:
    """A failure by its kind's name; facts that JSON does not know become text.

    Of a kind of a transport's own the name goes that the daemon knows: what is temporary must stay
    so.
    """
    names = (kind.__name__ for kind in type(error).__mro__)
    return {
        "kind": next((name for name in names if name in KINDS), type(error).__name__),
        "message": error.message,
        "retry_after": error.retry_after,
        "facts": {
            name: fact if isinstance(fact, (str, int, float, bool, type(None))) else str(fact)
            for name, fact in error.facts.items()
        },
    }


def error_from_json(value: Json) -> NebfsError:
    """Rebuild a failure; a kind that may not cross the border becomes FetcherDied."""
    kind = KINDS.get(value["kind"], FetcherDied)
    return kind(value["message"], retry_after=value["retry_after"], **value["facts"])
