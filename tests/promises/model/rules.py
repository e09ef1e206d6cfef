"""The steps of a history in one process, and what must hold after each of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import trio
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from nebfs.errors import NebfsError, Refused
from tests.promises.model.history import ANY, History, counted
from tests.promises.model.judging import Handle
from tests.promises.model.kernel import Entry
from tests.promises.model.life import Bugs, Life
from tests.promises.model.loop import Loop
from tests.promises.model.readings import Readings
from tests.promises.model.world import World
from tests.promises.threads import turns

CACHE = 6 << 20
"""Bytes of the cache: less than what is published, so that something leaves all the time."""


class Calls:
    """The kernel of one life, for those who wait."""

    def __init__(self, loop: Loop, life: Life) -> None:
        self._loop = loop
        self._life = life

    def list(self, path: str) -> dict[str, Entry]:
        return self._loop.do(self._life.kernel.list, path)

    def open(self, path: str) -> tuple[int, Entry]:
        return self._loop.do(self._life.kernel.open, path)

    def read(self, fh: int, offset: int, length: int) -> bytes:
        return self._loop.do(self._life.kernel.read, fh, offset, length)

    def release(self, fh: int) -> None:
        self._loop.do(self._life.kernel.release, fh)


class Histories(Readings):
    """Random histories of a cloud and of the daemon that shows it."""

    loop: Loop
    life: Life
    bugs: Bugs
    descriptors: int

    @property
    def now(self) -> float:
        return self.loop.now

    @property
    def network(self) -> Any:
        return self.world.network

    @initialize(seed=ANY)
    def begin(self, seed: int) -> None:
        """A cloud with a few things, and the first life."""
        self.tally.histories += 1
        self.descriptors = len(os.listdir("/proc/self/fd"))
        self.home = Path(tempfile.mkdtemp(prefix="nebfs-model-"))
        self.stack.callback(shutil.rmtree, self.home)
        self.world = World(self.home, seed)
        self.reference = self.world.reference
        self.loop = Loop(seed)
        self.stack.callback(self.loop.close)
        self.stack.enter_context(self.loop.in_place())
        self.bugs = Bugs()
        self.stack.enter_context(self.bugs.heard())
        self.life = Life(self.loop, self.world.network, self.home, CACHE)
        self.stack.enter_context(self.life.in_process())
        self.begun = True
        self.world.add_app("alpine", 100, "raw", 300_000, with_md5=True)
        self.world.add_app("debian", 101, "qcow2", 300_000, with_md5=False)
        self.world.add_app("alpine", 101, "gz", 300_000, with_md5=True)
        self.world.add_image("alpine", 200, "raw", 4096)
        self._started(self.life.start())

    def teardown(self) -> None:
        if not self.begun:
            return
        try:
            if self.life.is_alive:
                self.life.kill()
        finally:
            self.stack.close()
        left = len(os.listdir("/proc/self/fd"))
        # What other tests of this process had open may be closed meanwhile.
        assert left <= self.descriptors, f"{left - self.descriptors} descriptors are left open"
        assert not self.bugs.found, self.bugs.found[0]

    @rule(full=st.booleans())
    @counted
    def cache_disk_fills_up_or_not(self, full: bool) -> None:
        if self.network.disk_full or full:
            self.weather.disk_bad_until = 1e9 if full else self.now
        self.network.disk_full = full

    # --- lives -------------------------------------------------------------------------------

    @precondition(History.alive)
    @rule()
    @counted
    def kill_fetcher(self) -> None:
        self.life.kill_fetcher()

    @precondition(History.alive)
    @rule(gently=st.booleans())
    @counted
    def end_daemon(self, gently: bool) -> None:
        if gently:
            for handle in self.handles:
                self.loop.do(self.life.kernel.release, handle.fh)
            self.life.end()
        else:
            self.life.kill()
        self.mount = None
        self.handles.clear()

    @precondition(History.dead)
    @rule(rot=st.sampled_from(["", "", "blocks", "index", "catalogue"]), where=ANY)
    @counted
    def start_daemon(self, rot: str, where: int) -> None:
        self._rot(rot, where)
        self._started(self.life.start())

    def _started(self, failure: NebfsError | None) -> None:
        if self.world.refuses and self.network.one == "up":
            assert isinstance(failure, Refused), failure
            return
        if self.network.one == "up":
            assert failure is None, failure
            self.reference.refreshed(services_answer=self.network.service == "up")
        elif self.reference.shown is None:
            assert failure is not None, "it started without any list"
            return
        else:
            assert failure is None, failure
        self.denied = False
        self.mount = Calls(self.loop, self.life)

    def _rot(self, what: str, where: int) -> None:
        """Something of the cache directory is not as it was left."""
        if not what:
            return
        kind = {"blocks": "objects/*/*.dat", "index": "objects/*/*.idx"}
        found = sorted(self.life.cache.glob(kind.get(what, "documents/catalogue-*")))
        if not found:
            return
        path = found[where % len(found)]
        if what == "catalogue":
            path.write_bytes(path.read_bytes()[:-9])
            self.reference.forget()
            return
        with path.open("r+b") as file:
            at = where % max(path.stat().st_size, 1)
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 0x55]) if byte else b"")

    @precondition(History.alive)
    @rule()
    @counted
    def refresh(self) -> None:
        self._refreshed(self.loop.do(self.life.house.catalog.refresh))

    def _refreshed(self, failure: NebfsError | None) -> None:
        if failure is None:
            assert self.network.one in ("up", "half"), "an answer of a front-end that is down"
            assert not self.world.refuses
            self.reference.refreshed(services_answer=self.network.service == "up")
            self.denied = False
        elif isinstance(failure, Refused):
            assert self.world.refuses, failure
            self.denied = True
        else:
            assert self.network.one != "up", failure

    # --- the cache ---------------------------------------------------------------------------

    @precondition(History.alive)
    @rule()
    @counted
    def drop_cache(self) -> None:
        self.loop.do(self.life.drop)

    @precondition(History.alive)
    @rule(which=ANY, unpin=st.booleans())
    @counted
    def pin_or_unpin(self, which: int, unpin: bool) -> None:
        if unpin:
            self.loop.do(self.life.unpin)
        else:
            chosen = self.pick(which, self.shown())
            if chosen is not None:
                with contextlib.suppress(NebfsError):
                    self.loop.do(self.life.pin, self.path_of(*chosen, raw=False))
        self.weather.crowded = bool(self.life.house.pins.all)

    @precondition(History.alive)
    @rule(which=ANY)
    @counted
    def warm(self, which: int) -> None:
        """Have an image brought whole. It may not fit, or not come; what comes is right."""
        chosen = self.pick(which, self.shown())
        if chosen is not None:
            with contextlib.suppress(NebfsError):
                self.loop.do(self.life.warm, self.path_of(*chosen, raw=False))

    # --- several at once ---------------------------------------------------------------------

    @precondition(History.open_ones)
    @rule(
        readers=st.lists(st.tuples(ANY, ANY, st.integers(0, 40)), min_size=2, max_size=8),
        meanwhile=st.sampled_from(
            ["", "", "drop", "fetcher", "down", "replace", "refresh", "flaky"]
        ),
        after=st.integers(0, 12),
    )
    @counted
    def storm(self, readers: list[tuple[int, int, int]], meanwhile: str, after: int) -> None:
        """Several readers at once, some of whom give up in the middle, while something happens."""
        self.loop.do(self._storm, readers, meanwhile, after)

    async def _storm(self, readers: list[tuple[int, int, int]], meanwhile: str, after: int) -> None:
        async with trio.open_nursery() as nursery:
            for which, at, patience in readers:
                handle = self.handles[which % len(self.handles)]
                # Half of them go on to the end.
                given_up = patience if patience % 2 else None
                nursery.start_soon(self._one_reader, handle, at % handle.size, given_up)
            await turns(after)
            await self._meanwhile(meanwhile)
        self.note_weather()

    async def _one_reader(self, handle: Handle, offset: int, patience: int | None) -> None:
        length = 1 + (offset * 7919) % 400_000
        began = self.now
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                if patience is not None:
                    nursery.start_soon(_cancel_after, patience, scope)
                try:
                    got = await self.life.kernel.read(handle.fh, offset, length)
                except OSError as exc:
                    self.failed(handle, exc)
                else:
                    self.answered(handle, offset, length, got)
                nursery.cancel_scope.cancel()
        self.tally.cancelled += scope.cancelled_caught
        assert self.now - began <= self.deadline, f"{handle} took {self.now - began:.0f} s"

    async def _meanwhile(self, what: str) -> None:
        match what:
            case "drop":
                await self.life.drop()
            case "fetcher":
                self.life.kill_fetcher()
            case "down":
                self.set_weather("files", "down")
            case "replace":
                self.replace_one(self.handles[0].thing, "same", quietly=True)
            case "refresh":
                self._refreshed(await self.life.house.catalog.refresh())
            case "flaky":
                # The place is away for a moment: whoever waits is patient.
                before = self.network.files
                self.set_weather("files", "half")
                await trio.sleep(0.5)
                self.set_weather("files", before)

    @precondition(History.alive)
    @rule()
    @counted
    def kernel_forgets(self) -> None:
        self.loop.do(self.life.kernel.forget, [handle.ino for handle in self.handles])

    @rule(seconds=st.sampled_from([1, 12, 70, 400]))
    @counted
    def time_passes(self, seconds: float) -> None:
        """What goes on in the background comes to its end; then nothing may be held any more."""
        self.loop.do(trio.sleep, seconds if seconds < 400 else 390)
        if self.alive() and seconds >= 70:
            self._is_idle()

    def _is_idle(self) -> None:
        house = self.life.house
        assert house.store.reserved == 0, f"{house.store.reserved} bytes are reserved for nobody"
        assert house.memory.reserved == 0, f"{house.memory.reserved} bytes are reserved in memory"
        assert house.fetcher.statistics().in_flight == 0, house.fetcher.outstanding()
        assert len(house.operations.handles) == len(self.handles), house.operations.handles.shown()
        opened = [h for h in self.handles if not h.is_local]
        assert house.library.open_objects <= len(opened), "an object is open for nobody"
        if not self.handles:
            assert house.store.open_files() == [], "a cache file is open for nobody"
            assert house.memory.open_files() == [], "memory is held for nobody"
        for place in house.library._places.values():
            assert place.gate.holding == place.row.holding == 0, "a turn is held by nobody"
        for file in house.store.open_files():
            assert not any(file.claimed), f"slots of {file.key[:8]} are claimed by nobody"

    # --- after each step ---------------------------------------------------------------------

    @invariant()
    def limits_hold(self) -> None:
        if not self.alive():
            return
        store = self.life.house.store
        objects = len(list((self.life.cache / "objects").glob("*/*.dat")))
        assert store.used + store.reserved <= store.limit, f"{store.used} and {store.reserved}"
        used = self.life.disk_used()
        assert used <= store.limit + 4096 * objects, f"{used} bytes on the disk"

    @invariant()
    def there_are_no_bugs(self) -> None:
        if self.begun:
            assert not self.bugs.found, self.bugs.found[0]


async def _cancel_after(patience: int, scope: trio.CancelScope) -> None:
    await turns(patience)
    scope.cancel()
