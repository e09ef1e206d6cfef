"""Plain requests of the control plane: lists, manifests, XML-RPC. By aiohttp, answered whole."""

from __future__ import annotations

import asyncio

import aiohttp

from nebfs.errors import BadAnswer, Unreachable
from nebfs.fetcher.messages import CallAnswer, CallRequest
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports.http_connections import Connections, Target, network_failures


class Calls:
    """Sends requests whose answers are small enough to be held in memory."""

    def __init__(self, settings: FetcherSettings, connections: Connections) -> None:
        self._settings = settings
        self._connections = connections

    async def call(self, request: CallRequest, target: Target) -> CallAnswer:
        """Return the answer of `target` to `request`, whose own address and headers do not count.

        Raises Unreachable, BadAnswer, Refused (a proxy) or Unsupported.
        """
        try:
            async with asyncio.timeout(request.timeout):
                return await self._call(request, target)
        except TimeoutError as exc:
            raise Unreachable("no answer in time", after=request.timeout, url=target.shown) from exc

    async def _call(self, request: CallRequest, target: Target) -> CallAnswer:
        response = await self._ask_twice(request, target)
        try:
            coding = response.headers.get("Content-Encoding", "").strip().lower()
            if coding not in ("", "identity"):
                raise BadAnswer("the answer is encoded unasked", coding=coding, url=target.shown)
            body = await self._body(response, request.max_body, target.shown)
        finally:
            response.close()
        return CallAnswer(response.status, tuple(response.headers.items()), body)

    async def _body(self, response: aiohttp.ClientResponse, limit: int, url: str) -> bytes:
        pieces: list[bytes] = []
        size = 0
        announced = response.content_length or 0
        while max(size, announced) <= limit:
            with network_failures(url, self._settings):
                piece = await response.content.readany()
            if not piece:
                return b"".join(pieces)
            pieces.append(piece)
            size += len(piece)
        raise BadAnswer("the answer is larger than allowed", limit=limit, url=url)

    async def _ask_twice(self, request: CallRequest, target: Target) -> aiohttp.ClientResponse:
        for last in (False, True):
            try:
                response, _ = await self._connections.follow(
                    request.method,
                    target,
                    {},
                    timeout=self._connections.call_timeout,
                    body=request.body,
                )
            except Unreachable as exc:
                # A kept connection that the server had just hung up: aiohttp asks again by itself
                # but for POST. Whatever nebfs calls only reads, so asking twice does no harm.
                if last or not _hung_up(exc.__cause__):
                    raise
            else:
                return response
        raise AssertionError("unreachable")


def _hung_up(cause: BaseException | None) -> bool:
    """Whether a connection that stood was closed before the answer."""
    if isinstance(cause, aiohttp.ClientConnectorError):
        return False
    return isinstance(cause, (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError))
