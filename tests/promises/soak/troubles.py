"""What goes wrong while readers read, and heals again. The seed decides what, not exactly when."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nebfs.daemon.control import ask
from nebfs.errors import NebfsError
from tests.faults.valve import CUT, OPEN, REFUSED, SLOW, STALLED
from tests.promises.soak.world import FAR, FRONTEND, KINDS, OBJECTS, SAYS, WEB, World

FOREVER = 1 << 30
"""Answers of a server that fails until it is told otherwise."""

STORM = 12
"""Refreshes that are asked for at the same time."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long things are, in seconds."""

    deadline: float
    stall: float
    grace: float
    """What the machine may take beyond a deadline: it does other work, too."""
    rough: float
    """In which troubles come and go."""
    quiet: float
    """In which there are none, after that."""
    settle: float
    """Of the quiet, until no error is excused any more."""
    lasts: tuple[float, float]
    """A trouble: at least, at most."""
    between: float
    """From one trouble to the next, on average."""
    sample: float
    trends: bool
    """Whether there is time to see what grows. In seconds, nothing is warm."""


LONG = Pace(8.0, 2.0, 15.0, 150.0, 90.0, 45.0, (3.0, 25.0), 6.0, 5.0, True)
SHORT = Pace(5.0, 1.0, 20.0, 9.0, 5.0, 60.0, (0.5, 3.0), 1.0, 0.5, False)


@dataclass(frozen=True, slots=True)
class Happened:
    """One trouble, on the clock of the run."""

    place: str
    what: str
    began: float
    ended: float


@dataclass(slots=True)
class Troubles:
    """Switches troubles on and off; `tick` is called often."""

    world: World
    daemon: int
    socket: Path
    choose: random.Random
    pace: Pace
    kills_until: float
    """Seconds of the run in which the fetcher is killed: of one that is a new one every few minutes
    nobody could see whether it grows, and the last one warms up for a quarter of an hour."""
    started: float = field(default_factory=time.monotonic)
    happened: list[Happened] = field(default_factory=list)
    _active: dict[str, tuple[str, float, float, Callable[[], None]]] = field(default_factory=dict)
    _next: float = 0.0
    _bag: list[tuple[str, str]] = field(default_factory=list)
    _asking: list[threading.Thread] = field(default_factory=list)

    @property
    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.started

    @property
    def active(self) -> list[str]:
        """What is wrong now."""
        return [f"{place}: {what}" for place, (what, *_) in self._active.items()]

    def tick(self) -> float:
        """Begin and end what is due. Return since when all is quiet, on the monotonic clock."""
        now = self.now
        into = now % (self.pace.rough + self.pace.quiet)
        rough = into < self.pace.rough
        for place, (_, _, until, _) in list(self._active.items()):
            if not rough or now >= until:
                self._end(place)
        if rough and now >= self._next:
            self._next = now + self.pace.between * self.choose.uniform(0.3, 1.7)
            self._begin()
        settled = self.pace.rough + self.pace.settle
        return time.monotonic() - (into - settled) if into >= settled else float("inf")

    def _begin(self) -> None:
        if not self._bag:  # every trouble has its turn before one comes again
            self._bag = [
                *((FRONTEND, what) for what in (REFUSED, STALLED, CUT, "503")),
                *((WEB, what) for what in (REFUSED, STALLED, CUT, SLOW, *SAYS)),
                *((OBJECTS, what) for what in (REFUSED, STALLED, CUT, SLOW, *SAYS)),
                *((FAR, what) for what in (REFUSED, STALLED, CUT, SLOW)),
                *(("", what) for what in ("storm", "replace", "replace")),
            ]
            if self.now < self.kills_until:
                self._bag += [("", "kill")] * 3
            self.choose.shuffle(self._bag)
        place, what = self._bag.pop()
        if not place:
            {"kill": self._kill, "storm": self._storm, "replace": self._replace}[what]()
            return
        if place in self._active:
            self._end(place)
        now = self.now
        until = now + self.choose.uniform(*self.pace.lasts)
        self._active[place] = what, now, until, self._switch(place, what)

    def _end(self, place: str) -> None:
        what, began, _, undo = self._active.pop(place)
        undo()
        self.happened.append(Happened(place, what, began, self.now))

    def _switch(self, place: str, what: str) -> Callable[[], None]:
        """Make it so; return what undoes it."""
        if not what.isdigit():
            valve = self.world.valves[place]
            valve.turn(what)
            return lambda: valve.turn(OPEN)
        if place == WEB:
            self.world.says(what, on=True)
            return lambda: self.world.says(what, on=False)
        if place == FRONTEND:
            front_end = self.world.servers.front_end
            front_end.fail_next = FOREVER

            def undo_front_end() -> None:
                front_end.fail_next = 0

            return undo_front_end
        store = self.world.servers.objects
        paths = [f"/images/marketapp-{n}" for n, k in enumerate(KINDS) if k.place == OBJECTS]
        for path in paths:
            switches = store.switches(path)
            switches.fail_status, switches.retry_after = int(what), 1
            switches.fail_next = FOREVER

        def undo_store() -> None:
            for path in paths:
                store.switches(path).fail_next = 0

        return undo_store

    def _once(self, what: str) -> None:
        self.happened.append(Happened("", what, self.now, self.now))

    def _kill(self) -> None:
        """Kill the fetcher."""
        children = Path(f"/proc/{self.daemon}/task/{self.daemon}/children").read_text()
        for pid in children.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        self._once("kill")

    def _storm(self) -> None:
        """Have everything listed by many at once."""
        for _ in range(STORM):
            self.refresh()
        self._once("storm")

    def _replace(self) -> None:
        """Publish another version of an image."""
        self.world.replace(self.choose.randrange(len(KINDS)))
        self.refresh()
        self._once("replace")

    def refresh(self) -> None:
        """Ask for new lists, and do not wait for them: the front-end may be away."""

        def refresh() -> None:
            with contextlib.suppress(NebfsError):
                ask(self.socket, "POST", "/v1/refresh", timeout=120)

        thread = threading.Thread(target=refresh, daemon=True)
        thread.start()
        self._asking = [one for one in self._asking if one.is_alive()]
        self._asking.append(thread)

    def heal(self) -> None:
        """End all troubles, and wait for refreshes that were asked for."""
        for place in list(self._active):
            self._end(place)
        for thread in self._asking:
            thread.join(120)
