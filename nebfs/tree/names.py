"""The only place where names are made: safe, stable, unique.

Names come from people and from feeds. A front-end lets ``..``, names with ``/`` (a fault of its
importer), 129 bytes, bidirectional overrides and control characters through. What cannot or should
not be in a file name is percent-encoded byte by byte, as in a URL, and ``%`` with it, so that any
URL decoder gives the original back.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

LONGEST = 255
"""NAME_MAX: bytes in one name, on Linux and on every filesystem a copy may go to."""

# What reorders text on a terminal (the Unicode Bidirectional Algorithm's explicit formatting
# characters): a name that reads backwards is a way to make somebody run or delete another file.
_BIDI = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def _unsafe(char: str) -> bool:
    return (
        char in {"/", "%"}
        or char in _BIDI
        or unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"}  # controls, surrogates, breaks
    )


def encode(name: str) -> str:
    """Return `name` as one safe path component, of any length."""
    if name in {"", ".", ".."}:
        return name.replace(".", "%2E") or "unnamed"
    if name.isascii() and name.isprintable() and "/" not in name and "%" not in name:
        return name  # nearly all are of this kind, and a datastore holds thousands
    if not any(map(_unsafe, name)):
        return name
    return "".join(
        "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))
        if _unsafe(char)
        else char
        for char in name
    )


def fit(stem: str, suffix: str) -> str:
    """Return ``stem + suffix``, shortening the stem so that the whole has at most LONGEST bytes."""
    room = LONGEST - len(suffix.encode())
    raw = stem.encode()
    if len(raw) <= room:
        return stem + suffix
    cut = raw[:room].decode("utf-8", "ignore")
    if "%" in cut[-2:]:  # do not leave half an escape
        cut = cut[: cut.rindex("%")]
    return cut + suffix


def with_extension(stem: str, extension: str) -> tuple[str, str]:
    """Return (stem, suffix) for a file: an extension that the name has already is not doubled."""
    suffix = f".{extension}" if extension else ""
    if suffix and stem.lower().endswith(suffix.lower()) and len(stem) > len(suffix):
        return stem[: -len(suffix)], stem[-len(suffix) :]
    return stem, suffix


def distinct(wanted: Iterable[tuple[int, str, str]], others: Iterable[str] = ()) -> dict[int, str]:
    """Return a unique name for each (id, stem, suffix): ``stem + suffix`` or ``stem~id + suffix``.
    None is one of `others`.

    The lowest id keeps the plain name, so that a newcomer never renames what was there. A name
    that had to be shortened carries its id as well: what was cut off may have told two apart.
    """
    names: dict[int, str] = {}
    taken = set(others)
    later: list[tuple[int, str, str]] = []
    for number, stem, suffix in sorted(wanted):
        plain = stem + suffix
        if plain not in taken and len(plain.encode()) <= LONGEST:
            names[number] = plain
            taken.add(plain)
        else:
            later.append((number, stem, suffix))
    for number, stem, suffix in later:
        tail = f"~{number}{suffix}"
        while (name := fit(stem, tail)) in taken:  # somebody's real name is "name~42"
            tail = f"~{tail}"
        names[number] = name
        taken.add(name)
    return names
