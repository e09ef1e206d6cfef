"""Every setting with its default and what it means, made from nebfs/config.py.

In two forms: a TOML file to start from, and the page docs/configuration.md.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from nebfs.cli.written import written
from nebfs.config import Settings
from nebfs.config_kinds import MarketplaceUrl

GROUPS = {
    "source": "What is mounted",
    "cache_dir": "Where things are kept on this machine",
    "refresh_interval": "How the network is treated",
    "allow_other": "How the tree looks to the kernel",
}
"""The first setting of each group -> the group's name."""
ON_EVERY_MACHINE = {
    "cache_dir": '"/var/cache/nebfs"',
    "run_dir": '"/run/nebfs"',
    "platform": '"linux/amd64"',
    "user_agent": '"nebfs/VERSION"',
}
"""Defaults that depend on the machine or the user, as root on a common machine has them."""
EXAMPLES = {
    "auth_file": '"/etc/nebfs/one_auth"',
    "ca_file": '"/etc/ssl/certs/private-ca.pem"',
    "credentials_file": '"/etc/nebfs/credentials.toml"',
    "log_file": '"/var/log/nebfs.log"',
    "mountpoint": '"/mnt/one"',
    "users.gids": 'research = "research"',
    "users.sessions": 'alice = "/etc/nebfs/sessions/alice"',
    "users.uids": 'oneadmin = "oneadmin"',
    "ceph.datastores": 'NAME.user = "libvirt"',
    "datastores.mappings": 'storpool = "file:///dev/storpool/{source_base}"',
    "datastores.paths": '"/var/lib/one/datastores" = "/mnt/datastores"',
}
"""What to write for settings that are not set by default."""
HEAD = """\
Settings of nebfs. Mount with them by 'nebfs mount --config FILE MOUNTPOINT'.
What follows a '#' without a blank is a setting with its default, or with an example where it has
none: remove the '#' and change it. See what is in force with 'nebfs config show --config FILE'.
The environment (NEBFS_CACHE_SIZE), flags and -o cache-size=10G win over this file.
Sizes: 512K, 10G; durations: 30s, 5m, 1h.\
"""
PAGE = """\
# Settings

This page is made by `nebfs config template --markdown`.

A setting called `cache_size` is `cache_size = "10G"` in the TOML file that `--config` names,
`NEBFS_CACHE_SIZE` in the environment, and `-o cache-size=10G` on the command line; some have flags
of their own (`nebfs mount --help`). The command line wins over the environment, and that over the
file. A setting in a table is `NEBFS_CEPH__USER` in the environment.

- `nebfs config template` writes a file with every setting to start from.
- `nebfs config check --config FILE` says whether a mount would take it.
- `nebfs config show --config FILE` says what is in force, and where it was set.

Sizes are bytes or text such as `512K` and `10G` (binary), durations seconds or text such as `30s`,
`5m` and `1h`. A default in brackets is what is done when the setting is not there.
"""


@dataclass(frozen=True, slots=True)
class Described:
    """One setting, as both forms need it. `default` is TOML, empty where it is not set."""

    name: str
    table: str
    meaning: str
    default: str
    example: str

    @property
    def key(self) -> str:
        """Its name within its table."""
        return self.name.rpartition(".")[2]


def described(
    model: type[BaseModel] = Settings, table: str = ""
) -> Iterator[tuple[Described, type[BaseModel] | None]]:
    """Yield the settings of `model`; a table comes with the model of what is in it."""
    for key, field in model.model_fields.items():
        if key == "config_file":
            continue  # a file that names another is not read
        name = f"{table}.{key}" if table else key
        inner = _table(field)
        default = ON_EVERY_MACHINE.get(name)
        if default is None:
            default = "" if inner else written(field, field.get_default(call_default_factory=True))
        meaning = _plain(field.description or "")
        yield Described(name, table, meaning, default, EXAMPLES.get(name, _example(field))), inner


def template() -> str:
    """Return the TOML file."""
    lines = [f"# {line}" for line in HEAD.splitlines()]
    tables: list[tuple[Described, type[BaseModel] | None]] = []
    for one, inner in described():
        if one.name in GROUPS:
            lines += ["", f"# --- {GROUPS[one.name]} ---"]
        if inner is not None or one.default == "{}":
            tables.append((one, inner))
        else:
            lines += _entry(one)
    for one, inner in tables:  # behind all else: what follows a table's head belongs to it
        lines += _table_lines(one, inner)
    return "\n".join(lines) + "\n"


def page() -> str:
    """Return docs/configuration.md."""
    lines = PAGE.splitlines()
    for one, inner in described():
        if one.name in GROUPS:
            lines += ["", f"## {GROUPS[one.name]}", *_columns()]
        if inner is None:
            lines.append(_row(one))
    for one, inner in described():
        if inner is not None:
            lines += ["", f"## Table `[{one.name}]`", "", one.meaning, *_columns()]
            lines += [_row(within) for within, _ in described(inner, one.name)]
    return "\n".join(lines) + "\n"


def _table_lines(one: Described, inner: type[BaseModel] | None) -> list[str]:
    lines = ["", *_comment(one.meaning), f"[{one.name}]"]
    if inner is None:
        return [*lines, f"#{one.example}"]
    below = []
    for within, deeper in described(inner, one.name):
        if deeper is not None or within.default == "{}":
            below.append((within, deeper))
        else:
            lines += _entry(within)
    for within, deeper in below:
        lines += _table_lines(within, deeper)
    return lines


def _entry(one: Described) -> list[str]:
    return ["", *_comment(one.meaning), f"#{one.key} = {one.default or one.example}"]


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text.replace("`", ""), 96)]


def _columns() -> list[str]:
    return ["", "| Setting | Default | Meaning |", "|---|---|---|"]


def _row(one: Described) -> str:
    default = f"`{one.default}`" if one.default else "(not set)"
    meaning = one.meaning.replace("|", "\\|")
    return f"| `{one.key}` | {default} | {meaning} |"


def _table(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _plain(text: str) -> str:
    """Return a docstring's text in the words of somebody who writes TOML, as one line."""
    text = re.sub(r"^None(?=:)", "Not set", " ".join(text.split()))
    return re.sub(r"\bNone(?=:)", "not set", text).replace("``", "`")


def _example(field: FieldInfo) -> str:
    kinds: set[Any] = {field.annotation, *get_args(field.annotation)}
    if MarketplaceUrl in kinds:
        return "[]"
    if Path in kinds or any(Path in get_args(kind) for kind in kinds):
        return '"/path/to/file"'
    return "0" if int in kinds or float in kinds else '""'
