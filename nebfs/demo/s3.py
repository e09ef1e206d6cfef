"""An object store that speaks Amazon's S3, as far as reading goes, and really checks signatures.

Objects are asked for by path (``/BUCKET/KEY``). Bytes, ranges, validators and switches are the file
server's. The signature is computed here a second time, by the words of the S3 reference
("Authenticating Requests: Using the Authorization Header", and "Signing and authenticating REST
requests" for version 2), not by the library that nebfs signs with. Refusals are in the words and
the order of the real ones, so far as that was seen: an unknown key before a wrong signature.
"""

from __future__ import annotations

import base64
import email.utils
import functools
import hashlib
import hmac
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import unquote
from xml.sax.saxutils import escape

from nebfs.demo.cloud import Cloud
from nebfs.demo.files import FileHandler, FileServer
from nebfs.demo.listening import Listener

REGION = "us-east-1"
ACCESS_KEY_ID = "DEMONSTRATIONREADER0"
SECRET_ACCESS_KEY = "a-secret-of-the-demonstration"  # noqa: S105 - it lives for minutes
MOST_SKEW = 15 * 60.0
"""Seconds by which a signature's date may differ from the store's clock."""

_V4 = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/,]+)/(\d{8})/([^/,]+)/s3/aws4_request, ?"
    r"SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})"
)
_V2 = re.compile(r"AWS ([^:]+):([A-Za-z0-9+/=]+)")


@dataclass(slots=True)
class StoreKey:
    """What belongs to an access key id."""

    secret: str = field(repr=False)
    token: str = field(default="", repr=False)
    """Of a temporary key."""
    expired: bool = False


@dataclass(frozen=True, slots=True)
class _Refusal:
    status: int
    code: str
    details: str = ""
    """Further elements of the answer."""


class ObjectStore(FileServer):
    """Serves `cloud.objects` to whoever has a key; counts; every path has its own switches."""

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.published = cloud.objects
        self.keys = {ACCESS_KEY_ID: StoreKey(SECRET_ACCESS_KEY)}
        self.public: set[str] = set()
        """Paths that are given to everybody."""
        self.versions = {"v2", "v4"}
        """The kinds of signature that are understood."""
        self.region = REGION
        self.now: Callable[[], float] = time.time

    def listener(self) -> Listener:
        """Return a server, not yet started, that gives these objects."""
        return Listener(functools.partial(_ObjectHandler, store=self))


class _ObjectHandler(FileHandler):
    def __init__(self, *args: object, store: ObjectStore) -> None:
        self._store = store
        super().__init__(*args, files=store)

    def answer(self) -> None:
        path = unquote(self.path.partition("?")[0])
        refusal = self._judged(path)
        if refusal is None:
            return super().answer()
        text = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{refusal.code}</Code>{refusal.details}"
            f"<Resource>{escape(path)}</Resource></Error>"
        )
        body = text.encode()
        headers = {"Content-Type": "application/xml", "Content-Length": str(len(body))}
        self.head(path, refusal.status, headers)
        if self.command != "HEAD":
            self.wfile.write(body)
        if self.command == "POST":
            self.close_connection = True  # its body was not read
        return None

    def _judged(self, path: str) -> _Refusal | None:
        shown = self.headers.get("Authorization", "")
        if not shown:
            if path not in self._store.public:
                return _Refusal(403, "AccessDenied")
        else:
            refusal = self._judged_signature(shown)
            if refusal is not None:
                return refusal
        with self._store.cloud.lock:
            known = set(self._store.published)
        if path in known:
            return None
        bucket = "/" + path.split("/")[1] + "/"
        there = any(name.startswith(bucket) for name in known)
        return _Refusal(404, "NoSuchKey" if there else "NoSuchBucket")

    def _judged_signature(self, shown: str) -> _Refusal | None:
        v4, v2 = _V4.fullmatch(shown), _V2.fullmatch(shown)
        found = v4 or v2
        if found is None:
            return _Refusal(400, "InvalidArgument")
        if ("v4" if v4 else "v2") not in self._store.versions:
            return _Refusal(400, "InvalidRequest")
        key = self._store.keys.get(found[1])
        if key is None:
            return _Refusal(403, "InvalidAccessKeyId")
        token = self.headers.get("x-amz-security-token", "")
        if token != key.token:
            return _Refusal(400, "InvalidToken")
        if v4 is not None and v4[3] != self._store.region:
            region = f"<Region>{self._store.region}</Region>"
            return _Refusal(400, "AuthorizationHeaderMalformed", region)
        date = self._date()
        if date is None:
            return _Refusal(403, "AccessDenied")
        if abs(date - self._store.now()) > MOST_SKEW:
            return _Refusal(403, "RequestTimeTooSkewed")
        expected = self._v4(v4, key.secret) if v4 is not None else self._v2(key.secret)
        if not hmac.compare_digest(expected, found[5] if v4 is not None else found[2]):
            return _Refusal(403, "SignatureDoesNotMatch")
        return _Refusal(400, "ExpiredToken") if key.expired else None

    def _date(self) -> float | None:
        """Return when the request says that it was signed."""
        text = self.headers.get("x-amz-date", "")
        try:
            if text:
                return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
            return email.utils.parsedate_to_datetime(self.headers.get("Date", "")).timestamp()
        except (TypeError, ValueError):
            return None

    def _v4(self, shown: re.Match[str], secret: str) -> str:
        _, day, region, names, _ = shown.groups()
        path, _, query = self.path.partition("?")
        lines = [f"{n}:{' '.join(self.headers.get(n, '').split())}" for n in names.split(";")]
        content = self.headers.get("x-amz-content-sha256", "")
        if "host" not in names.split(";") or "x-amz-date" not in names.split(";"):
            return ""
        request = "\n".join([self.command, path, query, *lines, "", names, content])
        scope = f"{day}/{region}/s3/aws4_request"
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = "\n".join(["AWS4-HMAC-SHA256", self.headers.get("x-amz-date", ""), scope, digest])
        key = b"AWS4" + secret.encode()
        for part in (day, region, "s3", "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        return hmac.digest(key, text.encode(), "sha256").hex()

    def _v2(self, secret: str) -> str:
        own = sorted({n.lower() for n in self.headers if n.lower().startswith("x-amz-")})
        lines = [f"{name}:{self.headers[name].strip()}" for name in own]
        date = "" if "x-amz-date" in own else self.headers.get("Date", "")
        path = self.path.partition("?")[0]
        text = "\n".join([self.command, "", "", date, *lines, path])
        return base64.b64encode(hmac.digest(secret.encode(), text.encode(), "sha1")).decode()
