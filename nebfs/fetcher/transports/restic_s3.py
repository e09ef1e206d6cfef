"""A restic repository in an object store: the signatures of the transport ``s3``.

Objects have the names of the repository's files, behind the repository's own. Nothing but GET is
asked. TLS whose certificates nobody checks is for a store alone whose locator says so: what comes
of it is authenticated by the repository's keys, and no signature tells the secret it was made with.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode
from xml.etree.ElementTree import ParseError

import aiohttp
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring
from yarl import URL

from nebfs.errors import BadAnswer, Missing, NebfsError, Unsupported
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports.http_addresses import REFUSED
from nebfs.fetcher.transports.http_answers import judge_range, refusal
from nebfs.fetcher.transports.http_connections import (
    Connections,
    Target,
    network_failures,
    parse_url,
)
from nebfs.fetcher.transports.restic_stores import MAX_NAMES, shorter, sums, too_large
from nebfs.fetcher.transports.s3_addresses import MOVED, Signed
from nebfs.fetcher.transports.s3_credentials import BucketAccesses, Keyring
from nebfs.model import Locator

_MAX_LISTING = 8 << 20
"""Bytes of one answer to a listing: of a thousand names, as stores give them at most."""

_PAGES = MAX_NAMES // 1000 + 2


class _Trusting(Connections):
    """Connections that take any certificate of one place."""

    def __init__(self, settings: FetcherSettings, place: URL) -> None:
        super().__init__(settings)
        self._place = place.origin()
        self._any = ssl.create_default_context()
        self._any.check_hostname = False
        self._any.verify_mode = ssl.CERT_NONE

    def tls(self, url: URL) -> ssl.SSLContext:
        """See Connections."""
        return self._any if url.origin() == self._place else super().tls(url)

    def authorized(self, target: Target) -> Target:
        """Nothing is shown to anybody because of what somebody unknown has said."""
        return target


class Buckets:
    """The connections to the object stores, and the keys for them; one for the transport."""

    def __init__(self, settings: FetcherSettings) -> None:
        """Raises UserError (the file of credentials)."""
        self._settings = settings
        self._doors: dict[str, _Door] = {}

    async def aclose(self) -> None:
        """Close every connection."""
        for door in self._doors.values():
            await door.connections.aclose()

    def store(self, base: str, options: Mapping[str, str]) -> S3Store:
        """Return the store at `base`, which ends in a slash."""
        # Without certificates a place is only what it says it is: its connections are its own.
        trusting = options.get("insecure-tls") == "yes"
        place = str(parse_url(base).origin()) if trusting else ""
        door = self._doors.get(place)
        if door is None:
            door = self._doors[place] = _Door.made(self._settings, place)
        kept = ("base", "bucket", "region", "access-key-id", "secret-access-key")
        told = {name: options[name] for name in kept if options.get(name)}
        return S3Store(self._settings, door, base, {**told, "signature": "v4"})


@dataclass(frozen=True, slots=True)
class _Door:
    """What is needed to ask a store."""

    connections: Connections
    signed: Signed

    @classmethod
    def made(cls, settings: FetcherSettings, trusting: str) -> _Door:
        connections = _Trusting(settings, URL(trusting)) if trusting else Connections(settings)
        accesses = BucketAccesses(connections.accesses)
        connections.accesses = accesses
        return cls(connections, Signed(settings, connections, accesses, Keyring(accesses)))


@dataclass(frozen=True, slots=True)
class S3Store:
    """The objects whose addresses begin with `base`."""

    settings: FetcherSettings
    door: _Door
    base: str
    options: Mapping[str, str] = field(repr=False)

    async def names(self, directory: str) -> frozenset[str]:
        """See Store."""
        bucket = self.options.get("base", "")
        prefix = f"{self.base.removeprefix(bucket)}{directory}/"
        query = {"list-type": "2", "prefix": prefix}
        found: list[str] = []
        for _ in range(_PAGES):
            # In this order and so encoded they are signed.
            url = f"{bucket}?{urlencode(sorted(query.items()), safe='-_.~')}"
            keys, token = _listed(await self._whole(url, _MAX_LISTING))
            found += (key.removeprefix(prefix) for key in keys if key.startswith(prefix))
            if not token:
                break
            query["continuation-token"] = token
        else:
            raise BadAnswer("the repository has too many files", limit=MAX_NAMES)
        if not found and directory == "keys":
            raise Missing("a file of the repository is not there")
        return sums(found)

    async def read(self, path: str, start: int, stop: int) -> bytes:
        """See Store."""
        return await self._get(f"{self.base}{path}", stop - start, (start, stop))

    async def load(self, path: str, limit: int) -> bytes:
        """See Store."""
        return await self._whole(f"{self.base}{path}", limit)

    async def _whole(self, url: str, limit: int) -> bytes:
        return await self._get(url, limit, None)

    async def _get(self, url: str, limit: int, part: tuple[int, int] | None) -> bytes:
        locator = Locator("s3", url, tuple(self.options.items()))
        for last in (False, True):
            target = await self.door.signed.find(locator)
            headers = {} if part is None else {"Range": f"bytes={part[0]}-{part[1] - 1}"}
            response, asked = await self.door.connections.follow(
                "GET", target, headers, timeout=self.door.connections.fetch_timeout
            )
            try:
                if response.status in REFUSED and not last:
                    if await self.door.signed.renewed(
                        locator, asked, response.status, response.headers
                    ):
                        continue
                elif response.status == MOVED and not last:
                    await self.door.signed.negotiate(locator)
                    continue
                return await self._body(response, asked.shown, limit, part)
            finally:
                response.close()
        raise AssertionError("unreachable")

    async def _body(
        self, response: aiohttp.ClientResponse, shown: str, limit: int, part: tuple[int, int] | None
    ) -> bytes:
        if part is not None:
            verdict = judge_range(response.status, response.headers, part, None, shown)
            if not verdict.revision.ranges:
                raise Unsupported("the object store gives no parts of objects", url=shown)
            if verdict.stop < part[1]:
                raise shorter(shown)
        elif response.status != 200:
            raise _failed(response, shown)
        pieces: list[bytes] = []
        size = 0
        while size <= limit:
            with network_failures(shown, self.settings):
                piece = await response.content.readany()
            if not piece:
                break
            pieces.append(piece)
            size += len(piece)
        if size > limit:
            raise too_large(limit)
        if part is not None and size < limit:
            raise shorter(shown)
        return b"".join(pieces)


def _failed(response: aiohttp.ClientResponse, shown: str) -> NebfsError:
    return refusal(response.status, response.headers, shown)


def _listed(body: bytes) -> tuple[list[str], str]:
    """Return the keys of one page of a listing, and how to ask for the next; empty: it is the last.

    Source: "ListObjectsV2" of the S3 reference.
    """
    try:
        root = fromstring(body)
    except (ParseError, DefusedXmlException, ValueError) as exc:
        raise BadAnswer("the object store's list is not understood") from exc
    keys: list[str] = []
    facts: dict[str, str] = {}
    for element in root:
        name = element.tag.rpartition("}")[2]
        if name == "Contents":
            keys += (one.text or "" for one in element if one.tag.rpartition("}")[2] == "Key")
        else:
            facts[name] = element.text or ""
    if root.tag.rpartition("}")[2] != "ListBucketResult":
        raise BadAnswer("the object store's list is not understood")
    more = facts.get("IsTruncated", "").strip().lower() == "true"
    token = facts.get("NextContinuationToken", "")
    if more and not token:
        raise BadAnswer("the object store's list does not say how it goes on")
    return keys, token if more else ""
