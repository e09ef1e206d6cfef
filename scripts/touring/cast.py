"""The tour as one SVG file that moves: a page for each step, the command first, then what it says.

It is CSS alone, with no scripts and nothing from elsewhere, as GitHub wants a picture. Who has
asked for less motion sees the first page. rich draws the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from scripts.touring.page import Seen
from scripts.touring.visit import COLUMNS

LINES = 26
"""Of a page; what a step shows beyond them is cut."""
TYPED, LINE = 1.6, 0.22
"""Seconds until a command answers, and for each line to be read."""
LEAST = 2.5
"""Seconds that an answer is seen at least."""
INK, PAPER, EDGE, FAINT = "#e6e8eb", "#16191d", "#3a4048", "#8f98a3"
THEME = TerminalTheme(
    (0x16, 0x19, 0x1D),
    (0xE6, 0xE8, 0xEB),
    [
        *((0x16, 0x19, 0x1D), (0xF0, 0x6A, 0x6A), (0x6C, 0xC6, 0x7F), (0xE0, 0xB4, 0x5C)),
        *((0x6C, 0xA8, 0xF0), (0xC7, 0x8B, 0xE0), (0x5F, 0xC4, 0xC9), (0xE6, 0xE8, 0xEB)),
    ],
)
PARTS = "{styles}\0{backgrounds}\0{matrix}\0{char_width}\0{line_height}"
"""What rich is asked for of each page, instead of a picture."""
FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
LEFT, TOP, HEAD = 16, 12, 36


@dataclass(frozen=True, slots=True)
class Frame:
    """What is shown from `start` to `end`, in seconds: lines of text from line `first` on."""

    start: float
    end: float
    first: int
    text: Text

    @property
    def lines(self) -> int:
        """How many lines it has."""
        return len(self.text.plain.splitlines())


def cast(titles: list[str], pages: list[Seen]) -> str:
    """Return the picture. `titles` and `pages` belong to each other, one by one."""
    frames: list[Frame] = []
    shown: list[tuple[float, float, str]] = []
    now = 0.0
    for title, page in zip(titles, pages, strict=True):
        made = list(_frames(page, now))
        frames += made
        shown.append((now, made[-1].end, title))
        now = made[-1].end
    return _drawn(frames, shown, now)


def _frames(page: Seen, start: float) -> Iterator[Frame]:
    """Yield each command and each answer, from when on it is seen until the page ends."""
    parts: list[tuple[float, int, Text]] = []
    now, line = start, 0
    for command, answer in page:
        typed = Text.assemble(("$ ", FAINT), (command, "bold"))
        parts.append((now, line, typed))
        line += 1
        said = Text.from_ansi(answer.expandtabs(8).rstrip("\n"))
        count = min(len(said.plain.splitlines()), LINES - line)
        now += TYPED
        if count > 0:
            parts.append((now, line, Text("\n").join(said.split("\n")[:count])))
            line += count
            now += max(LEAST, count * LINE)
    yield from (Frame(begin, now, first, text) for begin, first, text in parts)


def _drawn(frames: list[Frame], titles: list[tuple[float, float, str]], total: float) -> str:
    styles: dict[str, str] = {}
    rules, groups = [], []
    for number, frame in enumerate(frames):
        body, wide, high = _body(frame.text, styles)
        rules.append(_keyframes(f"f{number}", frame.start, frame.end, total))
        groups.append(
            f'<g id="f{number}" class="frame" transform="translate(0 {frame.first * high:g})">'
            f"{body}</g>"
        )
    for number, (start, end, title) in enumerate(titles):
        rules.append(_keyframes(f"t{number}", start, end, total))
        groups.append(
            f'<text id="t{number}" class="frame title" x="{COLUMNS * wide / 2:g}" y="-10">'
            f"{escape(title)}</text>"
        )
    first = ", ".join(
        [f"#f{n}" for n, frame in enumerate(frames) if frame.start < titles[0][1]] + ["#t0"]
    )
    width, height = COLUMNS * wide + 2 * LEFT, LINES * high + TOP + HEAD
    classes = "\n".join(f".{name} {{ {css} }}" for css, name in styles.items())
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img">
<title>nebfs: a tour in a terminal</title>
<desc>{escape("; ".join(title for _, _, title in titles))}. The commands are in README.md.</desc>
<style>
text {{ font: 20px {FONT}; fill: {INK}; white-space: pre }}
.title {{ font: 600 18px system-ui, sans-serif; fill: {FAINT}; text-anchor: middle }}
.frame {{ visibility: hidden; animation: {total:g}s step-end infinite }}
{first} {{ visibility: visible }}
{classes}
@media (prefers-reduced-motion: reduce) {{ .frame {{ animation: none !important }} }}
{"".join(rules)}</style>
<rect x="1" y="1" width="{width - 2:g}" height="{height - 2:g}" rx="10"
 fill="{PAPER}" stroke="{EDGE}"/>
<circle cx="24" cy="20" r="6" fill="#ff5f57"/><circle cx="44" cy="20" r="6" fill="#febc2e"/>
<circle cx="64" cy="20" r="6" fill="#28c840"/>
<g transform="translate({LEFT} {HEAD})">
{chr(10).join(groups)}
</g>
</svg>
"""


def _keyframes(name: str, start: float, end: float, total: float) -> str:
    """Return the rules that show what is called `name` from `start` to `end` of each round."""
    moments = {0.0: start == 0, start: True}
    if end < total:
        moments[end] = False
    steps = "".join(
        f"{100 * moment / total:.2f}%{{visibility:{'visible' if seen else 'hidden'}}}"
        for moment, seen in sorted(moments.items())
    )
    return f"@keyframes {name}{{{steps}}} #{name}{{animation-name:{name}}}\n"


def _body(text: Text, styles: dict[str, str]) -> tuple[str, float, float]:
    """Return the text as SVG, how wide a character is, and how high a line.

    `styles` are the classes of all frames, by what they say.
    """
    console = Console(record=True, width=COLUMNS, file=_Nowhere(), force_terminal=True)
    console.print(text, no_wrap=True, crop=True, end="\n", highlight=False)
    parts = console.export_svg(title="", theme=THEME, code_format=PARTS, unique_id="x").split("\0")
    rules, backgrounds, matrix, wide, high = parts
    names = {}
    for name, css in re.findall(r"\.(x-r\d+) \{ (.*?) \}", rules):
        names[name] = styles.setdefault(css, f"c{len(styles)}")
    body = re.sub(r' clip-path="[^"]*"', "", backgrounds + matrix)
    body = re.sub(r'class="(x-r\d+)"', lambda found: f'class="{names[found[1]]}"', body)
    return body.replace("&#160;", " "), float(wide), float(high)


class _Nowhere:
    """A file that keeps nothing: what is recorded is all that is wanted."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None: ...
