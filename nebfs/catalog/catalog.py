"""The life of the current snapshot: where it comes from at the start, and what replaces it."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import structlog
import trio

from nebfs.catalog.compare import differs
from nebfs.catalog.saved import pack, unpack
from nebfs.catalog.snapshot import CloudSnapshot, Place
from nebfs.ending import pass_on
from nebfs.errors import Bug, NebfsError, Refused, TimedOut
from nebfs.units import format_duration

log = structlog.get_logger()

Subscriber = Callable[[CloudSnapshot | None, CloudSnapshot], None]

# Many mounts are started by the same boot or the same playbook: the tenth of an interval, more or
# less, keeps them from asking one front-end in step.
_JITTER = 0.1


class Documents(Protocol):
    """Where small named documents outlive the process; ``blocks.Documents`` is one."""

    async def load(self, name: str) -> bytes | None:
        """Return the document, or None when there is none."""
        ...

    async def save(self, name: str, data: bytes) -> None:
        """Replace the document, whole or not at all."""
        ...


class Survey(Protocol):
    """What takes snapshots: of everything, or of `only` one place of `previous`."""

    async def __call__(
        self,
        previous: CloudSnapshot | None,
        only: Place | None = None,
        *,
        patience: float = math.inf,
    ) -> CloudSnapshot:
        """Return the new snapshot; of the other places than `only` it is the previous one.

        `patience`: seconds that the front-end may take for a round of questions. Raises NebfsError.
        """
        ...


@dataclass(slots=True)
class _Flight:
    """One survey under way, of everything or of `only` one place, and how it ended. Not
    `finished`: whoever ran it was cancelled.
    """

    only: Place | None = None
    ended: trio.Event = field(default_factory=trio.Event)
    finished: bool = False
    failure: NebfsError | None = None


class Catalog:
    """Keeps a snapshot that is always whole: a new one, or the last good one with its trouble.

    `survey` is handed the current snapshot. `interval` is the time between two surveys, `deadline`
    the longest that one may take for which somebody waits, the first or one that is asked for, and
    `patience` the longest that the front-end may take for a round of questions of one that is asked
    for; all in seconds. `document` is the name under which the snapshot is kept: one for each
    front-end and user, since another user's may hold what this one must not see.
    """

    def __init__(
        self,
        survey: Survey,
        documents: Documents,
        *,
        interval: float,
        deadline: float,
        patience: float = math.inf,
        now: Callable[[], float] = time.time,
        document: str = "catalogue",
    ) -> None:
        self._survey = survey
        self._documents = documents
        self._interval = interval
        self._deadline = deadline
        self._patience = patience
        self._now = now
        self._document = document
        self._current: CloudSnapshot | None = None
        self._denied = ""
        self._flight: _Flight | None = None
        self._subscribers: list[Subscriber] = []
        self._failures = 0
        self._unsaved = False
        self._heard: CloudSnapshot | None = None
        """What all subscribers have taken up, if the last was missed by one of them."""
        self._missed = False

    @property
    def current(self) -> CloudSnapshot | None:
        """The snapshot to show; None until there was one."""
        return self._current

    @property
    def denied(self) -> str:
        """Why the front-end does not let this user in any more, until it does; else empty."""
        return self._denied

    def subscribe(self, callback: Subscriber) -> None:
        """Call `callback(old, new)` whenever anything but times has changed. It must not block."""
        self._subscribers.append(callback)

    async def start(self) -> None:
        """Have a snapshot: a new one, or the saved one while the front-end cannot be reached.

        Raises Refused when the session is not accepted. Without a saved snapshot it raises what
        the survey raises, or TimedOut.
        """
        saved = await self._load()
        if saved is not None:
            self._replace(saved)
        failure = await self._fly(self._deadline)
        if failure is None:
            return
        if saved is None or isinstance(failure, Refused):
            raise failure
        age = format_duration(max(0.0, self._now() - saved.taken))
        log.warning("catalog.started_from_saved", age=age, reason=str(failure))

    async def run(self) -> None:
        """Refresh on the interval, for ever."""
        while True:
            spread = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - nothing secret
            await trio.sleep(self._interval * spread)
            await self.refresh()

    async def refresh(
        self, only: Place | None = None, *, awaited: bool = False
    ) -> NebfsError | None:
        """Take a new snapshot now, or join the survey that is under way.

        With `only`, one place is asked and the others stay as they are, and as old. While the
        snapshot is in trouble all are asked: that they are as the front-end has them, and that the
        session may still see them, is not known.

        `awaited`: by somebody, who hears within `patience` that the front-end hangs, and waits no
        longer than `deadline` for a survey that he joins, and for his own.

        Returns None when it went well, else why it did not; the last good snapshot then stays.
        """
        if awaited:
            limit = self._deadline
            return await self._fly(limit, only, join=limit, patience=self._patience)
        # Longer than the first one may take: nobody waits for it, but it must end.
        return await self._fly(max(self._deadline, self._interval), only)

    async def _fly(
        self,
        deadline: float,
        only: Place | None = None,
        *,
        join: float = math.inf,
        patience: float = math.inf,
    ) -> NebfsError | None:
        """`join`: seconds that surveys which are under way may take, until one begins."""
        with trio.move_on_after(join) as joining:
            while self._flight is not None:
                joined = self._flight
                await joined.ended.wait()
                if joined.finished and joined.only in {None, only}:
                    return joined.failure
        if joining.cancelled_caught:
            # It goes on. A place has a deadline of its own: what takes so long is the front-end.
            return TimedOut("the front-end did not answer in time", after=format_duration(join))
        if self._denied or self._current is None or self._current.trouble:
            only = None
        flight = self._flight = _Flight(only)
        try:
            flight.failure = await self._attempt(deadline, only, patience)
            flight.finished = True
        finally:
            self._flight = None
            flight.ended.set()
        return flight.failure

    async def _attempt(
        self, deadline: float, only: Place | None, patience: float
    ) -> NebfsError | None:
        failure: NebfsError
        try:
            with trio.fail_after(deadline):
                fresh = await self._survey(self._current, only, patience=patience)
        except trio.TooSlowError:
            failure = TimedOut("the survey did not end in time", after=format_duration(deadline))
        except NebfsError as exc:
            failure = exc
        except BaseException as exc:  # a bug must not end the mount: the last good snapshot stays
            pass_on(exc)
            log.exception("catalog.bug")
            failure = Bug(exc)
        else:
            await self._arrived(fresh)
            return None
        self._failed(failure)
        return failure

    async def _arrived(self, fresh: CloudSnapshot) -> None:
        if self._failures:
            log.info("catalog.refreshed_again", failures=self._failures)
        self._failures = 0
        old = self._current
        # Of the last good one the trouble of this moment is not a part: it is not saved.
        good = replace(old, trouble="") if old is not None else None
        changed = await trio.to_thread.run_sync(differs, good, fresh)
        self._denied = ""
        self._current = fresh
        if changed or self._missed or (old is not None and old.trouble):
            self._tell(old, fresh)
        self._unsaved |= changed
        if self._unsaved:
            await self._save(fresh)

    def _failed(self, failure: NebfsError) -> None:
        self._failures += 1
        # The first, second, fourth, eighth... of a streak: an outage of a week is some ten lines.
        if self._failures & (self._failures - 1) == 0:
            log.warning("catalog.refresh_failed", reason=str(failure), failures=self._failures)
        if isinstance(failure, Refused):
            self._denied = str(failure)
        if self._current is not None:
            self._replace(replace(self._current, trouble=str(failure)))

    def _replace(self, snapshot: CloudSnapshot) -> None:
        """Make `snapshot` the current one; its lists are those of the one before, or the first."""
        old, self._current = self._current, snapshot
        if old is None or old.trouble != snapshot.trouble:
            self._tell(old, snapshot)

    def _tell(self, old: CloudSnapshot | None, new: CloudSnapshot) -> None:
        """Tell the news to everybody. What somebody fails to take up is told again, with the next
        snapshot: "nothing has changed" would leave him behind.
        """
        heard = self._heard if self._missed else old
        self._missed = False
        for callback in self._subscribers:
            try:
                callback(heard, new)
            except BaseException:  # a bug in one must not keep the news from the others
                log.exception("catalog.subscriber_bug")
                self._missed, self._heard = True, heard

    async def _load(self) -> CloudSnapshot | None:
        try:
            data = await self._documents.load(self._document)
        except (NebfsError, OSError) as exc:
            log.warning("catalog.not_loaded", error=str(exc))
            return None
        return None if data is None else await trio.to_thread.run_sync(unpack, data)

    async def _save(self, snapshot: CloudSnapshot) -> None:
        """Keep `snapshot` for the next start. That it cannot be kept is no reason to fail."""
        try:
            data = await trio.to_thread.run_sync(pack, snapshot)
            await self._documents.save(self._document, data)
        except BaseException as exc:  # noqa: BLE001 - whatever it is
            pass_on(exc)
            # Only the kind: the text of a ValueError may repeat a value.
            log.warning("catalog.not_saved", error=type(exc).__name__)
        else:
            self._unsaved = False
