"""The typed settings of one mount: file < environment < flags, and clear words when they are wrong.

A setting called ``cache_size`` is ``cache_size = "10G"`` in the TOML file, ``NEBFS_CACHE_SIZE`` in
the environment, ``--cache-size`` or ``-o cache-size=10G`` on the command line. Only cli and daemon
import this module; the rooms below are handed plain values.

Sizes are bytes and durations are seconds (see nebfs/units.py). No setting is a secret, but a URL
may carry one: reprs and error texts show URLs without credentials, and never quote a refused value
of a setting that could hold one.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from nebfs import __version__, units
from nebfs.config_kinds import (
    Address,
    Duration,
    Fill,
    MarketplaceUrl,
    Place,
    PrivateAddresses,
    ReadableFile,
    Size,
    Umask,
    absolute,
    checked_url,
    default_cache_dir,
    default_run_dir,
    own_platform,
)
from nebfs.config_tables import Ceph, Datastores, Users
from nebfs.errors import UserError
from nebfs.model import without_credentials

ENVIRONMENT_PREFIX = "NEBFS_"
USAGE_EXIT = 2  # the table is in nebfs/cli/__init__.py, which this module may not import


class Settings(BaseSettings):
    """Everything that can be set for one mount. Built by `load`, then never changed."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    config_file: ReadableFile | None = None
    """The file that was read, if any."""

    # What is mounted
    source: str = ""
    """URL of the front-end's XML-RPC endpoint; empty: ONE_XMLRPC or ~/.one tell."""
    mountpoint: Place | None = None
    """Where it is mounted when the command line names no place, as of the service nebfs@NAME."""
    fsname: str = Field(default="", pattern=r"^[^\x00-\x1f\x7f]*$")
    """What the mount table shows as the source; empty: the URL of what is mounted."""
    auth_file: ReadableFile | None = None
    """File with ``user:password`` or ``user:token``; None: ONE_AUTH or ~/.one/one_auth."""
    marketplaces: Annotated[tuple[MarketplaceUrl, ...], NoDecode] = ()
    """Public marketplaces to mount without a cloud: URLs of appliance services, or
    ``linuxcontainers+URL`` and the like; in the environment separated by spaces."""
    datastores: Datastores = Datastores()
    """Where the images of the cloud's own datastores are, seen from this machine."""
    system_datastores: Literal["empty", "poweroff"] = "empty"
    """What system datastores show: nothing, or the disks of VMs that do not run."""
    ceph: Ceph = Ceph()
    """How Ceph clusters are entered, where not as this machine's own /etc/ceph says."""

    # Where things are kept on this machine
    cache_dir: Place = Field(default_factory=default_cache_dir)
    """Directory of fetched blocks; each mount needs its own."""
    cache_size: Size = Field(default=10 * units.GIB, gt=0)
    """Bytes that cached blocks may take."""
    cache_min_free: Size = units.GIB
    """Bytes that the cache leaves free on its disk, whatever `cache_size` says."""
    run_dir: Place = Field(default_factory=default_run_dir)
    """Directory of control sockets, registrations and logs of running mounts."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is logged: this and what is worse."""
    log_format: Literal["auto", "text", "json"] = "auto"
    """How a line of the log is written; auto: as text, without time and colour in the journal."""
    log_file: Place | None = None
    """None: stderr in the foreground, a file in `run_dir` in the background."""
    metrics: Address = ""
    """Where Prometheus may ask over TCP, such as ``127.0.0.1:9469``; empty: on the control socket
    alone. Whoever reaches the address may ask; see docs/metrics.md."""

    # How the network is treated
    refresh_interval: Duration = 300.0
    """Seconds between two looks at what exists."""
    deadline: Duration = 60.0
    """Seconds after which a read fails instead of waiting."""
    slow_operations: Duration = 5.0
    """Seconds after which an open, a listing or a read that had to wait is counted and logged."""
    listing_deadline: Duration = 20.0
    """Seconds that the first listing of a place may take before its directory answers an error, and
    that `nebfs refresh` waits for a front-end that hangs."""
    connections: int = Field(default=4, ge=1, le=64)
    """Requests to one place at a time, and as many again for what a read waits for."""
    connect_timeout: Duration = 10.0
    """Seconds until a connection, with its TLS, must stand."""
    stall_timeout: Duration = 15.0
    """Seconds without one byte after which a transfer counts as broken off."""
    read_ahead: Size = 32 * units.MIB
    """Bytes that may be fetched ahead of a sequential reader; 0: none."""
    fill: Fill = None
    """Bytes per second at which an image that is being read is completed while its place is idle,
    so that the next read is local; idle: as fast as it comes; off: only what is read is fetched."""
    profiles: bool = True
    """What guests read while they boot is recorded, and fetched ahead as soon as their image is
    opened where it is not; see docs/profiles.md."""
    ca_file: ReadableFile | None = None
    """PEM file of certificate authorities to trust instead of the system's."""
    credentials_file: ReadableFile | None = None
    """TOML file with users, keys, certificates and proxies by address; see docs/marketplaces.md."""
    private_addresses: PrivateAddresses = "allow"
    """Whether images may be fetched from addresses that are not of the internet, when an app says
    that it is there or a server redirects to it: allow, deny, or the networks that are allowed,
    separated by blanks (``10.1.0.0/16 fd00:1::/32``); see docs/security.md."""
    platform: str = Field(
        default_factory=own_platform, pattern=r"^[a-z0-9]+/[a-z0-9]+(/[a-z0-9]+)?$"
    )
    """Which of a container image's variants is shown: operating system/architecture[/variant]."""
    user_agent: str = Field(default=f"nebfs/{__version__}", pattern=r"^[\x20-\x7e]+$")
    """What servers are told about who asks."""

    # How the tree looks to the kernel
    allow_other: bool = False
    """Other users of this machine (and QEMU, which runs as its own) may enter the mount."""
    others: Literal["all", "modes", "sessions"] = "all"
    """What they may open with allow_other: all that the session of the mount may; what owner, group
    and permissions of each image say in OpenNebula; or what each one's own session may, and see no
    more than that; see docs/users.md."""
    uid: int | None = Field(default=None, ge=0, lt=2**32 - 1)
    """Owner of everything that is shown; None: the user who mounts."""
    gid: int | None = Field(default=None, ge=0, lt=2**32 - 1)
    """Group of everything that is shown; None: the group of the user who mounts."""
    umask: Umask = Field(default=0o022, validate_default=False)
    """Permission bits that are taken away, written in octal."""
    users: Users = Users()
    """Which users of OpenNebula and of this machine belong together, for ``others = "modes"`` and
    ``"sessions"``."""

    @property
    def datastore_paths(self) -> dict[str, str]:
        """Path prefix as the front-end says it -> the same place on this machine."""
        return self.datastores.paths

    @property
    def start_deadline(self) -> float:
        """Seconds that all first lists may take: two rounds of the front-end's, the places', and
        the disks of VMs at rest, one after the other and each within `listing_deadline`.
        """
        return 4 * self.listing_deadline

    @property
    def ceph_places(self) -> dict[str, dict[str, str]]:
        """Datastore's id or name ("" for all) -> what is set of conf, keyring and user."""
        places = {"": self.ceph, **self.ceph.datastores}
        return {name: place.told for name, place in places.items() if place.told}

    @field_validator("source")
    @classmethod
    def _front_end(cls, value: str) -> str:
        # fstab needs something in its first field; these two are what people write there.
        return "" if value in {"", "none", "nebfs"} else checked_url(value)

    @field_validator("marketplaces", mode="before")
    @classmethod
    def _separate(cls, value: object) -> object:
        return tuple(value.split()) if isinstance(value, str) else value

    @field_validator("others")
    @classmethod
    def _has_others(cls, value: str, info: ValidationInfo) -> str:
        if value == "all":
            return value
        if not info.data.get("allow_other"):
            raise ValueError(
                f"{value} says what others may open, and without allow_other nobody else may "
                "enter: add allow_other, or leave others out"
            )
        if info.data.get("marketplaces"):
            raise ValueError(
                f"{value} is for a cloud: what public marketplaces offer belongs to nobody, and is "
                "open to all"
            )
        return value

    @field_validator("users")
    @classmethod
    def _counts(cls, value: Users, info: ValidationInfo) -> Users:
        others = info.data.get("others")
        if others in {"all", "sessions"} and (value.uids or value.gids):
            raise ValueError(
                f'uids and gids count with others = "modes" only, and it is "{others}"'
            )
        if others in {"all", "modes"} and (value.sessions or value.home_sessions):
            raise ValueError(
                'sessions and home_sessions count with others = "sessions" only, and it is '
                f'"{others}"'
            )
        return value

    @model_validator(mode="after")
    def _somebody_has_a_session(self) -> Self:
        if self.others == "sessions" and not (self.users.sessions or self.users.home_sessions):
            raise ValueError(
                "others: with sessions everybody needs one, and nobody has: name them in the table "
                "[users.sessions], or set users.home_sessions"
            )
        return self

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - called by keyword
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read flags, then the environment, then the file named by the flag ``config_file``."""
        flags = init_settings()
        file = settings_file(flags)
        table = read_table(file) if file else {}
        return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=table)

    def __repr_args__(self) -> Iterable[tuple[str | None, object]]:
        """Show URLs without credentials."""
        for name, value in super().__repr_args__():
            if name == "source":
                yield name, without_credentials(self.source)
            elif name == "marketplaces":
                yield name, tuple(without_credentials(url) for url in self.marketplaces)
            else:
                yield name, value


def load(config_file: Path | None, overrides: Mapping[str, object]) -> Settings:
    """Return the settings of the file, the environment and `overrides`, the later winning.

    Raises UserError with one line per problem, naming the place where the setting was made.
    """
    flags = {**overrides, **({"config_file": config_file} if config_file else {})}
    try:
        _refuse_misspelt_environment()
        return Settings(**flags)  # type: ignore[arg-type]  # they are validated, not trusted
    except SettingsError as exc:
        raise UserError(f"the environment is not understood: {exc}", exit_code=USAGE_EXIT) from exc
    except ValidationError as exc:
        problems = (
            _explain(problem, flags)
            for problem in exc.errors(include_url=False, include_input=False)
        )
        raise UserError("\n".join(problems), exit_code=USAGE_EXIT) from exc


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean X?`` for the known name nearest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def settings_file(flags: Mapping[str, object]) -> Path | None:
    """Return the file that is read beside `flags` and the environment, as it was named."""
    file = flags.get("config_file") or os.environ.get(f"{ENVIRONMENT_PREFIX}CONFIG_FILE")
    return Path(str(file)) if file else None


def read_table(path: Path) -> dict[str, object]:
    """Return what the settings file at `path` holds. Raises UserError."""
    try:
        path = absolute(path)
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as exc:
        raise UserError(f"{path} cannot be read: {exc.strerror}", exit_code=USAGE_EXIT) from exc
    except RecursionError as exc:
        raise UserError(f"{path} is nested too deeply", exit_code=USAGE_EXIT) from exc
    except ValueError as exc:  # TOMLDecodeError names line and column; or it is not UTF-8
        raise UserError(f"{path} is not valid TOML: {exc}", exit_code=USAGE_EXIT) from exc


def _refuse_misspelt_environment() -> None:
    """Refuse NEBFS_CACHE_SZIE. A name that resembles no setting belongs to somebody else."""
    known = [f"{ENVIRONMENT_PREFIX}{name}".upper() for name in Settings.model_fields]
    for name in os.environ:
        if name.startswith(ENVIRONMENT_PREFIX) and "__" not in name and name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
            if close:
                raise UserError(
                    f"environment variable {name} is no setting; did you mean {close[0]}?",
                    exit_code=USAGE_EXIT,
                )


def variables(name: str) -> list[str]:
    """Return the environment variables that set `name` or a part of it."""
    whole = f"{ENVIRONMENT_PREFIX}{name}".upper()
    return [key for key in os.environ if key == whole or key.startswith(f"{whole}__")]


def _explain(problem: ErrorDetails, flags: Mapping[str, object]) -> str:
    """Write one problem that pydantic found as one line: where, which setting, what is wrong."""
    first = str(problem["loc"][0]) if problem["loc"] else ""
    name = ".".join(str(part) for part in problem["loc"])
    if first in flags:
        where = "command line"
    elif named := variables(first):
        where = f"environment variable {named[0]}"
    else:
        where = str(settings_file(flags) or "settings")
    if problem["type"] == "extra_forbidden":
        tables: dict[str, type[BaseModel]] = {
            "datastores": Datastores,
            "ceph": Ceph,
            "users": Users,
        }
        known = (tables.get(first, Settings) if "." in name else Settings).model_fields
        return f"{where}: there is no setting {name}{nearest(str(problem['loc'][-1]), known)}"
    message = problem["msg"].removeprefix("Value error, ")
    if not name:  # of several settings together: it names them itself
        return f"{where}: {message}"
    return f"{where}: {name}: {message[:1].lower()}{message[1:]}"
