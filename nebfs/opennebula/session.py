"""Who we are and where the front-end is, found where OpenNebula's own tools look.

Source: the client configuration of OpenNebula's command line (``ONE_AUTH``, ``ONE_XMLRPC``,
``~/.one``). One deliberate difference: a file that was *named*, by argument or by ``ONE_AUTH``,
must be there. Falling through to another file would silently act as another user.

Nothing here reads the process environment: callers pass it, so that tests need not change it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from nebfs.errors import UserError
from nebfs.model import without_credentials

DEFAULT_ENDPOINT = "http://localhost:2633/RPC2"
SYSTEM_DIRECTORY = Path("/var/lib/one/.one")

# A session is a user and a token of at most a few hundred characters; encrypted tokens of the
# server_* drivers reach some kilobytes. More than this is another kind of file.
MAX_FILE = 64 * 1024


@dataclass(frozen=True, slots=True)
class Session:
    """A user name and its secret (password or login token). The repr does not show the secret."""

    user: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """The first parameter of every call: ``user:secret``. Never log it."""
        return f"{self.user}:{self.secret}"


def parse_session(line: str, origin: str) -> Session:
    """Split ``user:secret`` at the first colon; UserError names `origin` and never the text."""
    user, colon, secret = line.rstrip().partition(":")
    if not (user and colon and secret):
        raise UserError(
            f"{origin} does not hold a session:"
            " its first line must read USER:PASSWORD or USER:TOKEN"
        )
    return Session(user, secret)


def find_session(
    environ: Mapping[str, str],
    home: Path,
    *,
    path: Path | None = None,
    system: Path = SYSTEM_DIRECTORY,
) -> Session:
    """Read the session: `path`, else $ONE_AUTH, else ~/.one/one_auth, else the system's one_auth.

    Raises UserError with the file and the remedy when it is missing, unreadable or malformed.
    """
    named = path or (Path(environ["ONE_AUTH"]) if environ.get("ONE_AUTH") else None)
    if named is not None:
        line = _first_line(named)
        if line is None:
            origin = "" if path else " (from the environment variable ONE_AUTH)"
            raise UserError(
                f"the session file {named}{origin} does not exist;"
                " create it with one line USER:PASSWORD and mode 0600"
            )
        return parse_session(line, str(named))
    places = (home / ".one" / "one_auth", system / "one_auth")
    for place in places:
        line = _first_line(place, ours=place.parent != system)
        if line is not None:
            return parse_session(line, str(place))
    raise UserError(
        f"no OpenNebula session found: neither {places[0]} nor {places[1]} can be read;"
        f" create {places[0]} with one line USER:PASSWORD and mode 0600,"
        " or name a file in ONE_AUTH"
    )


def find_endpoint(
    environ: Mapping[str, str],
    home: Path,
    *,
    explicit: str = "",
    system: Path = SYSTEM_DIRECTORY,
) -> str:
    """Return the front-end's URL: `explicit`, $ONE_XMLRPC, one_endpoint files, else localhost.

    Raises UserError when what was found is not an http or https URL, or a file cannot be read.
    """
    if explicit:
        return _checked(explicit, "the endpoint that was given")
    if environ.get("ONE_XMLRPC"):
        return _checked(environ["ONE_XMLRPC"], "the environment variable ONE_XMLRPC")
    for place in (home / ".one" / "one_endpoint", system / "one_endpoint"):
        line = _first_line(place, ours=place.parent != system)
        if line is not None:
            return _checked(line, str(place))
    return DEFAULT_ENDPOINT


def _checked(text: str, origin: str) -> str:
    url = text.strip()
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
        _ = parts.port  # raises ValueError for a port that is not a number
        shown = without_credentials(url)
    except ValueError:
        usable, shown = False, "the text there"
    if not usable:
        # Without a host there is no telling where a password in the text would end: do not show it.
        shown = shown if "@" not in shown else "the text there"
        raise UserError(
            f"{origin} does not hold the URL of a front-end: {shown!r};"
            f" write one such as {DEFAULT_ENDPOINT}"
        )
    return url


def _first_line(path: Path, *, ours: bool = True) -> str | None:
    """Return the first line, None where there is no file; `ours`: being refused is an error."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        if not ours and isinstance(exc, PermissionError):
            return None  # oneadmin's own directory, closed to other users: as if it were not there
        raise UserError(f"cannot read {path}: {exc.strerror}; check its owner and mode") from exc
    if len(data) > MAX_FILE:
        raise UserError(f"{path} is too large to be what it should be; it needs a single line")
    return first_line(data, path)


def first_line(data: bytes, path: Path) -> str:
    """Return the first line of what is in the file `path`. Raises UserError: it is no text."""
    try:
        return data.partition(b"\n")[0].decode("utf-8").rstrip()
    except UnicodeDecodeError as exc:
        raise UserError(f"{path} is not UTF-8 text; write its first line again") from exc
