"""The kinds of value that settings have: how each is read, and where things are by default.

Sizes are bytes and durations are seconds (see nebfs/units.py). What is refused is told by
ValueError, in words that end up after the name of the setting, and that never repeat a value which
could hold a password. Imported by nebfs/config.py alone, and by what writes about settings.
"""

from __future__ import annotations

import grp
import ipaddress
import math
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from nebfs import units
from nebfs.model import kind_and_url


def default_cache_dir() -> Path:
    """Where blocks are cached: the service's own directory (CacheDirectory= in systemd.exec(5)),
    else the system's place for root, the user's own place for others.
    """
    if _of_service("CACHE_DIRECTORY"):
        return Path(os.environ["CACHE_DIRECTORY"])
    if os.geteuid() == 0:
        return Path("/var/cache/nebfs")
    return _absolute_from("XDG_CACHE_HOME", Path.home() / ".cache") / "nebfs"


def default_run_dir() -> Path:
    """Where sockets, registrations and logs of running mounts are kept.

    The last resort is in /tmp, where anybody may have made it first: whoever uses it goes through
    `nebfs.daemon.registry.prepare`, which checks its owner.
    """
    if _of_service("RUNTIME_DIRECTORY"):
        return Path(os.environ["RUNTIME_DIRECTORY"])
    if os.geteuid() == 0:
        return Path("/run/nebfs")
    if os.environ.get("XDG_RUNTIME_DIR", "").startswith("/"):
        return Path(os.environ["XDG_RUNTIME_DIR"]) / "nebfs"
    return Path(f"/tmp/nebfs-{os.geteuid()}")  # noqa: S108 - owner-checked where it is used


def _of_service(variable: str) -> bool:
    """Whether systemd made one directory for this service (several are separated by colons)."""
    value = os.environ.get(variable, "")
    return value.startswith("/") and ":" not in value


def _absolute_from(variable: str, otherwise: Path) -> Path:
    # The XDG specification has relative paths ignored.
    value = os.environ.get(variable, "")
    return Path(value) if value.startswith("/") else otherwise


def own_platform() -> str:
    """This machine's, in the words of OCI (GOOS/GOARCH)."""
    machine = os.uname().machine
    return f"linux/{ {'x86_64': 'amd64', 'aarch64': 'arm64'}.get(machine, machine.lower()) }"


def as_size(value: object) -> int:
    """Return bytes."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError("a size is a number of bytes or text such as 10G")
    return units.parse_size(value)


def as_fill(value: object) -> float | None:
    """Return bytes per second: inf is as fast as they come, None is not at all."""
    match value.strip().lower() if isinstance(value, str) else value:
        case None | "off":
            return None
        case "idle":
            return math.inf
    try:
        rate = as_size(value)
    except ValueError:
        rate = -1
    if rate < 0:
        raise ValueError("write off, idle, or bytes per second such as 10M")
    return rate or None


def as_duration(value: object) -> float:
    """Return seconds."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("a duration is a number of seconds or text such as 5m")
    return units.parse_duration(value)


def as_octal(value: object) -> int:
    """Return the number that octal digits are."""
    # A bare TOML number would be read as decimal: 22 is not what anybody means by it.
    if not isinstance(value, str) or not value or set(value) - set("01234567"):
        raise ValueError('write octal digits as text, such as "022"')
    return int(value, 8)


def absolute(value: Path) -> Path:
    """Return `value` as an absolute path, with ~ resolved."""
    try:
        return Path(os.path.abspath(value.expanduser()))
    except RuntimeError as exc:  # ~nobody
        raise ValueError(f"{value}: that user's home is not known") from exc


def _readable(value: Path) -> Path:
    value = absolute(value)
    if not os.path.isfile(value):  # not is_file(): that raises where a parent may not be entered
        raise ValueError(f"there is no file {value}")
    if not os.access(value, os.R_OK):
        raise ValueError(f"{value} may not be read by this user")
    return value


def checked_url(value: str) -> str:
    """Return `value` if it is a whole URL of http or https."""
    try:
        parts = urlsplit(value)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:  # such as a broken IPv6 address
        usable = False
    if not usable:
        # The value is not repeated: without a scheme, credentials in it cannot be recognised.
        raise ValueError("write a whole URL, such as http://frontend.example:2633/RPC2")
    return value


def _marketplace(value: str) -> str:
    """A URL, perhaps with the marketplace's type before it: linuxcontainers+https://..."""
    kind, url = kind_and_url(value)
    if url != value and not kind.replace("-", "").isalnum():
        raise ValueError("write KIND+URL, such as docker-registry+https://registry.example")
    checked_url(url)
    return value


def address(value: str) -> tuple[str, int]:
    """Return the address and the port of ``127.0.0.1:9469``, ``[::1]:9469`` or ``localhost:9469``.

    Other names are not taken: what they mean is for others to change.
    """
    host, _, port = value.rpartition(":")
    if host == "localhost":
        host = "127.0.0.1"
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        found = ipaddress.ip_address(bare)
        usable = (found.version == 6) == (bare != host)
        number = int(port) if port.isascii() and port.isdecimal() else 0
    except ValueError:
        usable, number = False, 0
    if not usable or not 0 < number < 1 << 16:
        raise ValueError("write an address and a port, such as 127.0.0.1:9469 or [::1]:9469")
    return bare, number


def _address(value: str) -> str:
    if value:
        address(value)
    return value


Address = Annotated[str, AfterValidator(_address)]


def _private_addresses(value: str) -> str:
    if value not in {"allow", "deny"}:
        try:
            named = [ipaddress.ip_network(one) for one in value.split()]
        except ValueError as exc:
            raise ValueError(
                f"write allow, deny, or networks, such as 10.1.0.0/16 ({exc})"
            ) from exc
        if not named:
            raise ValueError("write allow, deny, or networks, such as 10.1.0.0/16")
    return value


PrivateAddresses = Annotated[str, AfterValidator(_private_addresses)]


def _account(value: object, what: str, find: Callable[[str], int]) -> int:
    """Return the number of a user or group that is named, or is a number already."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(f"write the name or the number of a {what} of this machine")
    if isinstance(value, str) and not value.isdecimal():
        try:
            return find(value)
        except KeyError:
            raise ValueError(f"there is no {what} {value!r} on this machine") from None
    number = int(value)
    if not 0 <= number < 2**32 - 1:
        raise ValueError(f"{number} is no number of a {what}")
    return number


def as_user(value: object) -> int:
    """Return a uid."""
    return _account(value, "user", lambda name: pwd.getpwnam(name).pw_uid)


def as_group(value: object) -> int:
    """Return a gid."""
    return _account(value, "group", lambda name: grp.getgrnam(name).gr_gid)


LocalUser = Annotated[int, BeforeValidator(as_user)]
LocalGroup = Annotated[int, BeforeValidator(as_group)]
Size = Annotated[int, BeforeValidator(as_size), Field(ge=0)]
Fill = Annotated[float | None, BeforeValidator(as_fill)]
Duration = Annotated[float, BeforeValidator(as_duration), Field(gt=0, allow_inf_nan=False)]
Place = Annotated[Path, AfterValidator(absolute)]
ReadableFile = Annotated[Path, AfterValidator(_readable)]
MarketplaceUrl = Annotated[str, AfterValidator(_marketplace)]
Umask = Annotated[int, BeforeValidator(as_octal), Field(le=0o777)]
