"""All checks at the same time, each within a bound of seconds, told in one order."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import trio

from nebfs.cli.checkup.cloud import Asking, check_cloud
from nebfs.cli.checkup.files import check_files
from nebfs.cli.checkup.finding import Finding, problem
from nebfs.cli.checkup.keeping import check_cache, check_run_dir
from nebfs.cli.checkup.machine import (
    check_fuse_here,
    check_kernel,
    check_mountpoint_of,
    check_stale_mounts,
)
from nebfs.config import Settings
from nebfs.daemon.wiring import fetcher_settings
from nebfs.errors import NebfsError, UserError
from nebfs.fetcher.client import open_fetcher
from nebfs.fetcher.messages import Call

ERROR = 40  # as the logging module counts: what a fetcher says of less is not about the findings
STEPS = 6
"""Questions that wait for each other at most: the way there, who it is, two lists, and then the way
to a place and its answer. So many times the bound of one question is waited for all."""

Step = Callable[[], Awaitable[list[Finding]]]
Check = Callable[[], Iterator[Finding]]


@dataclass(frozen=True, slots=True)
class Checkup:
    """What is looked at. `settings` are None where they could not be read: then only the machine
    is. `patience` is seconds for each question.
    """

    settings: Settings | None
    run_dir: Path
    mountpoint: Path | None
    patience: float

    def run(self) -> list[Finding]:
        """Return what was found. Raises nothing that a check can meet."""
        return trio.run(self._run)

    async def _run(self) -> list[Finding]:
        results: dict[int, list[Finding]] = {}
        steps: list[Step] = [
            partial(self._in_thread, about, check) for about, check in self._checks()
        ]
        steps.append(self._cloud)

        async def one(number: int, step: Step) -> None:
            try:
                results[number] = await step()
            except Exception as exc:  # noqa: BLE001 - the other checks are of use all the same
                text = f"a check failed by a mistake in nebfs: {type(exc).__name__}"
                results[number] = [problem("doctor", text, "please report this")]

        async with trio.open_nursery() as nursery:
            for number, step in enumerate(steps):
                nursery.start_soon(one, number, step)
        return [finding for number in sorted(results) for finding in results[number]]

    def _checks(self) -> Iterator[tuple[str, Check]]:
        settings = self.settings
        allow_other = settings is not None and settings.allow_other
        yield "FUSE", partial(check_fuse_here, allow_other=allow_other)
        yield "kernel", check_kernel
        if self.mountpoint is not None:
            yield "mount point", partial(check_mountpoint_of, self.mountpoint, self.run_dir)
        yield "mounts", partial(check_stale_mounts, self.run_dir, self.mountpoint)
        yield "run directory", partial(check_run_dir, self.run_dir)
        if settings is not None:
            cache = partial(check_cache, settings.cache_dir, settings.cache_size)
            where = {"run_dir": self.run_dir, "mountpoint": self.mountpoint}
            yield "cache", partial(cache, settings.cache_min_free, **where)
            yield "files", partial(check_files, settings, os.environ, Path.home())

    async def _in_thread(self, about: str, check: Check) -> list[Finding]:
        # A disk or a dead NFS server can hold a thread for as long as it likes.
        with trio.move_on_after(2 * self.patience):
            return await trio.to_thread.run_sync(lambda: list(check()), abandon_on_cancel=True)
        text = f"no answer within {2 * self.patience:g} s: a disk or a server behind it hangs"
        return [problem(about, text, "see what hangs with 'dmesg' and 'cat /proc/mounts'")]

    async def _cloud(self) -> list[Finding]:
        if self.settings is None:
            return []
        told: list[Finding] = []
        try:
            async with self._fetcher(self.settings) as call:
                asking = Asking(self.settings, call, os.environ, Path.home(), self.patience)
                with trio.move_on_after(STEPS * self.patience) as scope:
                    await check_cloud(asking, told)
        except UserError:
            return told  # the file of credentials, which is told where files are looked at
        except (NebfsError, OSError) as exc:
            remedy = "see whether processes can be started here (memory, limits)"
            return [*told, problem("fetcher", f"the process that asks the network: {exc}", remedy)]
        if scope.cancelled_caught:
            text = f"not all was answered within {STEPS * self.patience:g} s"
            told.append(problem("network", text, "ask again with a longer --timeout"))
        return told

    @asynccontextmanager
    async def _fetcher(self, settings: Settings) -> AsyncIterator[Call]:
        told = fetcher_settings(settings)
        bounded = min(told.connect_timeout, self.patience)
        quiet = replace(told, log_level=ERROR, connect_timeout=bounded)
        async with open_fetcher(quiet) as fetcher:
            yield fetcher.call
