"""Making a connection to a host by SSH: who we are, whether it is the right host, why it failed.

As the ``ssh`` command would: by ~/.ssh/config (asyncssh reads what it knows of it), the keys of an
agent and of ~/.ssh, and the host keys in known_hosts. Differences: nobody can be asked, so there
are no passwords and a host key that is not known is refused; and who is named nowhere logs in as
``oneadmin``, as OpenNebula's own scripts do.
"""

from __future__ import annotations

import asyncio
import getpass
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import asyncssh

from nebfs.errors import NebfsError, Refused, Unreachable
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports.sftp_sessions import Session
from nebfs.model import shown_line

USER = "oneadmin"
_GLOBAL = ("/etc/ssh/ssh_known_hosts",)
_USERS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")

_WINDOW = 8 << 20
"""Bytes that the host may send before it hears from us: 4 MiB are asked for at once."""

_CIPHERS = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"
"""First of those that asyncssh knows: the processor does these itself."""

# Every line of its log can hold a path or a user's name, and what fails is said in our own words.
logging.getLogger("asyncssh").setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True)
class Host:
    """Where to connect to and how. Port 0 and the empty texts: as ~/.ssh/config says, or usual."""

    name: str
    port: int = 0
    user: str = ""
    identity: str = ""
    """File with the private key to show, instead of all that there are."""
    known_hosts: str = ""
    """File with the host keys to believe in, instead of the usual ones."""
    shown: str = field(default="", compare=False)
    """Its name for people."""


class _Known(asyncssh.SSHKnownHosts):
    """Host keys, which remember what was asked for, and whether there was a key for it."""

    found = False
    asked = "", 22

    def match(self, host: str, addr: str, port: int | None) -> Any:
        """See SSHKnownHosts."""
        matched = super().match(host, addr, port)
        self.found = any(matched)
        return matched


async def connect(host: Host, settings: FetcherSettings) -> Session:
    """Return a new session with `host`. Raises Unreachable, or Refused when a person has to act."""
    known = _Known()
    try:
        async with asyncio.timeout(settings.connect_timeout):
            facts = await _facts(host, known, settings)
            connection = await asyncssh.connect(**facts)
            try:
                client = await connection.start_sftp_client()
            except BaseException:
                connection.abort()
                raise
    except (asyncssh.Error, OSError, ValueError) as exc:
        raise _failure(host, known, exc, settings) from exc
    return Session(host.shown, connection, client, settings.stall_timeout)


async def _facts(host: Host, known: _Known, settings: FetcherSettings) -> dict[str, Any]:
    """Return what asyncssh is to be told beyond ~/.ssh/config; fill `known`."""
    facts: dict[str, Any] = {
        "host": host.name,
        "config": (),
        "known_hosts": known,
        "password_auth": False,
        "kbdint_auth": False,
        "gss_kex": False,
        "gss_auth": False,
        "connect_timeout": settings.connect_timeout,
        "login_timeout": settings.connect_timeout,
        "window": _WINDOW,
    }
    if host.port:
        facts["port"] = host.port
    if host.user:
        facts["username"] = host.user
    if host.identity:
        facts["client_keys"] = [host.identity]
        facts["agent_path"] = None
    loop = asyncio.get_running_loop()

    def read() -> None:
        options = asyncssh.SSHClientConnectionOptions(loop=loop, **facts)
        said = options.config.get
        known.asked = options.host, options.port
        if not host.user and not said("User"):
            facts["username"] = USER  # asyncssh would take the name of whoever runs this
        if not said("Ciphers"):
            facts["encryption_algs"] = _CIPHERS
        if host.known_hosts:
            _load(known, (host.known_hosts,))
        else:
            _load(known, cast("Sequence[str]", said("UserKnownHostsFile") or _USERS))
            _load(known, cast("Sequence[str]", said("GlobalKnownHostsFile") or _GLOBAL))

    # It reads files, and makes sense of keys.
    await loop.run_in_executor(None, read)
    return facts


def _load(known: _Known, files: Sequence[str]) -> None:
    for name in files:
        try:
            text = Path(name).expanduser().read_text("utf-8", "replace")
        except (OSError, RuntimeError):  # RuntimeError: nobody's home
            continue
        for line in text.splitlines():
            try:
                known.load(line)
            except ValueError:
                continue  # as ssh does: a broken line is nobody's key


def _failure(host: Host, known: _Known, exc: Exception, settings: FetcherSettings) -> NebfsError:
    """Say why there is no connection, and what to do about it if a person has to."""
    address = f"{host.user}@{host.name}" if host.user else host.name
    here = _me()
    shown = host.shown
    wrong_key = isinstance(exc, asyncssh.HostKeyNotVerifiable) or (
        isinstance(exc, asyncssh.KeyExchangeFailed) and "host key" in str(exc)
    )
    if wrong_key and known.found:
        return Refused(
            "THE HOST KEY HAS CHANGED: it is not the one in known_hosts. Somebody may have put"
            " another machine in its place, or it was installed anew; find out, and only then"
            f" remove the old key with `ssh-keygen -R` as {here}",
            host=shown,
        )
    if wrong_key:
        port = f" -p {host.port}" if host.port else ""
        name, number = known.asked
        return Refused(
            f"its host key is not known: as {here}, run `ssh{port} {address}` once and compare the"
            f" key that it shows, or append what `ssh-keyscan -p {number} {name}` prints to"
            f" {host.known_hosts or '~/.ssh/known_hosts'}",
            host=shown,
        )
    match exc:
        case asyncssh.PermissionDenied():
            return Refused(
                f"it does not let us in: none of the keys of {here} is accepted (an agent's,"
                " ~/.ssh/id_*, IdentityFile in ~/.ssh/config); put one into authorized_keys there",
                host=shown,
            )
        case TimeoutError():
            waited = f"no connection within {settings.connect_timeout:g} seconds"
            return Unreachable(waited, host=shown)
        case (
            asyncssh.ConfigParseError()
            | asyncssh.KeyImportError()
            | asyncssh.KeyEncryptionError()
            | FileNotFoundError()
        ):
            return Refused(
                f"a key, or ~/.ssh/config, cannot be read by {here}; a key with a passphrase can"
                " be used only from an agent",
                host=shown,
                reason=type(exc).__name__,
            )
        case OSError():
            # asyncio's own text repeats the address; a negative errno is getaddrinfo's.
            number = exc.errno or 0
            reason = os.strerror(number) if number > 0 else exc.strerror or str(exc)
        case asyncssh.ChannelOpenError() | asyncssh.SFTPError():
            return Refused("it offers no SFTP to us", host=shown)
        case asyncssh.DisconnectError():
            reason = exc.reason
        case _:
            reason = type(exc).__name__
    return Unreachable("no connection", host=shown, reason=shown_line(reason))


def _me() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "the user who mounts"
