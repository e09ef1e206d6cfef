"""What an open image has of boot profiles: the one that it follows, and those it records."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import structlog
import trio

from nebfs.content.layers.cached import Cached
from nebfs.content.pace import Pace
from nebfs.content.profiling.comparing import has_layout, sums_of
from nebfs.content.profiling.follower import Follower
from nebfs.content.profiling.merging import merged
from nebfs.content.profiling.profile import MOST_BOOTS, Profile
from nebfs.content.profiling.recorder import FEWEST_SLOTS, Recorder
from nebfs.content.profiling.shelf import Shelf
from nebfs.units import MIB

log = structlog.get_logger()

SMALLEST = 8 * MIB
"""Bytes: of less a quarter is nothing to record."""

LONGEST = 600.0
"""Seconds after opening for which reads belong to a boot."""

QUIET = 30.0
"""Seconds without anything new after which a boot is over: guests run for months, and what one has
read must be kept before the machine is switched off."""

LOOK = 10.0
"""Seconds between two looks at whether a boot is over."""

PATIENCE = 5.0
"""Seconds that comparing and hashing may take for a profile: it is megabytes of a cache disk, which
may be busy. What was recorded is kept with the checksums that were had by then."""


class Boots:
    """Of one open image, whose lineage is `key`; `image` is its address for people.

    ``run`` in the nursery of the object; ``opened`` and ``closed`` for each open file.
    """

    def __init__(
        self,
        shelf: Shelf,
        key: str,
        image: str,
        cached: Cached,
        pace: Pace,
        turns: int,
        damaged: Callable[[], bool],
    ) -> None:
        self._shelf = shelf
        self._key = key
        self._image = image
        self._cached = cached
        self._pace = pace
        self._turns = turns
        self._damaged = damaged
        self._recorders: list[Recorder] = []
        self._opened = trio.Event()

    def opened(self) -> Recorder:
        """Return what is to be told of the reads of one open file."""
        recorder = Recorder(trio.current_time())
        self._recorders.append(recorder)
        self._opened.set()
        return recorder

    async def closed(self, recorder: Recorder) -> None:
        """Keep what an open file was read for, if that was a boot."""
        if recorder in self._recorders:
            self._recorders.remove(recorder)
            await self._keep(recorder)

    async def run(self) -> None:
        """Bring what the profile says, then wait for boots to be over, for ever."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow)
                while True:
                    await self._opened.wait()
                    await trio.sleep(LOOK)
                    await self._keep_those(lambda recorder: _over(recorder, trio.current_time()))
                    if not self._recorders:
                        self._opened = trio.Event()
        finally:
            # The daemon stops: files that are still open then are not closed one by one.
            await self._keep_those(lambda _: True)

    async def _keep_those(self, wanted: Callable[[Recorder], bool]) -> None:
        for recorder in [r for r in self._recorders if wanted(r)]:
            if recorder in self._recorders:  # and not closed while another one was kept
                recorder.full = True
                self._recorders.remove(recorder)
                await self._keep(recorder)

    async def _follow(self) -> None:
        if self._cached.file.complete or self._damaged():
            return
        try:
            profile = await self._shelf.load(self._key)
            if profile is not None:
                await Follower(self._cached, profile, self._pace, self._turns).run()
        except Exception:  # a bug here must cost a boot its speed, not the mount
            log.exception("profile.bug")

    async def _keep(self, recorder: Recorder) -> None:
        """Keep a recording if it is of a boot; nothing is lost when the image is closed meanwhile,
        or the daemon stops. No deadline is over all of it: where many images are open at the end
        they wait for each other.
        """
        if recorder.is_boot(self._cached.file.slots):
            with trio.CancelScope(shield=True):
                try:
                    await self._merge(list(recorder.order))
                except Exception:  # a bug here must cost a profile, not the mount
                    log.exception("profile.bug")

    async def _merge(self, read: list[int]) -> None:
        """Make a profile of what was read, or merge it into the one that is there."""
        file = self._cached.file
        revision = self._cached.revision
        async with self._shelf.turn:
            old = await self._shelf.load(self._key)
            if old is not None and old.revision.differs_from(revision):
                same = False
                with trio.move_on_after(PATIENCE):
                    same = await has_layout(old, file)
                old = old if same else None
            parts = merged(old, read, file.size)
            if parts is None:
                return
            profile = Profile(
                key=self._key,
                image=self._image[:4096],
                revision=revision,
                boots=1 if old is None else min(old.boots + 1, MOST_BOOTS),
                recorded=time.time(),
                parts=parts,
            )
            sums: list[tuple[int, int]] = []
            with trio.move_on_after(PATIENCE):
                async for one in sums_of(file, list(profile.slots())):
                    sums.append(one)  # noqa: PERF401 - those that were had are kept
            await self._shelf.save(replace(profile, sums=tuple(sums)))
        log.info("profile.recorded", image=self._image, ranges=len(parts), bytes=profile.length)


def _over(recorder: Recorder, now: float) -> bool:
    quiet = now - recorder.last >= QUIET and len(recorder.order) >= FEWEST_SLOTS
    return recorder.full or quiet or now - recorder.began >= LONGEST


def is_worthwhile(size: int) -> bool:
    """Whether profiles are kept of images of `size` bytes."""
    return size >= SMALLEST
