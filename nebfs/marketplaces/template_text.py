"""OpenNebula's template syntax, written from JSON: ``KEY = "text"``, ``KEY = [ A = "text" ]``.

Source: the VM templates that OpenNebula's own driver makes of an appliance's
``opennebula_template``: a text that holds a JSON object with upper-case keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

# What OpenNebula accepts as a name of an attribute.
_KEY = re.compile(r"[A-Za-z0-9_-]+")


def template_text(packed: str) -> str:
    """Return the template in the JSON text `packed`, or an empty text when there is none in it.

    OpenNebula's templates have two levels: what is deeper is left out.
    """
    try:
        document = json.loads(packed)
    except (ValueError, RecursionError):
        return ""
    return "".join(f"{line}\n" for line in _lines(document)) if isinstance(document, dict) else ""


def assignment(key: str, value: str) -> str:
    """Return ``KEY = "value"``, with quotes and backslashes in the value escaped."""
    return f"{key} = {_quoted(value)}"


def _lines(document: dict[str, object]) -> Iterator[str]:
    for key, found in document.items():
        if not _KEY.fullmatch(key):
            continue
        # A list stands for an attribute that is there more than once (NIC, DISK).
        for value in found if isinstance(found, list) else [found]:
            if isinstance(value, dict):
                inner = (
                    assignment(k, _scalar(v))
                    for k, v in value.items()
                    if _KEY.fullmatch(k) and not isinstance(v, (dict, list))
                )
                yield f"{key} = [ {', '.join(inner)} ]"
            elif not isinstance(value, list):
                yield assignment(key, _scalar(value))


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return "YES" if value else "NO"
    return "" if value is None else str(value).encode("utf-8", "replace").decode("utf-8")


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
