"""Other users of this machine, each with his own session: ``others = "sessions"``.

What they may use is asked at every survey, whoever wanted it, so that a right that was lost counts
from then on: see catalog/callers.py.
"""

from __future__ import annotations

import math
import os
import time

import trio

from nebfs.catalog import Callers, CloudSnapshot, Place, Survey, Usable, usable_by
from nebfs.config import Settings
from nebfs.daemon.credentials import session_of_user
from nebfs.errors import Unreachable
from nebfs.opennebula import Caller, FrontEnd, Session

READING = 32
"""Threads that may read session files at once, one for each user. A home can be on a server that
does not answer, or on one of the user's own; the thread then waits for as long as the kernel."""


def callers_of(settings: Settings, caller: Caller | None) -> Callers | None:
    """Return who knows what other users may use; None if all see the same. `caller` asks the
    front-end for the mount itself, and lends its turns.
    """
    if settings.others != "sessions" or caller is None:
        return None
    turns = trio.CapacityLimiter(READING)
    reading: set[int] = set()

    def read(uid: int) -> Session:
        reading.add(uid)
        try:
            return session_of_user(settings, uid)
        finally:
            reading.discard(uid)

    async def session_of(uid: int) -> Session:
        if uid in reading:
            raise Unreachable("the session is still being read: does the user's home answer?")
        return await trio.to_thread.run_sync(read, uid, abandon_on_cancel=True, limiter=turns)

    async def ask(session: Session, before: Usable | None) -> Usable:
        return await usable_by(
            FrontEnd(caller.as_user(session)),
            before,
            machines=settings.system_datastores != "empty",
            now=time.time(),
        )

    return Callers(
        session_of,
        ask,
        exempt={0, os.geteuid()},
        patience=settings.listing_deadline,
        timeout=2 * settings.listing_deadline,
    )


def with_callers(survey: Survey, callers: Callers | None) -> Survey:
    """Return a survey that also asks anew what other users may use; it does not fail with them."""
    if callers is None:
        return survey

    async def both(
        previous: CloudSnapshot | None, only: Place | None = None, *, patience: float = math.inf
    ) -> CloudSnapshot:
        callers.begin_refresh()
        try:
            return await survey(previous, only, patience=patience)
        finally:
            await callers.refreshed()

    return both
