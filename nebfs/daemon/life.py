"""One mounted life, from the first check to the last unmount."""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import structlog
import trio

from nebfs.config import Settings
from nebfs.daemon import control, listening, metrics, registry
from nebfs.daemon.history import History, counts_of
from nebfs.daemon.routes import routes
from nebfs.daemon.status import Status
from nebfs.daemon.wiring import House, built
from nebfs.errors import NebfsError
from nebfs.fuse import Mounted, MountOptions, detach, serve

log = structlog.get_logger()

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
    try:
        trio.run(_live, settings, mountpoint, ready)
    except* NebfsError as group:
        failure: BaseException = group
        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
        raise failure from group


async def _live(settings: Settings, mountpoint: Path, ready: Callable[[], None]) -> None:
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
        nursery.start_soon(past.run)
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
            ready()

        try:
            async with trio.open_nursery() as window:
                window.start_soon(_obey_signals, house, mountpoint, window.cancel_scope)
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
                registry.unregister(settings.run_dir, mountpoint)
            nursery.cancel_scope.cancel()


async def _obey_signals(house: House, mountpoint: Path, scope: trio.CancelScope) -> None:
    """HUP refreshes; TERM and INT stop: no new opens, a bound for what is open, then the end."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        stopping = False
        async for number in signals:
            if number == signal.SIGHUP:
                log.info("refresh.asked", by="SIGHUP")
                house.refresh_soon()
            elif stopping:
                scope.cancel()  # asked twice: at once
            else:
                stopping = True
                log.info(
                    "stop.asked", by=signal.Signals(number).name, open=house.operations.open_files
                )
                # Out of the way of new opens; the kernel ends the session by itself once the last
                # file is closed, and then serve() returns.
                await detach(mountpoint)
                scope.deadline = trio.current_time() + DRAIN
