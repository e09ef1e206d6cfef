"""The files that settings name: who may read them, and whether they hold what they should."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from nebfs.cli.checkup.finding import Finding, ok, problem, warning
from nebfs.cli.written import leaves
from nebfs.config import Settings
from nebfs.errors import UserError
from nebfs.fetcher import access
from nebfs.opennebula import find_endpoint, find_session, given_session

OTHERS = stat.S_IROTH | stat.S_IWOTH
GROUP = stat.S_IRGRP | stat.S_IWGRP
KEYS = {
    "datastores.ssh_identity_file": GROUP | OTHERS,  # as ssh(1) itself wants it
    "ceph.keyring": OTHERS,
}
"""Settings that name a file with a secret -> permission bits that it may not have."""


def check_files(settings: Settings, environ: Mapping[str, str], home: Path) -> Iterator[Finding]:
    """Yield what is found about each file. Whether they exist at all was seen when loading."""
    if not settings.marketplaces:
        yield from _session(settings, environ, home)
        yield _endpoint(settings, environ, home)
        yield from _sessions(settings)
    if settings.credentials_file is not None:
        yield _credentials(settings.credentials_file)
    for name, _, value in leaves(settings):
        if name in KEYS and isinstance(value, Path):
            yield _private(name, value, KEYS[name])
    for name, place in settings.ceph.datastores.items():
        if place.keyring is not None:
            yield _private(f"ceph.datastores.{name}.keyring", place.keyring, OTHERS)


def session_file(settings: Settings, environ: Mapping[str, str], home: Path) -> Path:
    """Return the file in which the front-end's user and password should be."""
    if settings.auth_file is not None:
        return settings.auth_file
    return Path(environ.get("ONE_AUTH") or home / ".one" / "one_auth")


def _session(settings: Settings, environ: Mapping[str, str], home: Path) -> Iterator[Finding]:
    about = "auth file"
    try:
        session = find_session(environ, home, path=settings.auth_file)
    except UserError as exc:
        cause, _, remedy = str(exc).partition("; ")
        yield problem(about, cause, remedy or "name the right file with --auth-file or ONE_AUTH")
        return
    file = session_file(settings, environ, home)
    if not file.is_file():  # the system's own, which is oneadmin's
        yield ok(about, f"user {session.user}")
        return
    found = _private(about, file, GROUP | OTHERS)
    yield found if found.remedy else ok(about, f"{file}: user {session.user}")


def _sessions(settings: Settings) -> Iterator[Finding]:
    """Yield how the sessions of other users are, as the daemon would find them."""
    for uid, path in settings.users.sessions.items():
        about = f"session of user {uid}"
        try:
            session = given_session(path, uid, {0, os.geteuid()})
        except UserError as exc:
            cause, _, remedy = str(exc).partition(": ")
            yield problem(about, cause, remedy or f"correct {path}; see docs/users.md")
        else:
            yield ok(about, f"{path}: user {session.user}")


def _endpoint(settings: Settings, environ: Mapping[str, str], home: Path) -> Finding:
    try:
        url = find_endpoint(environ, home, explicit=settings.source)
    except UserError as exc:
        cause, _, remedy = str(exc).partition("; ")
        return problem("endpoint", cause, remedy or "give the URL as SOURCE")
    if url.startswith("http://") and not _local(url):
        return warning(
            "endpoint",
            "the front-end is asked by http: its password passes the network readable for others",
            "use its https URL if it has one, or a network that you trust",
        )
    return ok("endpoint", "its URL is well-formed")


def _local(url: str) -> bool:
    host = url.partition("://")[2].rpartition("@")[2]
    return host.startswith(("localhost", "127.", "[::1]"))


def _credentials(path: Path) -> Finding:
    try:
        access.load(path)
    except UserError as exc:
        return problem("credentials file", str(exc), f"correct {path}; see docs/marketplaces.md")
    return ok("credentials file", f"{path} is understood")


def _private(about: str, path: Path, unwanted: int) -> Finding:
    try:
        found = path.stat()
    except OSError as exc:
        return problem(about, f"{path}: {exc.strerror}", "name the right file")
    mode = stat.S_IMODE(found.st_mode)
    if mode & unwanted:
        who = "every user of this machine" if mode & OTHERS else f"group {found.st_gid}"
        return warning(
            about,
            f"{path} holds a secret, and {who} may read or write it (mode {mode:04o})",
            f"chmod {mode & ~unwanted & 0o777:04o} {path}",
        )
    if found.st_uid not in (os.geteuid(), 0):
        return warning(about, f"{path} belongs to user {found.st_uid}", f"chown it: {path}")
    return ok(about, f"{path} is private")
