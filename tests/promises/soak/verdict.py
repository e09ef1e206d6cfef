"""Whether a soak kept what is promised: each check with its figures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

MIB = 1 << 20
Samples = Sequence[dict[str, float]]

WARM = 0.25
"""The part of a run in which memory may still grow: caches of everything fill up."""

PARTS, FIFTH = 12, 5
"""The rest is cut into so many parts, and the lowest fifth of each is what counts: what requests
take that are under way comes and goes, a leak stays. (In an hour of nothing but that, the line
through all samples rose or fell by up to 25 descriptors of a median of 56.)"""

ALLOWED = {
    "memory": (8.0 * MIB, 0.05),
    "descriptors": (6.0, 0.05),
    "threads": (3.0, 0.05),
}
"""How much more of it there may be at the end of the rest of the run than at its beginning, by the
line that fits best: at least so much, or this part of it."""

CERTAIN = 3.0
"""Of descriptors and threads, how many standard errors of that line the growth must be besides:
connections come and go (in one hour the parts of the fetcher fell back to 23 to 35 descriptors),
a leak is a line, with a small error. Memory has nothing of the kind, and is judged without."""

MOST = {"memory": 300 * MIB, "descriptors": 300, "threads": 40}
"""What a process may have at any time."""

KEPT = {"descriptors": 6, "threads": 8}
"""How many more may be left when all is at rest: pools keep some threads to be used again."""

SLACK = MIB
"""Bytes beyond the limit that count as none: blocks come and go while they are counted."""


@dataclass(frozen=True, slots=True)
class Check:
    """One promise, as it was found."""

    name: str
    kept: bool
    figures: str


def growth(samples: Samples, key: str) -> tuple[float, float, float]:
    """Return by how much what a figure falls back to grew after the warm-up, by the line of least
    squares, the standard error of that, and the median of all of the figure there.
    """
    first, last = samples[0]["time"], samples[-1]["time"]
    kept = [s for s in samples if s["time"] >= first + WARM * (last - first) and s[key]]
    if len(kept) < 3:
        return 0.0, 0.0, 0.0
    size = -(-len(kept) // min(PARTS, max(3, len(kept) // FIFTH)))
    times, lows = [], []
    for part in (kept[at : at + size] for at in range(0, len(kept), size)):
        times.append(statistics.mean(s["time"] for s in part))
        lows.append(sorted(s[key] for s in part)[len(part) // FIFTH])
    line = statistics.linear_regression(times, lows)
    beside = sum(
        (y - line.intercept - line.slope * x) ** 2 for x, y in zip(times, lows, strict=True)
    )
    spread = statistics.pvariance(times) * len(times)
    error = math.sqrt(beside / max(1, len(times) - 2) / spread)
    over = kept[-1]["time"] - kept[0]["time"]
    return line.slope * over, error * over, statistics.median(s[key] for s in kept)


def moderate(samples: Samples) -> Check:
    """Judge what a process takes at most."""
    over = [
        f"{key} {max(s[key] for s in samples):.0f}"
        for process in ("daemon", "fetcher")
        for what, most in MOST.items()
        for key in [f"{process}_{what}"]
        if max(s[key] for s in samples) > most
    ]
    return none("no process takes more than it may", over)


def flat(samples: Samples) -> list[Check]:
    """Judge memory, descriptors and threads of both processes."""
    checks = []
    for process in ("daemon", "fetcher"):
        for what, (least, part) in ALLOWED.items():
            key = f"{process}_{what}"
            grown, error, median = growth(samples, key)
            allowed = max(least, part * median)
            if what != "memory":
                allowed = max(allowed, CERTAIN * error)
            unit = MIB if what == "memory" else 1
            most = max((s[key] for s in samples), default=0.0)
            checks.append(
                Check(
                    f"{what} of the {process} stay" + ("s" if what == "memory" else ""),
                    grown <= allowed,
                    f"{grown / unit:+.1f} of {allowed / unit:.1f} after the warm-up, median "
                    f"{median / unit:.1f}, at most {most / unit:.1f}"
                    + (" MiB" if what == "memory" else ""),
                )
            )
    return checks


def bounded(samples: Samples) -> Check:
    """Judge the cache: never over its limit, by its own count and on the disk."""
    limit = samples[-1]["limit"]
    # What is on its way is reserved and, once it is written, used as well until all of it is there.
    used = max(s["used"] for s in samples)
    disk = max(s["disk"] for s in samples)
    evicted = samples[-1]["evicted"]
    return Check(
        "the cache stays within its limit",
        used <= limit + SLACK and disk <= limit + SLACK and evicted > 0,
        f"limit {limit / MIB:.0f}, at most {used / MIB:.1f} used and "
        f"{disk / MIB:.1f} on the disk; {evicted / MIB:.0f} evicted (MiB)",
    )


def at_rest(before: dict[str, float], after: dict[str, float]) -> Check:
    """Judge what is left when nobody uses the mount any more."""
    zero = ("open_files", "open_objects", "requests", "reserved")
    left = [f"{name} {after[name]:.0f}" for name in zero if after[name]]
    for process in ("daemon", "fetcher"):
        for what, more in KEPT.items():
            key = f"{process}_{what}"
            if after[key] > before[key] + more:
                left.append(f"{key} {after[key]:.0f}, {before[key]:.0f} before")
    figures = ", ".join(left) or ", ".join(f"{name} 0" for name in zero)
    return Check("gauges are back where they were", not left, figures)


def none(name: str, found: Sequence[str]) -> Check:
    """Judge what should not be at all."""
    first = f", first: {found[0]}" if found else ""
    return Check(name, not found, f"{len(found)}{first}")
