"""The comparison as a picture."""

from __future__ import annotations

from collections.abc import Mapping

from scripts.benchmarks.rounds import Result


def draw(results: Mapping[str, Result]) -> str:
    """Draw."""
    return str(results)
