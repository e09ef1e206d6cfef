"""One life of the daemon in this process: the real wiring over a worker that is a task.

Not here are the mount itself, the control socket and signals: those are what ``mounted`` is for.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog
import trio

from nebfs.blocks import DiskStore
from nebfs.config import Settings
from nebfs.daemon import wiring
from nebfs.daemon.objects import _dropped
from nebfs.daemon.pinning import _pins_of
from nebfs.daemon.warming import Work
from nebfs.daemon.wiring import House
from nebfs.errors import NebfsError
from nebfs.fetcher import client
from tests.promises.model.kernel import Kernel
from tests.promises.model.loop import Loop
from tests.promises.model.web import FRONT_END, Network
from tests.promises.model.worker import ScriptedWorker
from tests.promises.model.world import PASSWORD

NEVER = 1e9
"""Seconds between two refreshes that nobody asks for."""


class Bugs:
    """What nebfs itself calls a bug of its own, from its log."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def __call__(self, logger: object, method: str, event: Any) -> Any:
        if str(event["event"]).endswith("bug") or method in ("exception", "critical"):
            self.found.append(f"{event}")
        raise structlog.DropEvent

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Hear what is logged."""
        before = structlog.get_config()
        structlog.configure(
            processors=[structlog.processors.format_exc_info, self],
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            cache_logger_on_first_use=False,
        )
        try:
            yield
        finally:
            structlog.configure(**before)


class Life:
    """Starts and ends the daemon of one cache directory."""

    def __init__(self, loop: Loop, network: Network, home: Path, cache_size: int) -> None:
        self._loop = loop
        self._network = network
        self._home = home
        self._cache_size = cache_size
        self._caches = 0
        self.cache = home / "cache0"
        self._scope = trio.CancelScope()
        self._over = trio.Event()
        self._house: House | None = None
        self._kernel: Kernel | None = None
        self.worker: ScriptedWorker | None = None
        auth = home / "auth"
        auth.write_text(f"alice:{PASSWORD}\n")
        auth.chmod(0o600)
        self._settings = {
            "source": FRONT_END,
            "auth_file": auth,
            "cache_size": cache_size,
            "cache_min_free": 0,
            "run_dir": home / "run",
            "refresh_interval": NEVER,
        }

    @property
    def house(self) -> House:
        assert self._house is not None
        return self._house

    @property
    def kernel(self) -> Kernel:
        assert self._kernel is not None
        return self._kernel

    @property
    def is_alive(self) -> bool:
        return self._house is not None

    def start(self) -> NebfsError | None:
        """Start; return why it did not."""
        return self._loop.do(self._start)

    async def _start(self) -> NebfsError | None:
        self._scope, self._over = trio.CancelScope(), trio.Event()
        try:
            await self._loop.nursery.start(self._live)
        except NebfsError as exc:
            return exc
        return None

    async def _live(self, task_status: trio.TaskStatus[None]) -> None:
        settings = Settings(cache_dir=self.cache, **self._settings)
        failures: list[NebfsError] = []
        try:
            with self._scope:
                try:
                    async with wiring.built(settings) as house:
                        self._took_over(house)
                        task_status.started()
                        await trio.sleep_forever()
                except* NebfsError as group:
                    failures += _leaves(group)
        finally:
            self._house = self._kernel = None
            self._over.set()
        if failures:
            raise failures[0]

    def _took_over(self, house: House) -> None:
        self._house = house
        self._kernel = Kernel(house.operations, house.tree)
        insides = house.tree._insides
        for remembering in (house.prober, house.catalog, insides._openings, insides._backups):
            remembering._now = self._loop.wall  # type: ignore[union-attr]

    def end(self) -> None:
        """Stop as TERM does once all files are closed."""
        self._loop.do(self._end)

    async def _end(self) -> None:
        self._scope.cancel()
        await self._over.wait()

    def kill(self) -> None:
        """End as SIGKILL does: what is in the cache directory now is what the next life finds."""
        self._caches += 1
        fresh = self._home / f"cache{self._caches}"
        # What the old life still writes on its way out goes nowhere: all of that is by path.
        os.rename(self.cache, fresh)
        self.cache = fresh
        house = self.house
        self._loop.do(self._end)
        self._loop.do(self._close, house)

    async def _close(self, house: House) -> None:
        """Close what the kernel closes of a process that is gone."""
        for fh in list(house.operations.handles.files):
            await house.operations.release(fh)
        for file in [*house.store.open_files(), *house.memory.open_files()]:
            if file.fd >= 0:
                file.close()

    def kill_fetcher(self) -> None:
        if self.worker is not None:
            self.worker.die()

    @contextlib.contextmanager
    def in_process(self) -> Iterator[None]:
        """Have the fetcher's process be a task, and the collector of garbage left alone."""

        def worker(settings: object) -> ScriptedWorker:
            self.worker = ScriptedWorker(self._network, self._loop.nursery)
            return self.worker

        real, spare = client.WorkerProcess, wiring._spare_collections
        client.WorkerProcess = worker  # type: ignore[assignment,misc]
        wiring._spare_collections = lambda: None
        try:
            yield
        finally:
            client.WorkerProcess, wiring._spare_collections = real, spare  # type: ignore[misc]

    # --- what commands do --------------------------------------------------------------------

    async def drop(self) -> None:
        """`nebfs cache drop --all --force`."""
        await _dropped(self.house, {"all": True, "force": True})

    async def pin(self, path: str) -> None:
        """`nebfs pin PATH`. Raises NebfsError."""
        pins = await _pins_of(self.house, path)
        await self.house.pins.add(one for one, _ in pins)

    async def unpin(self) -> int:
        """`nebfs unpin --all`."""
        return len(await self.house.pins.remove({pin.key for pin in self.house.pins.all}))

    async def warm(self, path: str) -> list[str]:
        """`nebfs warm PATH`: return what the events were. Raises NebfsError."""
        work = Work(self.house, None)
        await work.prepare([path], recursive=False)
        await work.run()
        return [str(told["event"]) for told in work.news()]

    def disk_used(self) -> int:
        """Bytes that the cached data takes on its disk."""
        return sum(path.stat().st_blocks * 512 for path in (self.cache / "objects").glob("*/*.dat"))

    @property
    def store(self) -> DiskStore:
        store = self.house.store
        assert isinstance(store, DiskStore)
        return store


def _leaves(group: BaseExceptionGroup[Any]) -> list[Any]:
    found: list[Any] = []
    for one in group.exceptions:
        found += _leaves(one) if isinstance(one, BaseExceptionGroup) else [one]
    return found
