"""The comparison as an SVG picture: a panel for each case, a bar for each peer, nebfs in colour.

It has a background of its own, so that it reads the same on a light and on a dark page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from scripts.benchmarks.rounds import Result
from scripts.benchmarks.table import number

PANELS = (
    ("cold", "Cold sequential, loopback"),
    ("cold-link", "Cold sequential, 20 ms, 1 Gbit/s"),
    ("boot-raw-link", "Recorded boot, cold, 20 ms, 1 Gbit/s"),
    ("warm", "Warm sequential"),
    ("random-warm", "Warm random 4 KiB reads"),
    ("memory", "Memory while four images stream in"),
    ("boot-guest", "A real guest boots, 20 ms, 1 Gbit/s"),
)
"""Which results are drawn, where they were measured, and what is written above each."""
UNITS = {"s": "seconds", "iops": "reads per second"}
HIDDEN = {"ext4"}
"""Ten times everybody else: next to it all bars would be specks. But not where a guest boots."""
OURS = {"nebfs", "nebfs profile"}
REFERENCES = {"curl", "ext4", "passthrough_ll", "passthrough_hp"}
"""No rivals, but what the wire or a filesystem in C gives, to measure all others by."""
US, REFERENCE, RIVAL = "#d9480f", "#495057", "#adb5bd"
INK, FAINT, PAPER, EDGE = "#212529", "#5c636a", "#ffffff", "#ced4da"

WIDTH, MARGIN, GAP = 920, 24, 28
COLUMN = (WIDTH - 2 * MARGIN - GAP) // 2
LABEL, FIGURE = 126, 66
"""Room for a peer's name left of its bar, and for its figure right of it."""
ROW, BAR, HEAD = 20, 13, 44


@dataclass(frozen=True, slots=True)
class Row:
    """One bar."""

    peer: str
    value: float

    @property
    def colour(self) -> str:
        """Ours, a reference's, or a rival's."""
        if self.peer in OURS:
            return US
        return REFERENCE if self.peer in REFERENCES else RIVAL


def rows(result: Result) -> list[Row]:
    """Return a case's bars, the best first."""
    found = [
        Row(peer, median)
        for peer in result.samples
        if (peer not in HIDDEN or result.case == "boot-guest")
        and (median := result.median(peer)) is not None
    ]
    return sorted(found, key=lambda row: row.value, reverse=result.more_is_better)


def draw(results: Mapping[str, Result]) -> str:
    """Draw the cases that were measured, two in a line. Heights follow from how many took part."""
    panels = [
        (heading, results[case], bars)
        for case, heading in PANELS
        if case in results and (bars := rows(results[case]))
    ]
    parts: list[str] = []
    top = MARGIN + 8
    for first in range(0, len(panels), 2):
        line = panels[first : first + 2]
        for column, (heading, result, bars) in enumerate(line):
            left = MARGIN + column * (COLUMN + GAP)
            parts += _panel(left, top, heading, result, bars)
        top += HEAD + ROW * max(len(bars) for _, _, bars in line) + GAP
    parts += _legend(top)
    return _document(top + 24, parts, [heading for heading, _, _ in panels])


def _panel(left: int, top: int, heading: str, result: Result, bars: list[Row]) -> list[str]:
    sense = "more is better" if result.more_is_better else "less is better"
    parts = [
        _text(left, top + 10, heading, size=14, weight=600),
        _text(left, top + 27, f"{UNITS.get(result.main, result.main)}, {sense}", colour=FAINT),
    ]
    largest = max(row.value for row in bars)
    room = COLUMN - LABEL - FIGURE
    for index, row in enumerate(bars):
        y = top + HEAD + index * ROW
        width = max(1.0, room * row.value / largest)
        weight = 600 if row.peer in OURS else 400
        parts += [
            _text(left + LABEL - 8, y + 11, row.peer, anchor="end", weight=weight),
            _bar(left + LABEL, y, width, BAR, row.colour),
            _text(left + LABEL + width + 6, y + 11, number(row.value), weight=weight),
        ]
    return parts


def _legend(top: int) -> list[str]:
    parts: list[str] = []
    left = MARGIN
    for colour, words in (
        (US, "nebfs"),
        (RIVAL, "other tools"),
        (REFERENCE, "for reference: the wire (curl), a local disk, a filesystem in C (libfuse)"),
    ):
        parts += [
            _bar(left, top - 10, 12, 12, colour),
            _text(left + 18, top, words, colour=FAINT),
        ]
        left += 18 + 7 * len(words) + 24
    return parts


def _bar(x: float, y: float, width: float, height: int, colour: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{width:.1f}" height="{height}" rx="2" fill="{colour}"/>'


def _text(
    x: float,
    y: float,
    words: str,
    *,
    size: int = 12,
    weight: int = 400,
    anchor: str = "start",
    colour: str = INK,
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'
    )


def _document(height: int, parts: list[str], headings: list[str]) -> str:
    described = escape("Bars for " + "; ".join(headings) + ". docs/benchmarks.md has the figures.")
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" '
        'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">'
    )
    frame = (
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8" '
        f'fill="{PAPER}" stroke="{EDGE}"/>'
    )
    title = "<title>nebfs beside other tools, measured in one run</title>"
    return "\n".join([head, title, f"<desc>{described}</desc>", frame, *parts, "</svg>", ""])
