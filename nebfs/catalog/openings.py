"""The files of apps and backups whose place is asked about each by itself: asked, and remembered.

A registry of container images lists names, and says what an image consists of only when it is
asked for that image; so does a web page of archives whose checksums are in files beside them, and a
repository of backups. That is asked when the directory is opened. What was learned is kept, also
for the next start, and shown while the place does not answer.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog
import trio
from cachetools import LRUCache, TTLCache
from pydantic import TypeAdapter, ValidationError

from nebfs.catalog.catalog import Documents
from nebfs.catalog.snapshot import CloudSnapshot
from nebfs.errors import Missing, NebfsError, Refused, TimedOut, Unsupported
from nebfs.model import App, Content, Datastore, Holding, Marketplace, Offer, Part

log = structlog.get_logger()

REMEMBERED = 10_000
SAVE_EVERY = 5.0
REFUSED_FOR = 10.0
"""Seconds for which a failure is answered from memory: an `ls` twice in a row asks once."""

Ask = Callable[[Marketplace, App, str], Awaitable[tuple[Content, ...]]]
"""Asks the driver of a marketplace; the text is OpenNebula's version."""

AskDisks = Callable[[Datastore, Holding], Awaitable[tuple[Part, ...]]]
"""Asks the driver of a datastore."""

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Keeping:
    """How answers are kept: as `document`, for `max_age` seconds. One question takes at most
    `timeout` seconds.
    """

    documents: Documents
    document: str
    timeout: float
    max_age: float
    now: Callable[[], float] = time.time


class Remembered(Generic[Found]):
    """What was asked about single objects."""

    def __init__(
        self, keeping: Keeping, adapter: TypeAdapter[dict[str, tuple[float, tuple[Found, ...]]]]
    ) -> None:
        """`adapter` reads and writes what is kept."""
        self._documents = keeping.documents
        self._document = keeping.document
        self._timeout = keeping.timeout
        self.max_age = keeping.max_age
        self._now = keeping.now
        self._adapter = adapter
        self._known: LRUCache[str, tuple[float, tuple[Found, ...]]] = LRUCache(REMEMBERED)
        self._failed: TTLCache[str, NebfsError] = TTLCache(1024, REFUSED_FOR, trio.current_time)
        self._dirty = False

    async def load(self) -> None:
        """Take up what an earlier life has learned."""
        raw = await self._documents.load(self._document)
        if raw is None:
            return
        try:
            self._known.update(self._adapter.validate_json(raw))
        except ValidationError as exc:
            log.warning("openings.unreadable", count=exc.error_count())

    async def run(self) -> None:
        """Save from time to time, for ever."""
        while True:
            await trio.sleep(SAVE_EVERY)
            await self.save()

    async def save(self) -> None:
        """Write down what was learned, if anything was."""
        if not self._dirty:
            return
        self._dirty = False
        known = dict(self._known)
        try:
            data = await trio.to_thread.run_sync(lambda: self._adapter.dump_json(known))
            await self._documents.save(self._document, data)
        except (NebfsError, OSError, ValueError) as exc:
            log.warning("openings.not_saved", error=type(exc).__name__)
        except BaseException:
            self._dirty = True  # the end of the daemon came in between: it is saved again then
            raise

    async def of(
        self, key: str, name: str, ask: Callable[[], Awaitable[tuple[Found, ...]]]
    ) -> tuple[Found, ...]:
        """Return what is known under `key`, else what `ask` says. While the place is away, what it
        said before.

        Raises what `ask` raises, or TimedOut.
        """
        known = self._known.get(key)
        if known is not None and 0 <= self._now() - known[0] <= self.max_age:
            return known[1]
        failure = self._failed.get(key)
        if failure is None:
            try:
                with trio.fail_after(self._timeout):
                    found = await ask()
            except trio.TooSlowError:
                failure = TimedOut("no answer in time", after=self._timeout)
            except NebfsError as exc:
                failure = exc
            else:
                self._known[key] = self._now(), found
                self._dirty = True
                return found
            self._failed[key] = failure
        if known is None or isinstance(failure, (Missing, Refused, Unsupported)):
            raise copy.copy(failure) from failure
        log.info("opening.from_memory", name=name, reason=str(failure))
        return known[1]


class Openings(Remembered[Content]):
    """Remembers the files of deferred offers."""

    def __init__(
        self, ask: Ask, current: Callable[[], CloudSnapshot | None], keeping: Keeping
    ) -> None:
        """`current` is the newest snapshot."""
        super().__init__(keeping, TypeAdapter(dict[str, tuple[float, tuple[Content, ...]]]))
        self._ask = ask
        self._current = current

    async def contents(self, offer: Offer) -> tuple[Content, ...]:
        """Return the files of `offer`. While its marketplace is away, those that it had.

        Raises what the marketplace's driver raises, or TimedOut.
        """
        if not offer.deferred:
            return offer.contents
        app = offer.app
        # What the files of an app depend on.
        facts = (str(app.marketplace_id), str(app.id), app.source, app.md5, app.version)
        return await self.of("\0".join(facts), app.name, lambda: self._asked(app))

    async def _asked(self, app: App) -> tuple[Content, ...]:
        snapshot = self._current()
        places = snapshot.marketplaces if snapshot is not None else ()
        place = next(
            (p.marketplace for p in places if p.marketplace.id == app.marketplace_id), None
        )
        if snapshot is None or place is None:
            raise NebfsError("the app's marketplace is not there any more")
        return await self._ask(place, app, snapshot.version)


class Backups(Remembered[Part]):
    """Remembers the disks of deferred holdings."""

    def __init__(
        self, ask: AskDisks, current: Callable[[], CloudSnapshot | None], keeping: Keeping
    ) -> None:
        """`current` is the newest snapshot."""
        super().__init__(keeping, TypeAdapter(dict[str, tuple[float, tuple[Part, ...]]]))
        self._ask = ask
        self._current = current

    async def disks(self, holding: Holding) -> tuple[Part, ...]:
        """Return the disks of `holding`. While its datastore is away, those that it had.

        Raises what the datastore's driver raises, or TimedOut.
        """
        if not holding.deferred:
            return holding.disks
        image = holding.image
        # What the disks depend on: an incremental backup grows under the same id.
        facts = (image.datastore_id, image.id, image.source, image.regtime, image.increments)
        return await self.of(repr(facts), image.name, lambda: self._asked(holding))

    async def _asked(self, holding: Holding) -> tuple[Part, ...]:
        snapshot = self._current()
        places = snapshot.datastores if snapshot is not None else ()
        wanted = holding.image.datastore_id
        place = next((p.datastore for p in places if p.datastore.id == wanted), None)
        if place is None:
            raise NebfsError("the backup's datastore is not there any more")
        return await self._ask(place, holding)
