"""Bytes of an object store that speaks Amazon's S3: ``Http`` with signed addresses.

A locator's address is the object's URL; its options are listed in s3_addresses.py. Keys are found
as s3_credentials.py says. The signatures and the search for this machine's own keys are botocore's:
that search has a dozen places with rules of their own, which change, and nobody should write them
a second time. None of botocore's own networking is used for the bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nebfs.errors import NebfsError
from nebfs.fetcher.messages import CallAnswer, CallRequest, FetchRequest
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports.http import Http
from nebfs.fetcher.transports.http_connections import Connections
from nebfs.fetcher.transports.s3_addresses import MOVED, Signed
from nebfs.fetcher.transports.s3_credentials import BucketAccesses, Keyring
from nebfs.model import Revision

if TYPE_CHECKING:
    from nebfs.fetcher.transports import Listener


class S3:
    """The transport ``s3``."""

    def __init__(self, settings: FetcherSettings) -> None:
        """Raises UserError (the file of credentials)."""
        connections = Connections(settings)
        accesses = BucketAccesses(connections.accesses)
        connections.accesses = accesses
        self._addresses = Signed(settings, connections, accesses, Keyring(accesses))
        self._http = Http(settings, connections, self._addresses)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def fetch(self, request: FetchRequest, fd: int, listener: Listener) -> Revision:
        """Fill the request's ranges; see messages.Fetcher.fetch."""
        try:
            return await self._http.fetch(request, fd, listener)
        except NebfsError as exc:
            status = exc.facts.get("status")
            if status not in (MOVED, 404):
                raise
            # Which of bucket and object is missing, or where the bucket is.
            await self._addresses.negotiate(request.locator)
            if status != MOVED:
                raise
        return await self._http.fetch(request, fd, listener)

    async def call(self, request: CallRequest) -> CallAnswer:
        """Return the answer to a plain GET, which is signed, too; see messages.Fetcher.call."""
        return await self._http.call(request)
