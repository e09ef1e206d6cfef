"""What SIGHUP does: read the credentials again, and ask for new lists. Open files go on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
import trio

from nebfs.config import Settings
from nebfs.daemon.credentials import renewed
from nebfs.daemon.wiring import House
from nebfs.errors import NebfsError
from nebfs.fetcher import access

log = structlog.get_logger()

LISTS = 60.0
"""Seconds in which new lists must be there: a service manager waits for the end of a reload."""


async def reload(settings: Settings, house: House) -> list[str]:
    """Read the session and the file of credentials again, then ask for new lists.

    Returns what did not work, in words: there, what was known before stays in use.
    """
    troubles = []
    for what, again in (
        ("session", lambda: _session(settings, house)),
        ("credentials_file", lambda: _credentials(settings, house)),
    ):
        trouble = await _tried(what, again)
        if trouble:
            troubles.append(trouble)
    with trio.move_on_after(LISTS) as asking:
        failure = await house.catalog.refresh()
        if failure is not None:
            # It may have joined a survey that began with what was known before.
            failure = await house.catalog.refresh()
        if failure is not None:
            troubles.append(str(failure))
    if asking.cancelled_caught:
        troubles.append("there are no new lists yet: they are asked for again by and by")
    log.info("reload.done", troubles=len(troubles))
    return troubles


async def _tried(what: str, again: Callable[[], Awaitable[None]]) -> str:
    try:
        await again()
    except NebfsError as exc:
        log.error("reload.failed", what=what, error=str(exc), effect="the old one stays in use")
        return f"{what}: {exc}"
    return ""


async def _session(settings: Settings, house: House) -> None:
    if house.caller is not None:
        known = house.caller.session
        house.caller.renew(await trio.to_thread.run_sync(renewed, settings, known))


async def _credentials(settings: Settings, house: House) -> None:
    if settings.credentials_file is not None:
        # Looked at here first: the fetcher would only say that it cannot.
        await trio.to_thread.run_sync(access.load, settings.credentials_file)
        await house.fetcher.reload()
