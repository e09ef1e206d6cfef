"""Settings as text: each value as it would stand in the TOML file, and where it was set.

Nothing secret is shown: addresses lose their user, password and query, and what may hold a secret
in a form that nebfs does not know is not shown at all.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from nebfs import config_kinds as kinds
from nebfs.config import Settings, read_table, settings_file, variables
from nebfs.errors import UserError
from nebfs.model import kind_and_url, shown_text, without_credentials

HIDDEN = "(set, and not shown: it may hold secrets)"
DEFAULT = "default"
_HEADER = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?")
_KEY = re.compile(r"""\s*((?:"[^"]*"|'[^']*'|[\w-]+)(?:\s*\.\s*(?:"[^"]*"|'[^']*'|[\w-]+))*)\s*=""")
_PART = re.compile(r""""([^"]*)"|'([^']*)'|([\w-]+)""")
_SIZE_UNITS = "KMGTP"
_TIMES = ((86400, "d"), (3600, "h"), (60, "m"))


@dataclass(frozen=True, slots=True)
class Told:
    """One setting: its name with its tables, its value as text, and where it was set."""

    name: str
    value: str
    origin: str


def told(settings: Settings, flags: Mapping[str, object]) -> list[Told]:
    """Return every setting of `settings`, which `flags`, the environment and a file have made."""
    file = settings_file(flags)
    lines = _lines(file) if file else {}
    found = []
    for name, field, value in leaves(settings):
        found.append(Told(name, shown(name, field, value), _origin(name, flags, file, lines)))
    return found


def leaves(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, FieldInfo, Any]]:
    """Yield each setting below `model`: its whole name, its field and its value."""
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field, value


def shown(name: str, field: FieldInfo, value: object) -> str:
    """Return `value` as it may be shown to anybody."""
    if value and not field.repr:
        return HIDDEN
    if name == "source":
        return written(field, without_credentials(str(value)))
    if name == "marketplaces" and isinstance(value, tuple):
        return written(field, tuple(map(_without_credentials, value)))
    return written(field, value)


def written(field: FieldInfo, value: Any) -> str:
    """Return `value` in TOML, in the way a person would write it; nothing for None.

    URLs within it are shown without credentials.
    """
    reads = {one.func for one in field.metadata if isinstance(one, BeforeValidator)}
    if kinds.as_fill in reads:
        text = "off" if value is None else "idle" if value == math.inf else _size(int(value))
        return json.dumps(text)
    if value is None:
        return ""
    if kinds.as_octal in reads:
        return json.dumps(f"{value:03o}")
    if kinds.as_size in reads:
        return json.dumps(_size(value)) if value else "0"
    if kinds.as_duration in reads:
        return json.dumps(_duration(value))
    return _toml(value)


def _toml(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case BaseModel():
            return _toml({k: v for k, v in value.model_dump().items() if v is not None})
        case Mapping():
            pairs = (f"{json.dumps(str(k))} = {_toml(v)}" for k, v in value.items())
            return f"{{ {', '.join(pairs)} }}" if value else "{}"
        case tuple() | list() | set() | frozenset():
            return f"[{', '.join(map(_toml, value))}]"
        case _:
            return json.dumps(shown_text(str(value)), ensure_ascii=False)


def _without_credentials(text: str) -> str:
    kind, url = kind_and_url(text)
    return f"{kind}+{without_credentials(url)}" if kind else without_credentials(url)


def _size(count: int) -> str:
    power = 0
    while power < len(_SIZE_UNITS) and count and count % 1024 == 0:
        count //= 1024
        power += 1
    return f"{count}{_SIZE_UNITS[power - 1] if power else ''}"


def _duration(seconds: float) -> str:
    for step, unit in _TIMES:
        if seconds >= step and seconds % step == 0:
            return f"{seconds / step:g}{unit}"
    return f"{seconds:g}s" if seconds >= 1 else f"{seconds * 1000:g}ms"


def _origin(
    name: str, flags: Mapping[str, object], file: Path | None, lines: Mapping[str, int]
) -> str:
    first, _, rest = name.partition(".")
    if first in flags:
        return "command line"
    wanted = f"NEBFS_{name.replace('.', '__')}".upper()
    for variable in variables(first):
        # One for the whole table, for this setting, or for a part of it.
        about = variable == f"NEBFS_{first}".upper() or variable.startswith(wanted)
        if os.environ[variable] and (about or not rest):
            return f"environment variable {variable}"
    if file is not None:
        found = [n for key, n in lines.items() if key == name or key.startswith(f"{name}.")]
        if found:
            return f"{file}:{min(found)}"
        if first in lines:  # a table that is written in one line
            return f"{file}:{lines[first]}"
    return DEFAULT


def _lines(file: Path) -> dict[str, int]:
    """Return on which line of the file each key is set; what is written unusually is left out."""
    try:
        table = read_table(file)
        text = file.expanduser().read_text("utf-8")
    except (OSError, UserError):
        return {}
    found: dict[str, int] = {}
    where = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.fullmatch(line):
            where = _dotted(header[1])
            continue
        if key := _KEY.match(line):
            name = ".".join(filter(None, (where, _dotted(key[1]))))
            # A line within a text of several lines may look like a setting.
            if name.split(".")[0] in table:
                found.setdefault(name, number)
    return found


def _dotted(key: str) -> str:
    return ".".join("".join(parts) for parts in _PART.findall(key))
