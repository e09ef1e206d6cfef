"""One history: the world, the reference, the mount, and what rules need to choose and to judge."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, Protocol

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine

from tests.promises.model.judging import Handle, Tally, Weather, WrongError, file_name
from tests.promises.model.kernel import Entry
from tests.promises.model.reference import EXTENSIONS, Listing, Reference, Shown, raw_names
from tests.promises.model.world import World

ANY = st.integers(0, 1 << 30)


class Mount(Protocol):
    """What programs do with a mount. All raise OSError."""

    def list(self, path: str) -> dict[str, Entry]: ...
    def open(self, path: str) -> tuple[int, Entry]: ...
    def read(self, fh: int, offset: int, length: int) -> bytes: ...
    def release(self, fh: int) -> None: ...


def counted(step: Callable[..., None]) -> Callable[..., None]:
    """Count a step that a rule has done."""

    @wraps(step)
    def done(self: History, **drawn: Any) -> None:
        self.tally.steps += 1
        self.tally.rules[step.__name__] += 1
        step(self, **drawn)

    return done


class History(RuleBasedStateMachine):
    """What both heights have in common."""

    tally: ClassVar[Tally] = Tally()
    deadline: ClassVar[float] = 66.0
    """Seconds after which a read must have its answer: 60 of nebfs, one, and 5 that the clock may
    jump (something is saved every 5 s) before it has begun."""

    home: Path
    world: World
    reference: Reference

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.handles: list[Handle] = []
        self.weather = Weather()
        self.denied = False
        self.mount: Mount | None = None
        self.begun = False

    @property
    def now(self) -> float:
        """Seconds on the clock of this history."""
        raise NotImplementedError

    def alive(self) -> bool:
        """Whether it is mounted."""
        return self.mount is not None

    def dead(self) -> bool:
        """Whether it is not mounted, and could be."""
        return self.begun and self.mount is None

    def open_ones(self) -> bool:
        """Whether something is open."""
        return self.alive() and bool(self.handles)

    def pick(self, number: int, choices: list[Any]) -> Any:
        return choices[number % len(choices)] if choices else None

    @property
    def listing(self) -> Listing:
        assert self.reference.shown is not None
        return self.reference.shown

    def shown(self) -> list[tuple[str, Shown]]:
        """Return every thing that is shown, with the path of its place."""
        found = []
        for top in ("marketplaces", "datastores"):
            for place, things in getattr(self.listing, top).items():
                found += [(f"{top}/{place}", things[name]) for name in sorted(things or {})]
        return found

    def path_of(self, place: str, shown: Shown, *, raw: bool) -> str:
        """Return the path of a thing's file."""
        app = place.startswith("marketplaces")
        directory = f"{place}/{shown.name}" if app else place
        name = file_name(shown, app=app)
        if not raw:
            return f"{directory}/{name}"
        if app:
            published = {name: extension(shown)}
        else:
            things = self.listing.datastores[place.partition("/")[2]] or {}
            published = {one.name: extension(one) for one in things.values()}
        return f"raw/{directory}/{raw_names(published)[name]}"

    def ask(self, work: Callable[..., Any], *args: object) -> Any:
        """Have something asked, which must end in time. Raises OSError."""
        began = self.now
        try:
            return work(*args)
        finally:
            took = self.now - began
            if took > self.deadline:
                raise WrongError(f"{work.__name__} {args} took {took:.0f} s")


def extension(shown: Shown) -> str:
    return EXTENSIONS[shown.recorded.kind]
