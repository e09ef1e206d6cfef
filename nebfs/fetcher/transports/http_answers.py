"""Judging the answer to a range request (RFC 9110) before a byte of it is written anywhere.

Pure: a status and headers in, a verdict or an error out.
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from nebfs.errors import BadAnswer, Changed, Missing, NebfsError, Refused, Unreachable, Unsupported
from nebfs.model import Revision

_CONTENT_RANGE = re.compile(r"bytes\s+(\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII)
_UNSATISFIED = re.compile(r"bytes\s+\*/(\d{1,19})", re.ASCII)
_NUMBER = re.compile(r"\d{1,19}", re.ASCII)

Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an accepted answer holds: the bytes [start, stop) of `revision`.

    An answer with the whole content (to a server without Range) has `revision.ranges` False.
    """

    revision: Revision
    start: int
    stop: int


def judge_range(
    status: int, headers: Headers, asked: tuple[int, int], expected: Revision | None, url: str
) -> Verdict:
    """Accept an answer to a request for `asked` (start, stop), or raise what is wrong with it.

    `headers` are looked up in any case; `url` is only shown. With `expected`, everything that it
    knows must be what the answer says, else Changed. Raises Refused, Missing, Unreachable,
    BadAnswer, Changed or Unsupported.
    """
    if status == 416:
        return _unsatisfiable(headers, expected, url)
    if status not in (200, 206):
        raise refusal(status, headers, url)
    coding = headers.get("Content-Encoding", "").strip().lower()
    if coding not in ("", "identity"):
        raise BadAnswer(
            "the server encoded bytes that were asked for as they are", coding=coding, url=url
        )
    verdict = _partial(headers, asked, url) if status == 206 else _whole(headers, url)
    if expected is not None:
        _compare(expected, verdict.revision, url)
        short = verdict.stop < min(asked[1], verdict.revision.size)
        if short:
            raise BadAnswer(
                "the server gave less than it was asked for", stop=verdict.stop, url=url
            )
    return verdict


def refusal(status: int, headers: Headers, url: str) -> NebfsError:
    """Return the failure that a status other than success means."""
    if status in (401, 403):
        return Refused("the server refuses access", status=status, url=url)
    if status == 407:
        return Refused("the proxy refuses access", status=status, url=url)
    if status in (404, 410):
        return Missing("the server says that it is not there", status=status, url=url)
    if status in (429, 503):
        wait = retry_after(headers.get("Retry-After", ""))
        return Unreachable("the server asks to wait", retry_after=wait, status=status, url=url)
    if status >= 500:
        return Unreachable("the server failed", status=status, url=url)
    return BadAnswer(
        "the server answered with a status that makes no sense here", status=status, url=url
    )


def retry_after(text: str) -> float | None:
    """Return the seconds that a Retry-After header asks for: a number or an HTTP date."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return max(0.0, moment.timestamp() - time.time())


def _revision(headers: Headers, size: int, *, ranges: bool) -> Revision:
    etag, modified = headers.get("ETag", ""), headers.get("Last-Modified", "")
    return Revision(size, etag=etag, modified=modified, ranges=ranges)


def _compare(expected: Revision, found: Revision, url: str) -> None:
    # What the probe was not told cannot tell versions apart: a server behind a balancer may add it.
    known = Revision(
        found.size,
        etag=found.etag if expected.etag else "",
        modified=found.modified if expected.modified else "",
    )
    difference = expected.differs_from(known)
    if difference:
        raise Changed("another version is there now", difference=difference, url=url)


def _partial(headers: Headers, asked: tuple[int, int], url: str) -> Verdict:
    text = headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if match is None:
        raise BadAnswer(
            "a partial answer does not say which part it is", content_range=text, url=url
        )
    if match[3] == "*":
        raise BadAnswer("a partial answer does not say how long the whole is", url=url)
    start, stop, size = int(match[1]), int(match[2]) + 1, int(match[3])
    if start != asked[0] or not start < stop <= min(size, asked[1]):
        wanted = f"{asked[0]}-{asked[1] - 1}"
        raise BadAnswer("the server gave another part", asked=wanted, content_range=text, url=url)
    length = headers.get("Content-Length", "")
    if length and length.strip() != str(stop - start):
        raise BadAnswer(
            "a part and its length disagree", content_range=text, length=length, url=url
        )
    return Verdict(_revision(headers, size, ranges=True), start, stop)


def _whole(headers: Headers, url: str) -> Verdict:
    text = headers.get("Content-Length", "").strip()
    if not _NUMBER.fullmatch(text):
        raise Unsupported("the server says neither the length nor gives parts (Range)", url=url)
    size = int(text)
    return Verdict(_revision(headers, size, ranges=False), 0, size)


def _unsatisfiable(headers: Headers, expected: Revision | None, url: str) -> Verdict:
    match = _UNSATISFIED.fullmatch(headers.get("Content-Range", "").strip())
    size = int(match[1]) if match else None
    if size == 0 and (expected is None or expected.size == 0):
        revision = _revision(headers, 0, ranges=True)
        if expected is not None:
            _compare(expected, revision, url)
        return Verdict(revision, 0, 0)
    raise Changed("the server has nothing at that offset", size=size, url=url)
