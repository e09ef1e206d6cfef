"""Steps in which the cloud, its places or their weather change."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.promises.model.history import ANY, History, counted
from tests.promises.model.reference import SIZES, Thing
from tests.promises.model.world import NAMES

MOST_THINGS = 12
LARGEST = 1_600_000
KINDS = st.sampled_from(["raw", "raw", "qcow2", "gz"])
WEATHERS = st.sampled_from(["up", "up", "up", "up", "down", "half", "hangs"])
LENGTHS = st.sampled_from(["same", "shorter", "longer", *SIZES])


class Changes(History):
    """What somebody else does."""

    @precondition(lambda self: self.begun and len(self.world.things) < MOST_THINGS)
    @rule(
        name=st.sampled_from(NAMES),
        place=ANY,
        kind=KINDS,
        size=st.sampled_from(SIZES),
        md5=st.booleans(),
    )
    @counted
    def add(self, name: str, place: int, kind: str, size: int, md5: bool) -> None:
        home = self.pick(place, self.world.places)
        if home < 200:
            self.world.add_app(name, home, kind, size, with_md5=md5)
        else:
            # A datastore's listing tells what its files are: none says that it is compressed.
            self.world.add_image(name, home, "raw" if kind == "gz" else kind, size)

    @rule(which=ANY)
    @counted
    def remove(self, which: int) -> None:
        thing = self.pick(which, self.world.things)
        if thing is not None:
            self.world.remove(thing)

    @rule(which=ANY, name=st.sampled_from(NAMES))
    @counted
    def rename(self, which: int, name: str) -> None:
        thing = self.pick(which, self.world.things)
        if thing is not None:
            self.world.rename(thing, name)

    @rule(which=ANY, how=LENGTHS, quietly=st.booleans())
    @counted
    def replace(self, which: int, how: str | int, quietly: bool) -> None:
        """Other bytes: of the same length, fewer, or more; with a new record, or silently."""
        self.replace_one(self.pick(which, self.world.things), how, quietly=quietly)

    def replace_one(self, thing: Thing | None, how: str | int, *, quietly: bool) -> None:
        if thing is None or thing.missing:
            return
        size = len(thing.current.disk)
        changed = {"same": size, "shorter": max(size // 2, 1), "longer": size + 70_000}
        wanted = changed[how] if isinstance(how, str) else how
        if thing.id in self.reference.apps:
            self.world.replace_app(thing, min(wanted, LARGEST), self.now, silently=quietly)
        else:
            self.world.replace_image(thing, min(wanted, LARGEST), self.now, in_place=quietly)

    @rule(which=ANY, seen=st.booleans())
    @counted
    def chmod(self, which: int, seen: bool) -> None:
        thing = self.pick(which, self.world.things)
        if thing is not None:
            self.world.let(thing, seen=seen)

    @rule(which=ANY)
    @counted
    def place_appears_or_vanishes(self, which: int) -> None:
        number = self.pick(which, self.world.places)
        (self.world.vanish if self.world.is_there(number) else self.world.appear)(number)

    @rule(what=st.sampled_from(["files", "files", "service", "one"]), weather=WEATHERS)
    @counted
    def weather_changes(self, what: str, weather: str) -> None:
        self.set_weather(what, weather)

    def set_weather(self, what: str, weather: str) -> None:
        setattr(self.world.network, what, weather)
        self.note_weather()

    def note_weather(self) -> None:
        if self.weather.bad:
            self.weather.bad_until = self.now
        self.weather.bad = self.world.network.files != "up"
        if self.weather.bad:
            self.weather.bad_until = self.now

    @rule(refused=st.sampled_from([False, False, True]))
    @counted
    def password_changes(self, refused: bool) -> None:
        self.world.refuse(refused=refused)
