"""Tasks that last as long as the mount: a bug in one costs what it does, and never the mount."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
import trio

from nebfs.ending import pass_on

log = structlog.get_logger()

AGAIN = 10.0
"""Seconds until a task that failed is begun anew: its cause may be gone, and its lines in the log
must stay few."""


async def lasting(work: Callable[[], Awaitable[None]], again: float = AGAIN) -> None:
    """Do `work`; when an error leaves it, log that and begin anew `again` seconds later."""
    while True:
        try:
            await work()
        except BaseException as exc:
            pass_on(exc)
            log.exception("task.bug", task=getattr(work, "__qualname__", ""), again_in=again)
        else:
            return
        await trio.sleep(again)
