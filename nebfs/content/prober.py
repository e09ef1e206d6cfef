"""Asking a place what it has: the exact length, what tells versions apart, the first bytes.

What was learned is remembered by content identity, in memory and on disk, so that a second listing
asks nothing. What could not be learned is remembered for some seconds, and a place that does not
answer is not asked for each of its apps in turn.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Protocol
from urllib.parse import urlsplit

import structlog
import trio
from cachetools import LRUCache, TTLCache

from nebfs.content import views
from nebfs.content.disks import DISKS, Inside
from nebfs.content.formats import HEAD, Format, disk_flaw, disk_size, sniff
from nebfs.content.layers.here import TRANSPORTS, look_at
from nebfs.errors import Changed, Damaged, NebfsError, TimedOut, Unreachable, Unready, Unsupported
from nebfs.fetcher.messages import Fetcher, FetchRequest
from nebfs.model import Content, Locator, Revision

log = structlog.get_logger()

DOCUMENT = "probes.json"
REMEMBERED = 20_000
REFUSED_FOR = 10.0
"""Seconds for which a failure is answered from memory: an `ls` twice in a row asks once."""

GIVEN_UP = 3
"""After so many questions in a row without an answer a place is not asked for REFUSED_FOR seconds:
listing a thousand apps of a server that is down must not wait a thousand times."""
SAVE_EVERY = 5.0


class DocumentStore(Protocol):
    """Where what was learned is kept."""

    async def load(self, name: str) -> bytes | None:
        """Return the document, or None."""
        ...

    async def save(self, name: str, data: bytes) -> None:
        """Replace the document."""
        ...


@dataclass(frozen=True, slots=True)
class Probed:
    """What a place has under one locator, and when it was asked (seconds since the epoch)."""

    revision: Revision
    format: Format
    at: float
    disk: int | None = None
    """The length of the disk in it, where the first bytes tell that (qcow2)."""
    flaw: str = ""
    """Why the disk in it cannot be read with nothing beneath it; or empty."""
    inside: Inside | None = None
    """What a look into it has shown, where the first bytes do not tell enough."""

    @property
    def is_unseen(self) -> bool:
        """Whether somebody must look into it before it is known what disk is in it."""
        if self.inside is not None:
            return False
        return bool(self.format.compression) or (self.disk is None and self.format.name in DISKS)


def place_of(locator: Locator) -> str:
    """Return what requests to one place share: a server by its URL, or the transport."""
    parts = urlsplit(locator.address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else "local"


class Prober:
    """Asks, and remembers. `timeout` is in seconds, over one question with its turn."""

    def __init__(
        self,
        fetcher: Fetcher,
        documents: DocumentStore,
        *,
        timeout: float = 20.0,
        parallel: int = 16,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`parallel` questions at a time for each place: they are small, and a listing waits."""
        self._fetcher = fetcher
        self._documents = documents
        self._timeout = timeout
        self._parallel = parallel
        self._now = now
        self._known: LRUCache[str, Probed] = LRUCache(REMEMBERED)
        self._refused: TTLCache[str, NebfsError] = TTLCache(4096, REFUSED_FOR, trio.current_time)
        self._silent: dict[str, int] = {}
        self._asking: dict[str, trio.Event] = {}
        self._turns: LRUCache[str, trio.CapacityLimiter] = LRUCache(256)
        self._latencies: LRUCache[str, float] = LRUCache(256)
        self._dirty = False

    async def load(self) -> None:
        """Take up what an earlier life has learned."""
        raw = await self._documents.load(DOCUMENT)
        if raw is None:
            return
        try:
            for identity, (revision, kind, at, *more) in json.loads(raw).items():
                self._known[identity] = _read(revision, kind, at, *more)
        except (ValueError, TypeError, AttributeError) as exc:
            log.warning("probes.unreadable", error=str(exc))

    async def save(self) -> None:
        """Write down what was learned, if anything was."""
        if not self._dirty:
            return
        self._dirty = False
        known = list(self._known.items())

        def encode() -> bytes:
            return json.dumps({identity: _written(probed) for identity, probed in known}).encode()

        try:
            await self._documents.save(DOCUMENT, await trio.to_thread.run_sync(encode))
        except BaseException:
            self._dirty = True  # the end of the daemon came in between: it is saved again then
            raise

    async def run(self) -> None:
        """Save from time to time, for ever."""
        while True:
            await trio.sleep(SAVE_EVERY)
            await self.save()

    def known(self, content: Content) -> Probed | None:
        """Return what is remembered, however old."""
        if not content.view:
            return self._known.get(content.identity)
        try:
            return self.view(content)
        except NebfsError:
            return None

    def view(self, content: Content) -> Probed:
        """Return what a raw view is, by what is remembered of its files, without asking anybody.

        Raises NebfsError when it is none, or when that is not known.
        """
        files = views.files(content)
        found = [self._known.get(file.identity) for file in files]
        asked = [probed for probed in found if probed is not None]
        if len(asked) < len(files) or any(map(_not_as_listed, files, asked)):
            raise NebfsError("its place was not asked yet")
        return _view(asked)

    def learn(self, content: Content, revision: Revision, inside: Inside) -> None:
        """Remember what a look into this version of a file has shown."""
        file = views.files(content)[0]
        known = self._known.get(file.identity)
        if known is not None and not known.revision.differs_from(revision):
            self._known[file.identity] = replace(known, inside=inside)
            self._dirty = True

    def latency(self, place: str) -> float:
        """Return the seconds in which a place has answered at best; 0 if it was never asked."""
        return self._latencies.get(place, 0.0)

    def forget(self, content: Content) -> None:
        """Ask again next time: what is there has changed."""
        for file in views.files(content):
            self._known.pop(file.identity, None)
            self._refused.pop(file.identity, None)
        self._dirty = True

    async def ask(self, content: Content, max_age: float = math.inf) -> Probed:
        """Return what the place has, asking when what is known is older than `max_age` seconds.

        Raises what the fetcher raises, or TimedOut. A file on this machine is looked at each time:
        that costs less than being wrong about it.
        """
        if content.view:
            return await self._ask_view(content, max_age)
        if content.locator.transport in TRANSPORTS:
            return await self._look(content)
        identity = content.identity
        while True:
            known = self._known.get(identity)
            if known is not None and self._now() - known.at <= self._trust(content, known, max_age):
                return known
            for key in (identity, place_of(content.locator)):
                refused = self._refused.get(key)
                if refused is not None:
                    raise type(refused)(f"{refused.message} (asked a moment ago)") from refused
            if identity not in self._asking:
                break
            await self._asking[identity].wait()
        asked = self._asking[identity] = trio.Event()
        try:
            probed = await self._probe(content)
        except NebfsError as exc:
            self._refused[identity] = exc
            self._count_silence(content.locator, exc)
            raise
        finally:
            del self._asking[identity]
            asked.set()
        self._dirty = True
        self._silent.pop(place_of(content.locator), None)
        return self._keep(identity, probed)

    @staticmethod
    def _trust(content: Content, known: Probed, max_age: float) -> float:
        """Return the seconds for which an answer is believed: of another version than is listed now
        not for long, or the file would be what it was until somebody reads it to a difference.
        """
        return min(max_age, REFUSED_FOR) if _not_as_listed(content, known) else max_age

    def _keep(self, identity: str, probed: Probed) -> Probed:
        """Remember an answer, with what was seen inside while it is still the same version."""
        before = self._known.get(identity)
        if before is not None and not before.revision.differs_from(probed.revision):
            probed = replace(probed, inside=before.inside)
        self._known[identity] = probed
        return probed

    async def _ask_view(self, content: Content, max_age: float) -> Probed:
        """Ask about each of the files behind a view, together."""
        found: dict[int, Probed | NebfsError] = {}
        files = views.files(content)

        async def ask(number: int, file: Content) -> None:
            known = self._known.get(file.identity)
            if known is not None and _not_as_listed(file, known):
                self.forget(file)
            try:
                found[number] = await self.ask(file, max_age)
            except NebfsError as exc:
                found[number] = exc

        async with trio.open_nursery() as nursery:
            for number, file in enumerate(files):
                nursery.start_soon(ask, number, file)
        for number in range(len(files)):
            answer = found[number]
            if isinstance(answer, NebfsError):
                raise answer
            difference = _not_as_listed(files[number], answer)
            if difference:
                # Perhaps it builds on another file now than on the one that was found beneath it.
                raise Changed("a file of it has changed since it was listed", what=difference)
        return _view([p for _, p in sorted(found.items()) if isinstance(p, Probed)])

    async def _look(self, content: Content) -> Probed:
        """Look at a file on this machine. Raises Missing, Refused, or TimedOut if it hangs."""
        turns = self._turns.setdefault("local", trio.CapacityLimiter(self._parallel))
        look = partial(look_at, content.locator, HEAD)
        try:
            with trio.fail_after(self._timeout):
                revision, head = await trio.to_thread.run_sync(
                    look, limiter=turns, abandon_on_cancel=True
                )
        except trio.TooSlowError as exc:
            raise TimedOut("no answer in time", place="local", after=self._timeout) from exc
        kind = sniff(head, content.format, content.media)
        probed = Probed(revision, kind, self._now(), disk_size(head), disk_flaw(head))
        return self._keep(content.identity, probed)

    def _count_silence(self, locator: Locator, exc: NebfsError) -> None:
        """Give a place up that does not answer; one that answers with a status is there."""
        place = place_of(locator)
        if not isinstance(exc, (Unreachable, TimedOut)) or "status" in exc.facts:
            self._silent.pop(place, None)
            return
        self._silent[place] = self._silent.get(place, 0) + 1
        if self._silent[place] >= GIVEN_UP:
            del self._silent[place]
            self._refused[place] = exc

    async def _probe(self, content: Content) -> Probed:
        place = place_of(content.locator)
        turns = self._turns.setdefault(place, trio.CapacityLimiter(self._parallel))
        fd = os.memfd_create("nebfs-probe", os.MFD_CLOEXEC)
        try:
            with trio.fail_after(self._timeout):
                async with turns:
                    request = FetchRequest(content.locator, ((0, HEAD),), None, HEAD)
                    asked = trio.current_time()
                    revision = await self._fetcher.fetch(request, fd, lambda _: None)
                    took = trio.current_time() - asked
                    self._latencies[place] = min(took, self._latencies.get(place, took))
            # Zeros are not written by the fetcher: a shorter file ends in them.
            head = os.pread(fd, HEAD, 0).ljust(min(HEAD, revision.size), b"\0")
        except trio.TooSlowError as exc:
            raise TimedOut("no answer in time", place=place, after=self._timeout) from exc
        finally:
            os.close(fd)
        kind = sniff(head, content.format, content.media)
        return Probed(revision, kind, self._now(), disk_size(head), disk_flaw(head))


def _not_as_listed(file: Content, found: Probed) -> str:
    """Say how a file is another version than the listing said; empty where it said nothing."""
    listed = None if file.volatile else file.revision
    return "" if listed is None else listed.differs_from(found.revision)


def _read(
    revision: dict[str, Any],
    kind: dict[str, Any],
    at: float,
    disk: int | None = None,
    flaw: str = "",
    inside: dict[str, Any] | None = None,
) -> Probed:
    """Return what ``_written`` has written, or an earlier version, which wrote less."""
    seen = None if inside is None else Inside(**inside)
    return Probed(Revision(**revision), Format(**kind), at, disk, flaw, seen)


def _written(probed: Probed) -> tuple[object, ...]:
    inside = probed.inside if probed.inside is not None and probed.inside.lasting else None
    return (
        *(asdict(probed.revision), asdict(probed.format), probed.at, probed.disk, probed.flaw),
        None if inside is None else asdict(inside),
    )


def _view(files: Sequence[Probed]) -> Probed:
    """Return what the raw view of `files` is, the topmost first.

    Raises BadAnswer, Damaged or Unsupported when there is none, Unready when its length takes long
    to find.
    """
    if len(files) == 1:
        return _alone(files[0])
    revision = views.revision([(p.revision, p.disk, p.format.name) for p in files])
    return Probed(revision, Format("raw"), min(p.at for p in files))


def _alone(file: Probed) -> Probed:
    """Return what the raw view of one file is: the disk in it, or the file decompressed."""
    kind, disk, flaw, damaged = file.format.name, file.disk, file.flaw, False
    if file.is_unseen:
        raise NebfsError("nobody has looked into it yet")
    inside = file.inside
    if inside is not None:
        kind, disk, flaw, damaged = inside.kind, inside.disk, inside.flaw, inside.damaged
    if flaw:
        what = f"{kind} image" if kind in DISKS else "file"
        failure = Damaged if damaged else Unsupported
        raise failure(f"there is no raw view of the {what}: {flaw}")
    if inside is not None and inside.is_unmeasured:
        raise Unready(
            "its length is known once it was decompressed: opening it does that, and takes as long"
        )
    revision = views.revision([(file.revision, disk, kind)])
    return Probed(revision, Format("raw"), file.at)
