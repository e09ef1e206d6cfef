"""What nebfs shows to which place: users, keys, certificates and proxies, out of one file.

The file is TOML. Each table is named by an address, and holds for everything below it; where two
do, the longer name counts. An address may also be ``s3://bucket``, ``iscsi://host/target`` (for
CHAP), and for repositories of backups ``sftp://host/directory`` or ``file:///directory``::

    ["https://files.example.org/market"]
    user = "backup"
    password-file = "files.password"
    ca-file = "/etc/ssl/private-ca.pem"

    ["s3://images"]
    profile = "reader"

Only the fetcher process keeps what is in it. Relative paths in it start where the file is.
"""

from __future__ import annotations

import base64
import difflib
import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from urllib.parse import urlsplit

from nebfs.errors import UserError

_DEFAULT_PORTS = {"http": 80, "https": 443, "iscsi": 3260, "sftp": 22}
_FROM_FILES = ("password", "repository_password")
_PATHS = frozenset(
    (*(f"{name}_file" for name in _FROM_FILES), "ca_file", "client_certificate", "client_key")
)
_SCHEMES = frozenset(("http", "https", "iscsi", "s3", "sftp"))


@dataclass(frozen=True, slots=True)
class Access:
    """What one place is shown. Everything is empty where nothing was said about it."""

    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    password_file: str = ""
    """Its first line is the password."""
    bearer_token: str = field(default="", repr=False)
    api_token: str = field(default="", repr=False)
    """What a storage array gives a session for."""
    repository_password: str = field(default="", repr=False)
    """What a repository of restic is unlocked with."""
    repository_password_file: str = ""
    """Its first line is that password."""
    ca_file: str = ""
    """PEM file of the authorities that the place's certificate is to be from."""
    client_certificate: str = ""
    """PEM file that is shown to the place; ``client_key`` if the key is in another file."""
    client_key: str = ""
    proxy: str = field(default="", repr=False)
    """URL of the http proxy to go through, or ``none`` for none whatever the environment says."""
    access_key_id: str = field(default="", repr=False)
    secret_access_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    profile: str = ""
    """Name in the files ~/.aws/credentials and ~/.aws/config."""
    anonymous: bool = False
    """Whether requests to an object store are not signed at all."""

    @property
    def authorization(self) -> str:
        """The Authorization header that says who we are, or an empty string."""
        if self.bearer_token:
            return f"Bearer {self.bearer_token}"
        if self.user or self.password:
            pair = f"{self.user}:{self.password}".encode()
            return "Basic " + base64.b64encode(pair).decode("ascii")
        return ""

    @property
    def certificates(self) -> tuple[str, str, str]:
        """The files that TLS needs: authorities, certificate, key; empty: the usual ones."""
        return self.ca_file, self.client_certificate, self.client_key


NOBODY = Access()
"""How a place is met that the file does not name."""

_Place = tuple[str, str, int]


class Accesses:
    """The file's entries, found by address."""

    def __init__(self, entries: Mapping[str, Access]) -> None:
        """`entries` by address. Raises ValueError for one that is no address."""
        self._places: dict[_Place, list[tuple[str, Access]]] = {}
        for address, access in entries.items():
            place, path = _taken_apart(address)
            if "@" in urlsplit(address).netloc or "?" in address or "#" in address:
                raise ValueError("it may have neither a user nor a query")
            self._places.setdefault(place, []).append((path.rstrip("/") + "/", access))
        for below in self._places.values():
            below.sort(key=lambda entry: len(entry[0]), reverse=True)

    def of(self, address: str) -> Access:
        """Return what is to be shown at `address`."""
        return self.named(address) or NOBODY

    def named(self, address: str) -> Access | None:
        """Return the same, or None when no entry is about `address`."""
        if not self._places:
            return None
        try:
            place, path = _taken_apart(address)
        except ValueError:
            return None
        below = path + "/"
        entries = self._places.get(place, ())
        return next((access for prefix, access in entries if below.startswith(prefix)), None)


def _taken_apart(address: str) -> tuple[_Place, str]:
    parts = urlsplit(address)
    scheme = parts.scheme.lower()
    if scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return (scheme, "", 0), parts.path
    if scheme not in _SCHEMES or not parts.hostname:
        raise ValueError("it is not an address of http, https, iscsi, s3, sftp or a file")
    # A bucket's name is not a host's: its letters count as they are.
    host = parts.netloc if scheme == "s3" else parts.hostname.rstrip(".")
    port = 0 if scheme == "s3" else parts.port or _DEFAULT_PORTS[scheme]
    return (scheme, host, port), parts.path


def load(path: str | Path) -> Accesses:
    """Read the file. Raises UserError, which never repeats what the file holds."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_IMODE(mode) & 0o007:
                raise UserError(
                    f"{path} holds secrets and other users may read it: chmod o= {path}"
                )
            table = tomllib.load(file)
    except OSError as exc:
        raise UserError(f"{path} cannot be read: {exc.strerror}") from exc
    except tomllib.TOMLDecodeError as exc:  # its text gives line and column only
        raise UserError(f"{path} is not valid TOML: {exc}") from exc
    except UnicodeDecodeError as exc:
        raise UserError(f"{path} is not valid TOML: it is not UTF-8") from exc
    except RecursionError as exc:
        raise UserError(f"{path} is nested too deeply") from exc
    entries = {}
    for address, entry in table.items():
        entries[address] = _access(path, address, entry)
    try:
        return Accesses(entries)
    except ValueError:
        for address in entries:
            try:
                Accesses({address: NOBODY})
            except ValueError as exc:
                # Not repeated: an address can hold a password.
                number = list(entries).index(address) + 1
                raise UserError(f"{path}: the name of table {number}: {exc}") from exc
        raise


def _access(path: Path, address: str, entry: object) -> Access:
    try:
        where = f"{path}: [{urlsplit(address).netloc.rpartition('@')[2]}]"
    except ValueError as exc:  # not repeated: an address can hold a password
        raise UserError(f"{path}: the name of a table is no address") from exc
    if not isinstance(entry, dict):
        raise UserError(f"{path}: expected tables that are named by addresses")
    kinds: dict[str, type] = {one.name: type(one.default) for one in fields(Access)}
    found: dict[str, str | bool] = {}
    for key, value in entry.items():
        name = key.replace("-", "_")
        kind: type | None = kinds.get(name)
        if kind is None:
            close = difflib.get_close_matches(name, kinds, n=1)
            hint = f"; did you mean {close[0].replace('_', '-')}?" if close else ""
            raise UserError(f"{where}: there is no setting {key}{hint}")
        if not isinstance(value, (bool, str)) or not isinstance(value, kind):
            expected = "true or false" if kind is bool else "text"
            raise UserError(f"{where}: {key}: expected {expected}")
        if isinstance(value, str) and not value.isprintable():
            raise UserError(f"{where}: {key}: it has a line break or a control character in it")
        if name in _PATHS and isinstance(value, str) and value:
            try:
                found[name] = str((path.parent / Path(value).expanduser()).absolute())
            except RuntimeError as exc:
                raise UserError(f"{where}: {key}: there is no such user's home") from exc
        else:
            found[name] = value
    for name in _FROM_FILES:
        if found.get(f"{name}_file"):
            found[name] = _first_line(where, name, str(found[f"{name}_file"]))
    for name in _PATHS & found.keys():
        if found[name] and not os.access(str(found[name]), os.R_OK):
            raise UserError(f"{where}: {name.replace('_', '-')}: {found[name]} cannot be read")
    return Access(**found)  # type: ignore[arg-type]  # each was compared with its field's type


def _first_line(where: str, name: str, path: str) -> str:
    try:
        return Path(path).read_text("utf-8").partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as exc:
        said = f"{name.replace('_', '-')}-file"
        raise UserError(f"{where}: {said}: {path} cannot be read") from exc
