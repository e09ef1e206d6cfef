"""One mounted life, from the first check to the last unmount."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import resource
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import FrameType

import structlog
import trio

from nebfs.config import Settings
from nebfs.daemon import arenas, control, dump, listening, metrics, registry
from nebfs.daemon.history import History, counts_of
from nebfs.daemon.lasting import lasting
from nebfs.daemon.notify import Notifier
from nebfs.daemon.reload import reload
from nebfs.daemon.routes import routes
from nebfs.daemon.status import Status
from nebfs.daemon.wiring import House, built
from nebfs.ending import pass_on
from nebfs.errors import NebfsError
from nebfs.fuse import Mounted, MountOptions, detach, serve

log = structlog.get_logger()

HUP, USR1 = signal.SIGHUP, signal.SIGUSR1
STOPS = signal.SIGTERM, signal.SIGINT

DRAIN = 10.0
"""Seconds that files which are open at a TERM may go on being read before they get an error."""


def run(settings: Settings, mountpoint: Path, ready: Callable[[], None]) -> None:
    """Mount and serve until the filesystem is unmounted, or TERM or INT arrives. Blocking.

    `ready` is called once, when the mount answers. Raises NebfsError (a UserError where the user
    can mend it) when it cannot get so far.
    """
    # Two descriptors for each open image and one for each request: the usual soft limit of 1024 is
    # for programs that use select(2).
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    arenas.share()
    notifier = Notifier.taken_from(os.environ)  # before the fetcher inherits it
    try:
        with _told_where_it_hangs(), _deaf():
            trio.run(_live, settings, mountpoint, ready, notifier)
    except* NebfsError as group:
        failure: BaseException = group
        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
        raise failure from group


@contextlib.contextmanager
def _told_where_it_hangs() -> Iterator[None]:
    """Have a watchdog's SIGABRT, or a crash, leave the threads' stacks on stderr."""
    if faulthandler.is_enabled():
        yield
        return
    faulthandler.enable(file=2)
    try:
        yield
    finally:
        faulthandler.disable()


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """While the first lists are had, HUP and USR1 come too early: they must not end us."""
    before = {number: signal.getsignal(number) for number in (HUP, USR1, *STOPS)}
    for number in (HUP, USR1):
        signal.signal(number, _nothing)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """What a signal does that comes too early or too late."""


async def _live(
    settings: Settings, mountpoint: Path, ready: Callable[[], None], notifier: Notifier
) -> None:
    notifier.starting(f"Asking for the first lists, to be mounted at {mountpoint}")
    async with built(settings) as house, trio.open_nursery() as nursery:
        status = Status(house, mountpoint)
        house.show_status(status.document)
        registration = registry.Registration.of_this_process(
            settings.run_dir,
            mountpoint,
            source=house.source,
            log_file=str(settings.log_file or ""),
        )
        past = History(counts_of(house))
        nursery.start_soon(lasting, past.run)
        nursery.start_soon(lasting, arenas.give_back)
        if settings.metrics:
            heard = listening.listen_at(settings.metrics, "metrics")
            await nursery.start(listening.serve, heard, metrics.routes(house, status))
        answered = routes(house, status, past)
        await nursery.start(control.serve, Path(registration.socket), answered)

        def mounted(facts: Mounted) -> None:
            registry.register(settings.run_dir, registration)
            log.info(
                "mount.ready",
                mountpoint=str(mountpoint),
                source=house.source,
                read_ahead_kb=facts.read_ahead_kb or "kernel's default",
                cache=house.store.kind,
            )
            notifier.ready(status.line())
            nursery.start_soon(notifier.keep_telling, house.fetcher, status.line)
            ready()

        obeying = _Obeying(settings, mountpoint, house, status, notifier)
        try:
            async with trio.open_nursery() as window:
                window.start_soon(obeying.run, window)
                await serve(
                    house.operations,
                    house.tree,
                    mountpoint,
                    MountOptions(settings.fsname or house.source, settings.allow_other),
                    ready=mounted,
                )
                window.cancel_scope.cancel()
        finally:
            with contextlib.suppress(OSError):
                registry.unregister(settings.run_dir, mountpoint, pid=os.getpid())
            notifier.stopping()
            nursery.cancel_scope.cancel()


async def _harmless(obey: Callable[[], Awaitable[None]]) -> None:
    """Obey; a mistake of ours in it must not take the mount down."""
    try:
        await obey()
    except BaseException as exc:
        pass_on(exc)
        log.exception("signal.bug", work=getattr(obey, "__name__", ""))


class _Obeying:
    """HUP reloads; USR1 writes down what goes on; TERM and INT stop: no new opens, a bound for what
    is open, then the end.
    """

    def __init__(
        self, settings: Settings, mountpoint: Path, house: House, status: Status, notifier: Notifier
    ) -> None:
        self._settings = settings
        self._mountpoint = mountpoint
        self._house = house
        self._status = status
        self._notifier = notifier
        self._reloads = trio.Lock()

    async def run(self, window: trio.Nursery) -> None:
        """Obey until cancelled; what takes its time is done in `window`."""
        # What is there again when this has ended. A TERM that comes when the mount is gone already
        # (a service manager sends one after its own umount) would kill us while what was learned,
        # and what was read of images that were open, is being written down.
        for stop in STOPS:
            signal.signal(stop, _nothing)
        with trio.open_signal_receiver(*STOPS, HUP, USR1) as signals:
            stopping = False
            async for number in signals:
                if number == HUP:
                    log.info("reload.asked", by="SIGHUP")
                    window.start_soon(_harmless, self._reload)
                elif number == USR1:
                    window.start_soon(_harmless, self._dump)
                elif stopping:
                    window.cancel_scope.cancel()  # asked twice: at once
                else:
                    stopping = True
                    await self._stop(signal.Signals(number).name)
                    window.cancel_scope.deadline = trio.current_time() + DRAIN

    async def _reload(self) -> None:
        async with self._reloads:  # each sees what was written before its own signal
            self._notifier.reloading()
            troubles = ["the reload failed: see the log"]
            try:
                troubles = await reload(self._settings, self._house)
            finally:
                self._notifier.ready("; ".join([self._status.line(), *troubles]))

    async def _dump(self) -> None:
        await dump.write(self._settings.run_dir, self._mountpoint, self._house, self._status)

    async def _stop(self, by: str) -> None:
        log.info("stop.asked", by=by, open=len(self._house.operations.handles))
        self._notifier.stopping()
        # Out of the way of new opens; the kernel ends the session by itself once the last file is
        # closed, and then serve() returns.
        await detach(self._mountpoint)
