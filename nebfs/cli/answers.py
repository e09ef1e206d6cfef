"""What commands take out of an answer: another version's may lack what is looked for."""

from __future__ import annotations

from collections.abc import Mapping


def number(value: object) -> float:
    """Return a number that was answered; 0 where it is none."""
    return value if isinstance(value, (int, float)) else 0


def whole(value: object) -> int:
    """Return a whole number that was answered; 0 where it is none."""
    return int(number(value))


def dicts(value: object) -> list[Mapping[str, object]]:
    """Return the objects in a list that was answered; none where it is no list."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def counted(count: object, what: str) -> str:
    """Return a number of things in words: ``1 image``, ``2 images``."""
    return f"{count} {what}{'' if count == 1 else 's'}"
