"""What an object store means when it refuses: the code in its answer, in our words.

Its own text is never repeated: it can hold the keys, and what was signed.
Source: "Error responses" of the S3 reference; radosgw, MinIO and Garage use the same codes.
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from nebfs.errors import Missing, NebfsError, Refused
from nebfs.fetcher.transports.http_answers import refusal

MAX_ANSWER = 64 << 10
"""Bytes of an answer that are looked at; the real ones have a few hundred."""

# The document is flat, and two of its fields are wanted: no parser has to be trusted with it.
_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,64})</Code>")
_REGION = re.compile(rb"<Region>([A-Za-z0-9_-]{1,64})</Region>")
_HEADER = re.compile(r"[A-Za-z0-9_-]{1,64}")

_WORDS = {
    "AccessDenied": "these keys may not read the object",
    "AccountProblem": "the object store has trouble with the account",
    "AllAccessDisabled": "the object store has closed the bucket",
    "AuthorizationHeaderMalformed": "the bucket is in another region",
    "ExpiredToken": "the temporary keys have expired",
    "InvalidAccessKeyId": "the object store does not know the access key",
    "InvalidObjectState": "the object is archived: it has to be restored before it can be read",
    "InvalidToken": "the session token is not valid",
    "PermanentRedirect": "the bucket is in another region",
    "RequestTimeTooSkewed": "this machine's clock and the object store's differ too much",
    "SignatureDoesNotMatch": "the secret access key is wrong",
    "TokenRefreshRequired": "the temporary keys have expired",
    "UserSuspended": "the object store has suspended the user",
}
_MISSING = {
    "NoSuchBucket": "there is no such bucket",
    "NoSuchKey": "there is no such object in the bucket",
}
_ELSEWHERE = frozenset(("AuthorizationHeaderMalformed", "PermanentRedirect"))
_FINAL = frozenset(_WORDS) - {"AccessDenied", "SignatureDoesNotMatch"}


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is not the object."""

    status: int
    code: str
    """Empty where it said none."""
    region: str
    """Where the bucket is, if the answer said so."""
    headers: Mapping[str, str]

    @property
    def telling(self) -> bool:
        """Whether we have words for it."""
        return self.code in _WORDS or self.code in _MISSING

    @property
    def final(self) -> bool:
        """Whether another kind of signature would be answered just so."""
        return self.status == 404 or self.code in _FINAL


def read_answer(status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """Read what an object store says; `headers` are looked up in any case."""
    code, region = _CODE.search(body), _REGION.search(body)
    known = headers.get("x-amz-bucket-region", "")
    if not _HEADER.fullmatch(known):
        known = region[1].decode() if region is not None else ""
    return Answer(status, code[1].decode() if code else "", known, headers)


def failure(answer: Answer, url: str, *, signed: bool) -> NebfsError:
    """Return what an answer means for the object at `url`, which is shown."""
    code = answer.code
    if code in _MISSING:
        return Missing(_MISSING[code], url=url)
    if answer.status == 404:
        return refusal(404, answer.headers, url)
    if not signed and answer.status in (401, 403):
        return Refused("the object store wants keys, and there are none for it", url=url)
    if code in _WORDS:
        found = Refused(_WORDS[code], status=answer.status, url=url)
        if code == "RequestTimeTooSkewed":
            found.facts["seconds"] = _difference(answer.headers.get("Date", ""))
        if code in _ELSEWHERE and answer.region:
            found.facts["region"] = answer.region
        return found
    general = refusal(answer.status, answer.headers, url)
    if code:
        general.facts["code"] = code
    return general


def _difference(date: str) -> object:
    """Return by how many seconds our clock is ahead of a Date header."""
    try:
        theirs = email.utils.parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError, OverflowError):
        return "unknown"
    return round(time.time() - theirs)
