"""Sizes and durations, read and written in one way everywhere.

Sizes are binary whatever the spelling (``10G`` = ``10GiB`` = 10 * 2**30 bytes), as in mount(8)'s
``size=`` options and in QEMU. Durations are seconds as a float; a bare number means seconds.
"""

from __future__ import annotations

import re
from decimal import Decimal

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

_SIZE_STEPS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?\s*", re.IGNORECASE | re.ASCII)
_DURATION_STEPS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|)\s*", re.IGNORECASE | re.ASCII)


def parse_size(text: str | int) -> int:
    """Return the bytes that `text` names (``4096``, ``512K``, ``1.5 GiB``); ValueError if none."""
    if isinstance(text, int):
        return text
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a size; write a number with K, M, G or T, such as 10G")
    # Decimal, not float: a count of bytes is exact, however large.
    count = int(Decimal(match[1]) * 1024 ** _SIZE_STEPS[match[2].lower()])
    if count >= 1 << 63:
        raise ValueError(f"{text[:40]!r} is more than any file can hold (8 EiB)")
    return count


def format_size(count: float) -> str:
    """Write `count` bytes with three significant digits: ``512 B``, ``1.50 MiB``, ``10.0 GiB``."""
    if count < 1024:
        return f"{int(count)} B"
    value, unit = float(count), "B"
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):  # noqa: B007 - the last unit is used below
        value /= 1024
        if value < 1000:
            break
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"


def parse_duration(text: str | float) -> float:
    """Return the seconds that `text` names (``30``, ``250ms``, ``5m``, ``1.5h``)."""
    if isinstance(text, (int, float)):
        return float(text)
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write a number with ms, s, m, h or d")
    return float(match[1]) * _DURATION_STEPS[match[2].lower()]


def format_duration(seconds: float) -> str:
    """Write `seconds` for a person: ``250 ms``, ``12 s``, ``5 min``, ``3 h``, ``2 d``."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    for limit, step, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / step:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
