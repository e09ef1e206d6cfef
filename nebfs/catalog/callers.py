"""Who else looks into the mount, and what the front-end says that each of them may use.

Each user of this machine is asked about with his own session when he first comes, and at every
refresh of the lists. What is known of one is never shown to another; while the front-end is away,
what it said of him last goes on to count. Who has no session, or one that is not accepted (any
more), is told so, and the log says why once.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field

import structlog
import trio
from cachetools import LRUCache, TTLCache

from nebfs.catalog.usable import Usable
from nebfs.ending import pass_on
from nebfs.errors import Bug, Busy, NebfsError, Refused, TimedOut, UserError
from nebfs.opennebula import Session
from nebfs.units import format_duration

log = structlog.get_logger()

MOST = 64
"""Users of whom it is kept what they may use: a MiB each in a cloud with 20 000 images."""

MOST_COMING = 256
"""Users who may wait for their first answer at once."""

ASKED_AT_ONCE = 2
"""Users about whom the front-end is asked at once: the lists of the mount itself need a turn."""

REFUSED_FOR = 10.0
"""Seconds for which a failure is answered from memory."""

IDLE = 3600.0
"""Seconds after which it is forgotten what somebody may use who does not come any more."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is told of one user: his `uid`, the `user` that he is in OpenNebula, the `age` of what
    is known in seconds, and in words the `trouble` with having it newer; empty: none.
    """

    uid: int
    user: str
    age: float
    trouble: str


@dataclass(slots=True)
class _Caller:
    """One user of this machine."""

    uid: int
    user: str = ""
    """Who he is in OpenNebula."""
    usable: Usable | None = None
    failure: NebfsError | None = None
    """Why what is known is not newer."""
    came: float = field(default_factory=trio.current_time)
    flight: trio.Event | None = None
    """Set when the question that is under way has ended."""


class Callers:
    """Knows what each user of this machine may use.

    `session_of` finds a uid's session and raises UserError where there is none; `ask` asks the
    front-end with it and is handed what was known. `exempt` uids see all that the mount does.
    `patience` is how long somebody waits for the first answer about him, and `timeout` how long it
    may take, in seconds.
    """

    def __init__(
        self,
        session_of: Callable[[int], Awaitable[Session]],
        ask: Callable[[Session, Usable | None], Awaitable[Usable]],
        *,
        exempt: Collection[int],
        patience: float,
        timeout: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._session_of = session_of
        self._ask = ask
        self._exempt = frozenset(exempt)
        self._patience = patience
        self._timeout = timeout
        self._now = now
        self._known: dict[int, _Caller] = {}
        self._coming: dict[int, _Caller] = {}
        """About whom the front-end is asked for the first time."""
        self._failed: TTLCache[int, NebfsError] = TTLCache(1024, REFUSED_FOR, trio.current_time)
        self._said: LRUCache[int, str] = LRUCache(1024)
        self._turns = trio.CapacityLimiter(ASKED_AT_ONCE)
        self._nursery: trio.Nursery | None = None
        self._refreshing = 0
        self._news = trio.Event()
        """Set, and replaced, when one of those who are asked about anew has been answered."""

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ask, for as long as this is not cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    async def of(self, uid: int) -> Usable | None:
        """Return what the user may use; None: all that the mount shows.

        Raises Refused where he has no session that is accepted, or why it could not be found out
        what he may use.
        """
        if uid in self._exempt:
            return None
        caller = self._known.get(uid) or self._come(uid)
        caller.came = trio.current_time()
        if caller.usable is None:
            with trio.move_on_after(self._patience):
                await self._asking(caller).wait()
        if caller.usable is not None:
            return caller.usable
        failure = self._failed.get(uid)
        if failure is None:
            after = format_duration(self._patience)
            raise NebfsError("the front-end has not answered yet", uid=uid, after=after)
        raise copy.copy(failure) from failure

    def begin_refresh(self) -> None:
        """Begin to ask anew about everybody who is known."""
        self._failed.clear()
        now = trio.current_time()
        for caller in list(self._known.values()):
            # While there is no answer it is kept: it could not be had again.
            if now - caller.came > IDLE and caller.failure is None and caller.flight is None:
                del self._known[caller.uid]
            elif self._nursery is not None:
                self._refreshing += 1
                self._nursery.start_soon(self._anew, caller)

    async def refreshed(self) -> None:
        """Wait until all that was begun has been answered, for `patience` seconds at most: what is
        not answered then goes on by itself.
        """
        with trio.move_on_after(self._patience):
            while self._refreshing:
                await self._news.wait()

    def facts(self) -> list[Facts]:
        """Return who is known."""
        return [
            Facts(
                uid=uid,
                user=caller.user,
                age=self._now() - caller.usable.taken,
                trouble=str(caller.failure or ""),
            )
            for uid, caller in sorted(self._known.items())
            if caller.usable is not None
        ]

    # --- asking -----------------------------------------------------------------------------

    def _come(self, uid: int) -> _Caller:
        """Return somebody who is not known yet."""
        failure = self._failed.get(uid)
        if failure is not None:
            raise copy.copy(failure) from failure
        caller = self._coming.get(uid)
        if caller is None:
            if len(self._coming) >= MOST_COMING:
                raise Busy("too many users wait for their first answer", uid=uid)
            caller = self._coming[uid] = _Caller(uid)
        return caller

    async def _anew(self, caller: _Caller) -> None:
        """Ask, but not by a question that was under way: it may have been answered before."""
        try:
            if caller.flight is not None:
                await caller.flight.wait()
            await self._asking(caller).wait()
        finally:
            self._refreshing -= 1
            self._news.set()
            self._news = trio.Event()

    def _asking(self, caller: _Caller) -> trio.Event:
        """Return what is set when it is known what `caller` may use, or why not."""
        if self._nursery is None:
            raise NebfsError("nobody is asked yet")
        if caller.flight is None:
            caller.flight = trio.Event()
            self._nursery.start_soon(self._answered, caller, caller.flight)
        return caller.flight

    async def _answered(self, caller: _Caller, ended: trio.Event) -> None:
        try:
            failure = await self._tried(caller)
            if failure is None:
                self._take(caller)
            elif isinstance(failure, (Refused, UserError)):
                self._turn_out(caller, str(failure))
            else:
                self._unanswered(caller, failure)
        finally:
            caller.flight = None
            ended.set()

    async def _tried(self, caller: _Caller) -> NebfsError | None:
        try:
            with trio.fail_after(self._timeout):
                session = await self._session_of(caller.uid)
                before = caller.usable if session.user == caller.user else None
                async with self._turns:
                    usable = await self._ask(session, before)
        except trio.TooSlowError:
            return TimedOut("no answer in time", after=format_duration(self._timeout))
        except NebfsError as exc:
            return exc
        except BaseException as exc:  # a bug must cost nobody else the mount
            pass_on(exc)
            log.exception("callers.bug", uid=caller.uid)
            return Bug(exc)
        caller.user, caller.usable = session.user, usable
        return None

    def _take(self, caller: _Caller) -> None:
        if caller.failure is not None:
            log.info("callers.answered_again", uid=caller.uid, user=caller.user)
        caller.failure = None
        self._said.pop(caller.uid, None)
        if self._coming.pop(caller.uid, None) is None:
            return
        log.info("callers.known", uid=caller.uid, user=caller.user)
        if len(self._known) >= MOST:
            gone = min(self._known.values(), key=lambda one: one.came)
            del self._known[gone.uid]
            log.info("callers.forgotten", uid=gone.uid, reason=f"more than {MOST} users came")
        self._known[caller.uid] = caller

    def _turn_out(self, caller: _Caller, reason: str) -> None:
        """Show nothing any more to somebody: he has no session, or OpenNebula refuses it."""
        caller.usable = None
        self._known.pop(caller.uid, None)
        self._coming.pop(caller.uid, None)
        self._failed[caller.uid] = Refused(reason, uid=caller.uid)
        self._say("callers.refused", caller.uid, reason)

    def _unanswered(self, caller: _Caller, failure: NebfsError) -> None:
        if caller.usable is None:
            self._coming.pop(caller.uid, None)
            self._failed[caller.uid] = failure
            self._say("callers.unanswered", caller.uid, str(failure), age="never known")
        elif caller.failure is None:
            age = format_duration(max(0.0, self._now() - caller.usable.taken))
            log.warning("callers.unanswered", uid=caller.uid, reason=str(failure), age=age)
        caller.failure = failure

    def _say(self, event: str, uid: int, reason: str, **facts: str) -> None:
        """Log why somebody sees nothing; not again while it is the same."""
        if self._said.get(uid) != reason:
            self._said[uid] = reason
            log.warning(event, uid=uid, reason=reason, **facts)
