"""How an object of a bucket is asked for now: signed, in the way that its store understands.

Version 4 comes first, whatever the marketplace's template says: interfaces that write such
templates put SIGNATURE_VERSION=s3 (version 2) where only version 4 is understood. What is refused
is asked for again in the other ways that the refusal leaves: in the region that it names, then in
version 2. The way that worked is remembered for the bucket.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cachetools import LRUCache

from nebfs.errors import NebfsError, Refused, Unreachable
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports.http_addresses import REFUSED, headers_of
from nebfs.fetcher.transports.http_connections import (
    Connections,
    Target,
    network_failures,
    parse_url,
)
from nebfs.fetcher.transports.s3_answers import MAX_ANSWER, Answer, failure, read_answer
from nebfs.fetcher.transports.s3_credentials import BucketAccesses, Keyring
from nebfs.fetcher.transports.s3_signing import Keys, signed_v2, signed_v4
from nebfs.model import Locator

FRESH = 300.0
"""Seconds for which a signature is used. Stores accept it while their clock and its date differ by
at most 15 minutes."""

QUESTION_TIMEOUT = 30.0
"""Seconds for one question after a refusal, and the words of its answer."""

MOVED = 301
"""What Amazon answers, without a Location, where a bucket is in another region."""

_WAYS = 4  # asked in at most: the one refused, one or two regions, version 2
_AMAZON = re.compile(r"(//(?:[^/]+\.)?s3\.)[a-z0-9-]+(\.amazonaws\.com(?:\.cn)?(?=/))")


@dataclass(frozen=True, slots=True)
class _Object:
    """What a locator says."""

    url: str = field(repr=False)
    base: str = field(repr=False)
    """The address of its bucket, with a slash at the end; empty for a plain call."""
    bucket: str
    region: str
    signature: str
    keys: Keys | None = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)

    @classmethod
    def of(cls, locator: Locator) -> _Object:
        said = dict(locator.options)
        access, secret = said.get("access-key-id", ""), said.get("secret-access-key", "")
        return cls(
            locator.address,
            said.get("base", ""),
            said.get("bucket", ""),
            said.get("region", "us-east-1"),
            said.get("signature", ""),
            Keys(access, secret) if access and secret else None,
            headers_of(locator),
        )

    @property
    def place(self) -> str:
        """Whose way is remembered."""
        return self.base or str(parse_url(self.url).origin())

    def address(self, region: str) -> str:
        """Return its URL in `region`: Amazon has other hosts for each."""
        return _AMAZON.sub(rf"\g<1>{region}\g<2>", self.url)

    @property
    def amazon(self) -> bool:
        return _AMAZON.search(self.url) is not None

    @property
    def resource(self) -> str:
        """The ``/BUCKET/KEY`` that version 2 signs."""
        if self.base:
            return f"/{self.bucket}/{self.url.removeprefix(self.base)}"
        return parse_url(self.url).raw_path


@dataclass(frozen=True, slots=True)
class _Way:
    """How a bucket's objects are asked for."""

    region: str
    v2: bool = False


class Signed:
    """The Addresses of objects. Options of their locators: ``bucket``, its address ``base``,
    ``region``, ``signature`` (``s3``, ``v4`` or nothing), ``access-key-id``, ``secret-access-key``.
    """

    def __init__(
        self,
        settings: FetcherSettings,
        connections: Connections,
        accesses: BucketAccesses,
        keyring: Keyring,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`connections` are what questions go over; `now` is the time of day in seconds."""
        self._settings = settings
        self._connections = connections
        self._accesses = accesses
        self._keyring = keyring
        self._now = now
        self._targets: LRUCache[Locator, tuple[float, Target]] = LRUCache(4096)
        self._ways: LRUCache[str, _Way] = LRUCache(256)
        self._asking = asyncio.Lock()

    def known(self, locator: Locator) -> Target | None:
        """Return how it was asked for last, while the signature is fresh."""
        at, target = self._targets.get(locator, (0.0, None))
        # The time of day may be set back, and a machine may have slept.
        return target if target is not None and 0 <= self._now() - at < FRESH else None

    async def find(self, locator: Locator) -> Target:
        """See Addresses. Raises BadAnswer, Refused or Unreachable."""
        target = self.known(locator)
        if target is None:
            found = _Object.of(locator)
            way = self._ways.get(found.place) or _Way(found.region)
            target, _ = await self._signed(found, way)
            self._targets[locator] = self._now(), target
        return target

    async def renewed(
        self,
        locator: Locator,
        target: Target,
        status: int,  # noqa: ARG002 - its reason is in the body, which was not kept: asked again
        headers: Mapping[str, str],  # noqa: ARG002
    ) -> bool:
        """See Addresses: find the way that the store accepts, or raise what it says."""
        known, own = self.known(locator), parse_url(locator.address)
        if not _is_signed(target) and target.url not in (own, known and known.url):
            # Keys are for the store that they were given for, wherever that points.
            raise Refused(
                "the object store sends us to another address, which does not let us in",
                url=locator.shown,
                to=target.shown,
            )
        await self.negotiate(locator, target)
        return True

    async def negotiate(self, locator: Locator, refused: Target | None = None) -> None:
        """Find the way in which the object is given. Raises what stands against it in words."""
        async with self._asking:
            known = self.known(locator)
            if refused is not None and known is not None and known.headers != refused.headers:
                return  # somebody else has found it meanwhile
            self._targets.pop(locator, None)
            self._keyring.forget()
            found = _Object.of(locator)
            first = _Way(found.region)
            # The store may be another one by now: what came first comes again.
            ways = list(dict.fromkeys((self._ways.get(found.place, first), first)))
            trouble: NebfsError | None = None
            telling = False
            for way in ways:  # grows meanwhile
                target, signed = await self._signed(found, way)
                answer = await self._question(target)
                if answer is None:
                    self._ways[found.place] = way
                    self._targets[locator] = self._now(), target
                    return
                # What version 4 says is what is meant, unless it is nothing.
                if trouble is None or not way.v2 or (answer.telling and not telling):
                    trouble = failure(answer, target.shown, signed=signed)
                    telling = answer.telling
                following = _after(answer, way, found) if signed or answer.region else None
                if following is not None and following not in ways and len(ways) < _WAYS:
                    ways.append(following)
            assert trouble is not None  # noqa: S101 - there is at least one way
            raise trouble

    async def _signed(self, found: _Object, way: _Way) -> tuple[Target, bool]:
        url = found.address(way.region)
        if found.base:
            moved = _AMAZON.sub(rf"\g<1>{way.region}\g<2>", found.base)
            self._accesses.learn(moved, found.bucket)
        keys = await self._keyring.keys(url, found.keys)
        if keys is None:
            return Target(parse_url(url), found.headers), False
        try:
            if way.v2:
                headers = signed_v2(url, keys, found.resource)
            else:
                headers = signed_v4(url, keys, way.region)
        except UnicodeError as exc:
            raise Refused("the keys for the object store hold what no key can hold") from exc
        return Target(parse_url(url), (*found.headers, *headers)), True

    async def _question(self, target: Target) -> Answer | None:
        """Ask for one byte; return None when it is given, else what is said instead."""
        try:
            async with asyncio.timeout(QUESTION_TIMEOUT):
                return await self._ask(target)
        except TimeoutError as exc:
            raise Unreachable(
                "no answer in time", after=QUESTION_TIMEOUT, url=target.shown
            ) from exc

    async def _ask(self, target: Target) -> Answer | None:
        response, _ = await self._connections.follow(
            "GET", target, {"Range": "bytes=0-0"}, timeout=self._connections.fetch_timeout
        )
        try:
            if response.status not in REFUSED and response.status not in (MOVED, 404):
                return None  # also 416 of an empty object; other failures show by themselves
            body = b""
            with network_failures(target.shown, self._settings):
                while len(body) < MAX_ANSWER and (piece := await response.content.readany()):
                    body += piece
            return read_answer(response.status, response.headers, body[:MAX_ANSWER])
        finally:
            response.close()


def _is_signed(target: Target) -> bool:
    return any(name == "Authorization" and text[:3] == "AWS" for name, text in target.headers)


def _after(answer: Answer, way: _Way, found: _Object) -> _Way | None:
    """Return the way to try after `way` was answered with `answer`."""
    if answer.region and answer.region != way.region and not way.v2:
        return _Way(answer.region)
    if way.v2 or answer.final or found.signature == "v4":
        return None
    if found.amazon and found.signature != "s3":
        return None  # it gave up version 2 years ago
    return _Way(way.region, v2=True)
