"""Everybody in turn: how runs alternate, and what becomes of a peer that fails.

Figures of a shared machine wobble by tens of percent within minutes, and all peers wobble together.
So each round lets every peer run once, and what is quoted are ratios of medians over the rounds.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from scripts.benchmarks.images import Image
from scripts.benchmarks.peers.peer import Peer
from scripts.benchmarks.processes import Failed, Mismatch
from scripts.benchmarks.sites import Site

Figures = dict[str, float]
ONCE_IS_ENOUGH = 15.0
"""Seconds after which a run of a peer is not repeated: it is far off, and would cost minutes."""


@dataclass(slots=True)
class Result:
    """What a case has found: samples by peer and figure, and a remark on whoever is not there."""

    case: str
    title: str
    main: str
    """The figure that the case is about."""
    more_is_better: bool
    baseline: str
    """The peer whose median the others' are divided by."""
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)
    wrong: bool = False
    """Whether somebody served wrong bytes."""

    def median(self, peer: str, figure: str | None = None) -> float | None:
        """Return the median of a peer's samples, or None where there are none."""
        values = self.samples.get(peer, {}).get(figure or self.main)
        return statistics.median(values) if values else None

    def add(self, peer: str, figures: Figures) -> None:
        """Take one run's figures in."""
        for name, value in figures.items():
            self.samples.setdefault(peer, {}).setdefault(name, []).append(value)


class Contestant(Protocol):
    """Who takes part: a Peer, or something that shows no files."""

    name: str

    def missing(self) -> str | None:
        """Return why it cannot be run on this machine, or None."""


_C = TypeVar("_C", bound=Contestant)


@dataclass(slots=True)
class Bench:
    """What the cases have at hand."""

    home: Path
    runs: int
    quick: bool
    images: list[Image]
    """The large one first; then four that stream beside it, and one for each trace."""
    loopback: Site
    link: Site | None
    nebfs: Peer
    say: Callable[[str], None]
    _scratch: int = 0

    def scratch(self) -> Path:
        """Return the name of a directory that does not exist yet; short, for control sockets."""
        self._scratch += 1
        return self.home / f"{self._scratch}"


def alternate(
    bench: Bench,
    result: Result,
    peers: Sequence[_C],
    once: Callable[[_C], Figures],
    runs: int | None = None,
    enough: float = ONCE_IS_ENOUGH,
) -> None:
    """Let every peer run once in each round; one that fails is out, with its reason, and one that
    takes longer than `enough` seconds after its first run.
    """
    patient = [peer for peer in peers if not _missing(result, peer)]
    for _ in range(runs or bench.runs):
        for peer in list(patient):
            began = time.monotonic()
            try:
                figures = once(peer)
            except Mismatch as exc:
                result.wrong = True
                result.remarks[peer.name] = f"WRONG BYTES: {exc}"
                patient.remove(peer)
            except (Failed, OSError, StopIteration) as exc:
                result.remarks[peer.name] = str(exc) or type(exc).__name__
                patient.remove(peer)
            else:
                result.add(peer.name, figures)
                if time.monotonic() - began > enough:
                    result.remarks[peer.name] = "one run only: it takes too long"
                    patient.remove(peer)
            words = result.remarks.get(peer.name) or _short(result, peer.name)
            bench.say(f"  {result.case}: {peer.name}: {words}")


def _missing(result: Result, peer: Contestant) -> bool:
    reason = peer.missing()
    if reason:
        result.remarks[peer.name] = reason
    return reason is not None


def _short(result: Result, peer: str) -> str:
    return f"{result.samples[peer][result.main][-1]:.4g} {result.main}"


def clear(place: Path) -> None:
    """Remove what a run left on disk before the kernel writes it out in the middle of the next."""
    shutil.rmtree(place, ignore_errors=True)
