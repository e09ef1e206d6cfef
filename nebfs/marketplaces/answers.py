"""The documents that public marketplaces consist of: where they are, and what an answer means."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit

import trio

from nebfs.errors import BadAnswer, Missing, Refused, Unreachable, Unsupported
from nebfs.fetcher.messages import CallAnswer, CallRequest
from nebfs.marketplaces.driver import Call
from nebfs.model import Marketplace, without_credentials

T = TypeVar("T")


# Decoding holds the interpreter, so more than one at a time gains nothing.
_decoding = trio.CapacityLimiter(1)


async def decoded(work: Callable[..., T], *arguments: object) -> T:
    """Return what `work` makes of a document, in a worker thread: one at a time in this room."""
    return await trio.to_thread.run_sync(partial(work, *arguments), limiter=_decoding)


def http_parts(text: str) -> SplitResult | None:
    """Return the parts of an HTTP address as a person wrote it; None if `text` is none."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme.lower() in {"http", "https"} and bool(parts.hostname)
        _ = parts.port
    except ValueError:  # such as a broken IPv6 address or a port that is no number
        return None
    return parts if usable and text.isprintable() and " " not in text else None


def endpoint_of(marketplace: Marketplace, default: str) -> str:
    """Return ENDPOINT, or `default` without one, with a slash at its end. Raises Unsupported."""
    endpoint = marketplace.template.get("ENDPOINT").strip() or default
    parts = http_parts(endpoint)
    if parts is None or parts.query or parts.fragment or parts.port == 0:
        raise Unsupported("the marketplace's ENDPOINT is not an HTTP address", id=marketplace.id)
    return endpoint.rstrip("/") + "/"


async def document(
    call: Call, url: str, *, accept: str, max_body: int, agent: str = "", what: str = "document"
) -> bytes:
    """Return the document at `url`, of at most `max_body` bytes. `agent`: the User-Agent, if it is
    to be another one than nebfs's.

    Raises what `judge` raises.
    """
    headers = [("Accept", accept)]
    if agent:
        headers.append(("User-Agent", agent))
    answer = await call(CallRequest("GET", url, tuple(headers), max_body=max_body))
    judge(answer, without_credentials(url), what=what)
    return answer.body


def judge(answer: CallAnswer, shown: str, *, what: str, who: str = "marketplace") -> None:
    """Raise what a status other than 200 means: Missing, Refused, Unreachable or BadAnswer.

    `what` was asked of `who` at the address `shown`.
    """
    status = answer.status
    if status == 200:
        return
    if status in {401, 403}:
        # Docker Hub does not tell who may not know which images there are.
        reason = f"the {who} does not show this {what}, or has none"
        raise Refused(reason, url=shown, status=status)
    if status in {404, 410}:
        raise Missing(f"the {who} has no such {what}", url=shown, status=status)
    if status in {408, 429} or status >= 500:
        after = answer.header("Retry-After")
        wait = float(after) if after.isascii() and after.isdigit() and len(after) < 9 else None
        raise Unreachable(
            f"the {who} cannot answer now", retry_after=wait, url=shown, status=status
        )
    raise BadAnswer(f"the {who} gave an unexpected answer", url=shown, status=status)
