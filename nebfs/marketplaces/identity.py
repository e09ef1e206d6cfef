"""Numbers for what OpenNebula has not numbered: apps and marketplaces without a front-end.

A number depends on the object's own key and not on its place in a list, so that a new appliance
does not renumber the others (ids are in by-id paths, inode numbers and clashing names).
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable

# OpenNebula's ids are 32-bit signed integers.
_LARGEST = (1 << 31) - 1


def stable_id(key: str, taken: Container[int] = ()) -> int:
    """Return a number from 1 to 2**31 - 1 for `key`: its hash, or the next one that is free."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    number = int.from_bytes(digest[:4], "big") % _LARGEST + 1
    while number in taken:
        number = number % _LARGEST + 1
    return number


def numbered(keys: Iterable[str]) -> dict[str, int]:
    """Return a number for each key, whatever the order the keys came in."""
    numbers: dict[str, int] = {}
    taken: set[int] = set()
    for key in sorted(set(keys)):
        numbers[key] = stable_id(key, taken)
        taken.add(numbers[key])
    return numbers
