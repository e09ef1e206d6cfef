"""The front-end, and the marketplaces and datastores that it names: whether they can be had."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import trio

from nebfs import marketplaces
from nebfs.catalog.homes import marketplaces_at
from nebfs.cli.checkup.files import session_file
from nebfs.cli.checkup.finding import Finding, Level, ok, problem, warning, worst
from nebfs.cli.checkup.reaching import PROXY, Recorded, check_clock, check_way, through
from nebfs.config import Settings
from nebfs.datastores import DRIVERS
from nebfs.datastores.bridges import elsewhere
from nebfs.datastores.places import PathMap, plain
from nebfs.errors import NebfsError, Unsupported, UserError
from nebfs.fetcher.messages import Call, CallRequest
from nebfs.model import Datastore, DatastoreType, Marketplace, without_credentials
from nebfs.opennebula import Caller, FrontEnd, NotAuthenticated, find_endpoint, find_session
from nebfs.opennebula.session import Session
from nebfs.opennebula.xmlrpc import Value
from nebfs.units import format_duration

DATASTORE_NEEDS = {
    "ceph": "rbd",
    "iscsi_libvirt": "iscsi",
    "restic": "restic",
    "rsync": "sftp",
}
"""Driver -> the transport that brings its bytes, where that needs something installed."""
ARRAYS = frozenset({"netapp", "purefa"})
"""Drivers that need iSCSI where the units of their arrays are no devices of this machine."""
MARKETPLACE_NEEDS = {"s3": "s3"}
FILES = frozenset({"fs", "virtiofs"})
"""Datastore drivers whose images are files, here or on a host that SSH leads to."""


Check = Callable[[], Awaitable[list[Finding]]]


@dataclass(frozen=True, slots=True)
class Asking:
    """What the checks of the network share. `patience` is seconds for each question."""

    settings: Settings
    call: Call
    environ: Mapping[str, str]
    home: Path
    patience: float


async def check_cloud(asking: Asking, told: list[Finding]) -> None:
    """Check the front-end and what it names, or the marketplaces of a mount without one.

    What is found is appended to `told`, so that it is known when this is given up.
    """
    if asking.settings.marketplaces:
        markets = marketplaces_at(asking.settings.marketplaces)
        await _each([partial(_marketplace, asking, one) for one in markets], told)
        return
    try:
        environ, home, given = asking.environ, asking.home, asking.settings
        url = find_endpoint(environ, home, explicit=given.source)
        session = find_session(environ, home, path=given.auth_file)
    except UserError:
        return  # told where files are looked at
    findings, proxy = await check_way(asking.call, "front-end", url, asking.patience)
    told += findings
    if worst(findings) is Level.PROBLEM:
        return
    front_end, findings = await _ask(asking, url, session, proxy)
    told += findings
    if front_end is None:
        return
    try:
        markets, datastores = await front_end.marketplaces(), await front_end.datastores()
    except NebfsError as exc:
        text = f"its lists cannot be had: {exc}"
        told.append(problem("front-end", text, "see what the log of oned says"))
        return
    checks: list[Check] = [partial(_marketplace, asking, one) for one in markets]
    # What a system datastore shows depends on system_datastores, and is nothing by default.
    images = [one for one in datastores if one.type is not DatastoreType.SYSTEM]
    await _each([*checks, *(partial(_datastore, asking, one) for one in images)], told)


async def _each(checks: Sequence[Check], told: list[Finding]) -> None:
    """Make all `checks` at the same time; tell in their order what those found that ended."""
    results: dict[int, list[Finding]] = {}

    async def one(number: int, check: Check) -> None:
        results[number] = await check()

    try:
        async with trio.open_nursery() as nursery:
            for number, check in enumerate(checks):
                nursery.start_soon(one, number, check)
    finally:
        for number in sorted(results):
            told += results[number]


async def _ask(
    asking: Asking, url: str, session: Session, proxy: str
) -> tuple[FrontEnd | None, list[Finding]]:
    """Ask who it is; the front-end is None when it is of no use to ask more."""
    recorded = Recorded(asking.call)
    caller = Caller(recorded, url, session, timeout=asking.patience)
    shown = without_credentials(url)
    file = session_file(asking.settings, asking.environ, asking.home)
    try:
        version = await caller.once(_text, "one.system.version")
    except NotAuthenticated:
        text = f"{shown} refuses the login of user {session.user}: unknown, or a wrong password"
        remedy = f"correct USER:PASSWORD in {file}, or make a new token with 'oneuser token-create'"
        told = [problem("credentials", text, remedy)]
        return None, [*told, *check_clock("the front-end", recorded.skew)]
    except NebfsError as exc:
        remedy = (
            "see that this is the XML-RPC endpoint (it usually ends in :2633/RPC2), and what the "
            "log of oned says"
        )
        text = f"{shown}: {exc}{through(proxy)}"
        told = [problem("front-end", text, PROXY if proxy else remedy)]
        return None, [*told, *check_clock("the front-end", recorded.skew)]
    took = format_duration(recorded.seconds)
    told = [
        ok("front-end", f"{shown} answers in {took} as OpenNebula {version}"),
        ok("credentials", f"user {session.user} is let in"),
        *check_clock("the front-end", recorded.skew),
    ]
    return FrontEnd(caller), told


async def _marketplace(asking: Asking, found: Marketplace) -> list[Finding]:
    about = f"marketplace {found.name}"
    if not found.enabled:
        return [ok(about, "is disabled by its cloud, and not asked")]
    entry = marketplaces.DRIVERS.get(found.driver)
    if entry is None:
        text = f"its driver {found.driver!r} is none of nebfs's own: its apps may not be readable"
        return [warning(about, text, "install a package that brings it; see docs/marketplaces.md")]
    missing = await _missing(asking, about, MARKETPLACE_NEEDS.get(found.driver, ""))
    if missing:
        return missing
    told = found.template.get("ENDPOINT") or found.template.get("BASE_URL")
    url = told.strip() or getattr(import_module(entry.module), "DEFAULT_ENDPOINT", "")
    if not url.startswith(("http://", "https://")):
        return [ok(about, "names no address of its own")]
    findings, proxy = await check_way(asking.call, about, url, asking.patience)
    if worst(findings) is not Level.PROBLEM:
        findings += await _answers(asking, about, url, proxy)
    return findings


async def _answers(asking: Asking, about: str, url: str, proxy: str) -> list[Finding]:
    """Ask for nothing; whatever the status, somebody is there. 407 is a proxy's."""
    shown = without_credentials(url)
    recorded = Recorded(asking.call)
    try:
        answer = await recorded(CallRequest("HEAD", url, timeout=asking.patience))
    except NebfsError as exc:
        text = f"{shown}: {exc}{through(proxy)}"
        return [problem(about, text, PROXY if proxy else "see whether the service is up")]
    if answer.status == 407:
        return [problem(about, f"{shown}: the proxy {proxy} wants a login", PROXY)]
    return [
        ok(about, f"{shown} answers in {format_duration(recorded.seconds)}"),
        *(one for one in check_clock(shown, recorded.skew) if one.level is not Level.OK),
    ]


async def _datastore(asking: Asking, found: Datastore) -> list[Finding]:
    about = f"datastore {found.name}"
    settings = asking.settings
    mapped = found.driver in settings.datastores.mappings
    if not mapped and found.driver not in DRIVERS:
        text = f"its driver {found.driver!r} is not known: its images cannot be read"
        remedy = "say where they are with [datastores.mappings]; see docs/datastores.md"
        return [warning(about, text, remedy)]
    by_iscsi = found.driver in ARRAYS and settings.datastores.iscsi_initiator
    needed = "iscsi" if by_iscsi else DATASTORE_NEEDS.get(found.driver, "")
    missing = await _missing(asking, about, needed)
    if missing:
        return missing
    if mapped or found.driver not in FILES:
        return [ok(about, f"its driver {found.driver} can be used")]
    paths = PathMap(settings.datastore_paths)
    there = elsewhere(found, paths, settings.datastores.ssh)
    path = paths.local(plain(found.base_path))
    findings = [problem(about, f"its directory {path} does not answer", "see what hangs there")]
    with trio.move_on_after(asking.patience):  # a dead NFS server holds the thread
        look = partial(_path, about, found, path)
        findings = await trio.to_thread.run_sync(look, abandon_on_cancel=True)
    if there is None or worst(findings) is Level.OK:
        return findings
    hosts = ", ".join(there[0].hosts)
    missing = await _missing(asking, about, "sftp")
    return missing or [ok(about, f"its files are on {hosts}, by SSH; that was not tried")]


def _path(about: str, found: Datastore, path: str) -> list[Finding]:
    remedy = (
        f'mount or map it: "{plain(found.base_path)}" = "/where/it/is/here" in [datastores.paths]'
    )
    try:
        with os.scandir(path) as entries:
            next(entries, None)
    except OSError as exc:
        if exc.errno == errno.EACCES:
            remedy = f"let this user read {path}, by a group or an ACL"
        return [problem(about, f"its directory {path}: {exc.strerror}", remedy)]
    return [ok(about, f"its directory {path} can be listed")]


async def _missing(asking: Asking, about: str, transport: str) -> list[Finding]:
    """Return the problem of a transport that cannot be used here."""
    if not transport:
        return []
    request = CallRequest(
        "LOOK", f"transport:{transport}", timeout=asking.patience, transport="reach"
    )
    try:
        await asking.call(request)
    except Unsupported as exc:
        cause, _, remedy = exc.message.partition("; ")
        return [problem(about, cause, remedy or "install it")]
    except NebfsError as exc:
        return [problem(about, str(exc))]
    return []


def _text(value: Value) -> str:
    return str(value)
