"""Bringing what a profile says, in its order, ahead of the guest that is about to read it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import structlog
import trio

from nebfs.blocks import SLOT_SIZE
from nebfs.content.layers.cached import Cached
from nebfs.content.pace import Pace
from nebfs.content.profiling.comparing import Comparison
from nebfs.content.profiling.profile import Profile, allowance
from nebfs.content.stack import Priority
from nebfs.errors import NebfsError
from nebfs.units import KIB, MIB

log = structlog.get_logger()

FIRST_GROUP = 2 * MIB // SLOT_SIZE
LAST_GROUP = 16 * MIB // SLOT_SIZE
"""Slots that are put in the order of their offsets, so that neighbours come in one request. Few at
first, as the guest waits for them in the order of its reads; more when it is some way behind."""

FAR_GAP = 256 * KIB // SLOT_SIZE
"""Slots between two wanted ones that are brought along, of a place far away: the recorded boots
then take a quarter fewer requests, for 3 % more bytes."""

LARGEST = 1 * MIB // SLOT_SIZE
"""Slots of one request: what a guest waits for is behind no more than this on its connection."""

TRIAL = 8
"""Slots that are brought at a time until another version has shown that it has this layout."""


class Follower:
    """Brings the missing parts of `profile`, with up to `turns` requests at a time.

    What somebody waits for overtakes them, and idle fill waits until they are over.
    """

    def __init__(self, cached: Cached, profile: Profile, pace: Pace, turns: int) -> None:
        self._cached = cached
        self._pace = pace
        self._turns = turns
        self._broken = False
        self._profile = profile
        file = cached.file
        room = allowance(file.size) // SLOT_SIZE
        self._slots = [slot for slot in profile.slots() if slot < file.slots][:room]
        other = profile.revision.differs_from(cached.revision)
        self._comparison = Comparison(profile) if other else None

    async def run(self) -> None:
        """Bring it all; return early when the place fails, or the layout is another one."""
        left: Sequence[int] = self._slots
        if self._comparison is not None:
            left = await self._try(self._comparison)
        self._cached.guided = frozenset(left)
        try:
            await self._bring_all(left)
        finally:
            self._cached.guided = ()

    async def _try(self, comparison: Comparison) -> Sequence[int]:
        """Bring the first slots that can be compared; return the rest if they are the same."""
        rest = list(self._slots)
        while rest and not comparison.known:
            portion, count = [], 0
            for count, slot in enumerate(rest, 1):  # noqa: B007 - it is needed after the loop
                if slot * SLOT_SIZE in comparison.sums:
                    portion.append(slot)
                if len(portion) == TRIAL:
                    break
            if not portion:
                break
            passed, rest = rest[:count], rest[count:]
            await self._bring_all(portion)
            await comparison.look(self._cached.file, portion)
            rest = [slot for slot in passed if slot not in portion] + rest
            if self._broken or len(portion) < TRIAL:
                break
        if self._broken or not comparison.known or comparison.other:
            log.debug("profile.set_aside", image=self._profile.image)
            return ()
        return rest

    async def _bring_all(self, slots: Sequence[int]) -> None:
        """Bring slots with several requests at a time."""
        requests = self._requests(slots)

        async def work() -> None:
            for first, stop in requests:
                if self._stopped:
                    return
                try:
                    await self._cached.fill(first, stop, priority=Priority.PROFILE)
                except NebfsError as exc:
                    # Whoever needs it will find out for himself, and be told.
                    log.debug("profile.stopped", image=self._profile.image, reason=str(exc))
                    self._broken = True
                else:
                    await self._compare(range(first, stop))

        async with trio.open_nursery() as nursery:
            for _ in range(self._turns):
                nursery.start_soon(work)

    @property
    def _stopped(self) -> bool:
        return self._broken or (self._comparison is not None and self._comparison.other)

    async def _compare(self, slots: Sequence[int]) -> None:
        if self._comparison is not None and self._comparison.known:
            await self._comparison.look(self._cached.file, slots)

    def _requests(self, slots: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Yield what to ask for, (first, stop), as late as possible: what is here by then is not
        asked for.
        """
        at, size = 0, FIRST_GROUP
        while at < len(slots):
            group = sorted(slots[at : at + size])
            at, size = at + size, min(2 * size, LAST_GROUP)
            gap = FAR_GAP if self._pace.far else 0
            first = stop = -1
            for slot in group:
                if not self._cached.file.claimable(slot):
                    continue
                if first >= 0 and slot - stop <= gap and slot + 1 - first <= LARGEST:
                    stop = slot + 1
                    continue
                if first >= 0:
                    yield first, stop
                first, stop = slot, slot + 1
            if first >= 0:
                yield first, stop
