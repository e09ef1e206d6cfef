"""Bytes over SFTP: files of datastores that are on another machine (asyncssh).

Address: ``sftp://HOST[,HOST...]/absolute/path`` without a symbolic link in it; it names the place,
whichever host answers. Option ``bridges``: the hosts to ask, in this order, as
``[user@]host[:port]`` with spaces between; without it the address's own. Options ``identity`` and
``known-hosts``: files to use instead of the usual ones. ``call`` knows the methods LOOK, see
sftp_looking.py, and LIST, see sftp_directories.py; their body may name the same options.

A file's version is its length and its time of modification. Behind each group of reads the open
file is asked for both, and only then a byte of them counts: SFTP answers in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncssh

from nebfs.errors import BadAnswer, Changed, NebfsError, Unreachable, Unsupported
from nebfs.fetcher.messages import CallAnswer, CallRequest, FetchRequest, Filled
from nebfs.fetcher.pouring import Pour, Vessel, clipped, feed
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.slots import Buffers
from nebfs.fetcher.transports.sftp_directories import list_directories
from nebfs.fetcher.transports.sftp_hosts import Hosts, hosts_of
from nebfs.fetcher.transports.sftp_looking import look
from nebfs.fetcher.transports.sftp_sessions import Session
from nebfs.model import Revision

if TYPE_CHECKING:
    from nebfs.fetcher.transports import Listener

WINDOW = 4 << 20
"""Bytes asked for at once: 200 MB/s over a round trip of 20 ms."""

GROUP = 4
"""Reads behind which the file's version is asked for; behind the first it is asked at once."""

FAR, BURST = 0.002, 12 << 10
"""Where a round trip takes more seconds than this, what somebody waits for is asked for first, if
it is not among the first bytes anyway."""

Ranges = Sequence[tuple[int, int]]

_METHODS = {"LIST": list_directories, "LOOK": look}


class _Tally:
    """A Listener that remembers how far the slots have come, for another host to go on."""

    def __init__(self, listener: Listener, slot_size: int) -> None:
        self._listener = listener
        self._slot_size = slot_size
        self._reached = 0
        self._found = False

    def found(self, revision: Revision) -> None:
        if not self._found:
            self._listener.found(revision)
        self._found = True

    def filled(self, slots: Sequence[Filled]) -> None:
        self._reached = max(self._reached, *((slot.slot + 1) * self._slot_size for slot in slots))
        self._listener.filled(slots)

    def early(self, offset: int, data: bytes) -> None:
        self._listener.early(offset, data)

    def rest(self, ranges: Ranges) -> tuple[tuple[int, int], ...]:
        """Return what is missing of `ranges`, which were filled in their order."""
        return tuple((max(a, self._reached), b) for a, b in ranges if b > self._reached)


class Sftp:
    """The transport ``sftp``."""

    def __init__(self, settings: FetcherSettings) -> None:
        self._hosts = Hosts(settings)
        self._buffers = Buffers()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._hosts.aclose()

    async def fetch(self, request: FetchRequest, fd: int, listener: Listener) -> Revision:
        """Fill the request's ranges; see messages.Fetcher.fetch."""
        expected = request.expected
        if expected is not None and not clipped(request.ranges, expected.size):
            return expected
        parts = urlsplit(request.locator.address)
        hosts = hosts_of(dict(request.locator.options), parts.netloc)
        tally = _Tally(listener, request.slot_size)

        async def work(session: Session) -> Revision:
            if expected is None:
                # What is kept open may have lost its name to another file.
                session.forget(parts.path)
            rest = tally.rest(request.ranges)
            if request.ranges and not rest and expected is not None:
                return expected
            job = _Job(session, parts.path, replace(request, ranges=rest), fd, tally, self._buffers)
            try:
                return await job.run()
            except Changed:
                # What was kept open may not be what is at the path now.
                session.forget(parts.path)
                rest = tally.rest(request.ranges)
                return await replace(job, request=replace(request, ranges=rest)).run()

        return await self._hosts.ask(hosts, work)

    async def call(self, request: CallRequest) -> CallAnswer:
        """Answer LOOK or LIST; see messages.CallRequest and _METHODS."""
        answered = _METHODS.get(request.method)
        if answered is None:
            raise Unsupported("SFTP knows no such method", method=request.method)
        try:
            asked = json.loads(request.body)
            base, paths = str(asked["base"]), [str(path) for path in asked["paths"]]
            options = {str(name): str(text) for name, text in asked.get("options", {}).items()}
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise BadAnswer("what is to be looked at is not understood") from exc
        hosts = hosts_of(options, urlsplit(request.url).netloc)
        try:
            async with asyncio.timeout(request.timeout):
                body = await self._hosts.ask(hosts, lambda session: answered(session, base, paths))
        except TimeoutError as exc:
            raise Unreachable("no answer in time", after=request.timeout) from exc
        if len(body) > request.max_body:
            raise BadAnswer("the answer is too long", bytes=len(body))
        return CallAnswer(200, (("Content-Type", "application/json"),), body)


@dataclass(frozen=True, slots=True)
class _Group:
    """Reads under way, and the question behind them."""

    reads: list[tuple[int, int, asyncio.Task[bytes]]]
    version: asyncio.Task[asyncssh.SFTPAttrs]


@dataclass(frozen=True, slots=True)
class _Job:
    """One fetch from one session."""

    session: Session
    path: str
    request: FetchRequest
    fd: int
    listener: _Tally
    buffers: Buffers

    async def run(self) -> Revision:
        """Fill the ranges in their order; return what is there."""
        async with self.session.opened(self.path) as file:
            expected = self.request.expected
            if expected is None:
                expected = _revision(await self.session.ask(file.stat))
                self.listener.found(expected)
            async with self._first(file, expected), self._reading(file, expected) as groups:
                await self._pour(file, expected, groups)
        return expected

    async def _pour(
        self, file: asyncssh.SFTPClientFile, expected: Revision, groups: Iterator[_Group]
    ) -> None:
        vessel = Vessel(
            self.fd,
            self.request,
            expected.size,
            self.listener.filled,
            self.listener.early,
            self.buffers,
        )
        runs = iter(clipped(self.request.ranges, expected.size))
        pour: Pour | None = None
        keep = True
        try:
            for group in groups:
                read = await self._answers(file, group, expected)
                for data in read:
                    if pour is None:
                        pour = Pour(vessel, *next(runs))
                    feed(pour, memoryview(data))
                    if not pour.missing:
                        ended, pour = pour, None
                        ended.end()
        except asyncio.CancelledError:
            keep = False  # nothing may be written any more
            raise
        finally:
            if pour is not None:
                pour.end(keep=keep)

    async def _answers(
        self, file: asyncssh.SFTPClientFile, group: _Group, expected: Revision
    ) -> list[bytes]:
        """Return the bytes of a group, all of which are of the version that is expected."""
        read = []
        short = False
        for start, stop, task in group.reads:
            data = await self.session.result(task)
            while len(data) < stop - start:
                # A host may give less than was asked for; nothing at all is the end of the file.
                short = True
                asked = self.session.read(file, start + len(data), stop)
                more = await self.session.result(asked)
                if not more:
                    break
                data += more
            read.append(data[: stop - start])
        self._compare(await self.session.result(group.version), expected)
        if short:
            self._compare(await self.session.ask(file.stat), expected)
            if any(len(d) < b - a for d, (a, b, _) in zip(read, group.reads, strict=True)):
                raise BadAnswer("the file ends before its end", host=self.session.host)
        return read

    def _compare(self, attributes: asyncssh.SFTPAttrs, expected: Revision) -> None:
        difference = expected.differs_from(_revision(attributes))
        if difference:
            raise Changed("the file has changed", host=self.session.host, what=difference)

    @contextlib.asynccontextmanager
    async def _reading(
        self, file: asyncssh.SFTPClientFile, expected: Revision
    ) -> AsyncIterator[Iterator[_Group]]:
        """Ask for everything, at most WINDOW bytes ahead; give the groups in their order."""
        session = self.session
        ahead: deque[_Group] = deque()
        pieces = _grouped(_pieces(clipped(self.request.ranges, expected.size), session.piece))

        def ask_more() -> None:
            while len(ahead) * GROUP * session.piece < WINDOW and (group := next(pieces, None)):
                reads = [(start, stop, session.read(file, start, stop)) for start, stop in group]
                ahead.append(_Group(reads, session.begin(file.stat)))

        def groups() -> Iterator[_Group]:
            ask_more()
            while ahead:
                yield ahead[0]
                ahead.popleft()
                ask_more()

        try:
            yield groups()
        finally:
            for group in ahead:
                group.version.cancel()
                for _, _, task in group.reads:
                    task.cancel()

    @contextlib.asynccontextmanager
    async def _first(
        self, file: asyncssh.SFTPClientFile, expected: Revision
    ) -> AsyncIterator[None]:
        """Before all else, ask for what somebody waits for, if the host is far."""
        wanted = self.request.wanted
        ranges = self.request.ranges
        if (
            wanted is None
            or not ranges
            or self.session.round_trip < FAR
            or wanted[1] - ranges[0][0] <= BURST
            or wanted[1] - wanted[0] > self.session.piece
        ):
            yield
            return
        read = self.session.read(file, *wanted)
        version = self.session.begin(file.stat)

        async def hand_over() -> None:
            group = _Group([(*wanted, read)], version)
            # Whatever is wrong, the reads behind it find it out, too.
            with contextlib.suppress(NebfsError):
                (data,) = await self._answers(file, group, expected)
                self.listener.early(wanted[0], data)

        task = asyncio.create_task(hand_over())
        try:
            yield
        finally:
            for one in (task, read, version):
                one.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _revision(attributes: asyncssh.SFTPAttrs) -> Revision:
    if attributes.size is None or attributes.mtime is None:
        raise BadAnswer("the host does not say how long the file is and when it was written")
    modified = attributes.mtime * 10**9 + (attributes.mtime_ns or 0)
    return Revision(attributes.size, modified=str(modified))


def _pieces(ranges: Ranges, piece: int) -> Iterator[tuple[int, int]]:
    for start, stop in ranges:
        for at in range(start, stop, piece):
            yield at, min(at + piece, stop)


def _grouped(pieces: Iterator[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """The first by itself: somebody may be waiting for it."""
    group: list[tuple[int, int]] = []
    size = 1
    for piece in pieces:
        group.append(piece)
        if len(group) == size:
            yield group
            group, size = [], GROUP
    if group:
        yield group
