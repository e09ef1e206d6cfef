"""The network of the model: what is published at which address, and how the places feel today.

A place is up, down (nobody answers), half (an answer breaks off) or hangs (an answer does not come,
until the transport gives up). The front-end also refuses: somebody has changed the password.
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

import trio
from xxhash import xxh3_64_intdigest

from nebfs.demo.frontend import FrontEnd
from nebfs.errors import CacheFault, Changed, Missing, Unreachable
from nebfs.fetcher.messages import CallAnswer, CallRequest, FetchRequest
from nebfs.model import Filled, Revision
from tests.promises.model.reference import Version
from tests.promises.model.worker import Told

Weather = Literal["up", "down", "half", "hangs"]

STALL = 15.0
"""Seconds after which a transport gives a transfer up that brings nothing: the default."""

SERVICE = "http://service.model"
FILES = "http://files.model"
FRONT_END = "http://one.model/RPC2"


def etag_of(version: Version) -> str:
    return f'"{version.number}"'


def revision_of(version: Version) -> Revision:
    return Revision(len(version.data), etag_of(version))


@dataclass
class Network:
    """Implements worker.Web. `random` decides when answers break off and how long they take."""

    front_end: FrontEnd
    random: random.Random
    published: dict[str, Version] = field(default_factory=dict)
    files: Weather = "up"
    service: Weather = "up"
    one: Weather = "up"
    latency: float = 0.02
    disk_full: bool = False
    """Whether writes to files on a disk fail; those to memory do not."""
    told: dict[str, list[Version]] = field(default_factory=dict)
    """What was answered to questions that expect nothing: by address, the last one at the end."""
    asked: int = 0
    brought: int = 0
    """Bytes that were brought."""

    async def fetch(self, request: FetchRequest, fd: int, told: Told) -> Revision:
        self.asked += 1
        address = request.locator.address
        await self._begin(self.files)
        version = self.published.get(address)
        if version is None:
            raise Missing("there is nothing", url=address)
        revision = revision_of(version)
        if request.expected is not None:
            difference = request.expected.differs_from(revision)
            if difference:
                raise Changed("another version", what=difference)
        else:
            self.told.setdefault(address, []).append(version)
        await told.found(revision)
        # What is open stays open, as with a file that is replaced: its own bytes to the end.
        slots = [
            (at, min(at + request.slot_size, stop, len(version.data)))
            for start, stop in request.ranges
            for at in range(start, min(stop, len(version.data)), request.slot_size)
        ]
        last = self.random.randrange(len(slots) + 1) if self.files == "half" else len(slots)
        for start, stop in slots[:last]:
            await trio.sleep(self.latency * self.random.choice((0, 0, 0.1)))
            part = version.data[start:stop]
            if request.wanted is not None and start <= request.wanted[0] < stop:
                first, end = request.wanted
                await told.early(first, version.data[first:end])
            await told.filled([self._write(request, fd, start, part)])
        if last < len(slots):
            raise Unreachable("the body broke off", url=address)
        return revision

    def _write(self, request: FetchRequest, fd: int, start: int, part: bytes) -> Filled:
        if self.disk_full and not os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:"):
            raise CacheFault("the cache file could not be written", reason="No space left")
        slot = start // request.slot_size
        zero = not any(part)
        if not zero:
            os.pwrite(fd, part, start)
        self.brought += len(part)
        digest = xxh3_64_intdigest(part, seed=(request.seed + slot) % 2**64)
        return Filled(slot, len(part), digest, zero)

    async def call(self, request: CallRequest) -> CallAnswer:
        if request.url == FRONT_END:
            await self._begin(self.one)
            body = self.front_end.answer(request.body)
            if self.one == "half":
                body = body[: self.random.randrange(len(body))]
            return CallAnswer(200, (("Content-Type", "text/xml"),), body)
        if urlsplit(request.url).netloc == urlsplit(SERVICE).netloc:
            await self._begin(self.service)
            body = json.dumps({"sEcho": 1, "appliances": []}).encode()
            if self.service == "half":
                body = body[: self.random.randrange(len(body))]
            return CallAnswer(200, (("Content-Type", "application/json"),), body)
        raise Unreachable("nobody is there", url=request.url)

    async def _begin(self, weather: Weather) -> None:
        await trio.sleep(self.latency * self.random.choice((0, 1, 1, 3)))
        if weather == "hangs":
            await trio.sleep(STALL)
        if weather in ("hangs", "down"):
            raise Unreachable("no answer")

    @property
    def is_fine(self) -> bool:
        return self.files == self.service == self.one == "up" and not self.disk_full
