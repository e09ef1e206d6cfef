"""The samples of a soak as small SVG pictures: lines over minutes, troubles as grey bands."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from scripts.benchmarks.chart import EDGE, FAINT, INK, PAPER
from tests.promises.soak.troubles import Happened

WIDTH, HEIGHT = 760, 220
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 40, 34
BAND = "#f1f3f5"
COLOURS = ("#d9480f", "#1864ab", "#2b8a3e", "#868e96")
POINTS = 240
"""Of each line: more cannot be seen, and the file shall stay small."""

Line = tuple[str, Sequence[float]]


def draw(
    title: str, times: Sequence[float], lines: Sequence[Line], troubles: Sequence[Happened]
) -> str:
    """Draw lines of values at `times` (seconds)."""
    last = max(times[-1], 1.0)
    top = _round(max(max(values) for _, values in lines) or 1.0)
    step = max(1, len(times) // POINTS)

    def x(time: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(time, last) / last

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top

    parts = [
        f'<rect x="{x(t.began):.1f}" y="{TOP}" width="{max(0.5, x(t.ended) - x(t.began)):.1f}" '
        f'height="{HEIGHT - TOP - BOTTOM}" fill="{BAND}"/>'
        for t in troubles
        if t.place
    ]
    for part in range(5):
        value = top * part / 4
        parts += [
            f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" stroke="{EDGE}"/>',
            _text(LEFT - 6, y(value) + 4, f"{value:g}", "end"),
        ]
    for part in range(7):
        time = last * part / 6
        parts.append(_text(x(time), HEIGHT - 12, f"{time / 60:.3g} min", "middle"))
    at = LEFT
    for (name, values), colour in zip(lines, COLOURS, strict=False):
        path = "L".join(f"{x(times[n]):.1f} {y(values[n]):.1f}" for n in range(0, len(times), step))
        parts += [
            f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>',
            f'<rect x="{at}" y="25" width="10" height="3" fill="{colour}"/>',
            _text(at + 14, 30, name, "start"),
        ]
        at += 26 + 7 * len(name)
    parts.insert(0, _text(LEFT, 16, title, "start", INK, 600))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img" '
        'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">'
    )
    frame = f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="{PAPER}"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", frame, *parts, "</svg>", ""])


def _round(value: float) -> float:
    """Return the next number of one or two digits that is not less."""
    unit = 10.0 ** (len(str(int(value))) - 1)
    return next(n * unit for n in (1, 1.2, 1.6, 2, 3, 4, 6, 8, 10) if n * unit >= value)


def _text(
    x: float, y: float, words: str, anchor: str, colour: str = FAINT, weight: int = 400
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="11" font-weight="{weight}" '
        f'text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'
    )
