r"""``-o a,b=c``: the dialect of mount(8), read into the names of nebfs.config.Settings.

A comma inside a value is written ``\,`` and a backslash before one ``\\``. ``-`` and ``_`` are
alike. What only concerns mount(8), systemd or the kernel is accepted and left to them, so that a
line of /etc/fstab works as it stands. When an option is repeated the last one counts, as in
mount(8), except that every ``marketplace`` is one more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from nebfs.cli.exits import USAGE
from nebfs.config import Settings, nearest
from nebfs.errors import UserError

# Read by mount(8), systemd or the kernel; or always so with us (ro, nosuid, nodev, rights).
# fmt: off
IGNORED = frozenset({
    "ro", "defaults", "default_permissions", "_netdev", "nofail", "auto", "noauto", "user",
    "users", "nouser", "owner", "group", "suid", "nosuid", "dev", "nodev", "exec", "noexec",
    "async", "relatime", "norelatime", "atime", "noatime", "diratime", "nodiratime",
    "strictatime", "lazytime", "comment",
})
# fmt: on
ALIASES = {"marketplace": "marketplaces", "config": "config_file"}
NOBODY = frozenset({"", "none", "nebfs"})
"""What is written for SOURCE where fstab wants something, and the settings are to tell."""
FLAGS = frozenset(n for n, field in Settings.model_fields.items() if field.annotation is bool)
SETTINGS = frozenset(Settings.model_fields) - {
    "datastores",
    "ceph",
    "users",
}  # a table has no place in -o

_ESCAPED = re.compile(r"\\([,\\])")
_ITEM = re.compile(r"(?:\\[,\\]|[^,])+", re.DOTALL)


def parse_options(texts: Iterable[str]) -> dict[str, object]:
    """Return the settings named by every ``-o`` argument, as text; `load` gives them their types.

    Raises UserError (exit code USAGE) for an option that is unknown, or that we cannot honour.
    """
    settings: dict[str, object] = {}
    marketplaces: list[str] = []
    for item in split_options(texts):
        name, equals, value = item.partition("=")
        if name.lower().startswith("x-"):  # for other programs' eyes by convention, see mount(8)
            continue
        key = name.strip().replace("-", "_")
        key = ALIASES.get(key, key)
        if key in IGNORED:
            continue
        if key == "rw":
            raise UserError(
                "nebfs is a read-only filesystem: remove the option rw", exit_code=USAGE
            )
        if key not in SETTINGS:
            known = sorted(SETTINGS | IGNORED | set(ALIASES))
            raise UserError(f"-o {name}: unknown option{nearest(key, known)}", exit_code=USAGE)
        if not equals and key not in FLAGS:
            raise UserError(f"-o {name}: needs a value: {name}=...", exit_code=USAGE)
        if key == "marketplaces":
            marketplaces.append(value)
        else:
            settings[key] = value if equals else "true"
    if marketplaces:
        settings["marketplaces"] = tuple(marketplaces)
    return settings


def typed(
    options: Iterable[str], flags: Mapping[str, object], source: str = ""
) -> dict[str, object]:
    """Return what was typed: ``-o`` `options`, over them `flags` that were given, and SOURCE."""
    settings = parse_options(options)
    settings.update({name: value for name, value in flags.items() if value})
    if source not in NOBODY:
        settings["source"] = source
    return settings


def split_options(texts: Iterable[str]) -> list[str]:
    """Return the items between the commas, with escapes resolved and empty ones left out."""
    return [_ESCAPED.sub(r"\1", item) for text in texts for item in _ITEM.findall(text)]
