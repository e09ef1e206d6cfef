"""What a check found: how it is, why, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """`about` is what was looked at, `text` what was seen and, if it is bad, its cause; `remedy`
    says what to do. Nothing in it is a secret.
    """

    about: str
    level: Level
    text: str
    remedy: str = ""

    @property
    def record(self) -> dict[str, str]:
        """What ``--json`` shows."""
        return asdict(self)


def ok(about: str, text: str) -> Finding:
    """Return that all is well."""
    return Finding(about, Level.OK, text)


def warning(about: str, text: str, remedy: str = "") -> Finding:
    """Return what is no reason to fail, and worth knowing."""
    return Finding(about, Level.WARNING, text, remedy)


def problem(about: str, text: str, remedy: str = "") -> Finding:
    """Return what keeps something from working."""
    return Finding(about, Level.PROBLEM, text, remedy)


def worst(findings: Iterable[Finding]) -> Level:
    """Return how bad it is altogether."""
    levels = {one.level for one in findings}
    return next((bad for bad in (Level.PROBLEM, Level.WARNING) if bad in levels), Level.OK)
