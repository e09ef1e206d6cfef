"""The blocks of README.md that show what the tour has seen."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rich.text import Text

Seen = list[tuple[str, str]]
"""Commands, each with what it has shown."""

BLOCK = re.compile(r"(?<=<!-- tour: )(?P<name>\w+) -->\n```console\n(?P<text>.*?)```\n", re.DOTALL)

# What is another one each time; the longer ones first.
CHANGING = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"\bnebfs-demo-\w+", "PLACE"),
        (r"\b[0-9a-f]{8}-[0-9a-f-]{27}\b", "ID"),
        (r"\b[0-9a-f]{12,64}(-[0-9a-f]+)?\b", "HEX"),
        (r"(?<=[/?#=])[\w-]{22,}", "SECRET"),
        (r"\w{3}, \d\d \w{3} \d{4} [\d:]+ GMT", "DATE"),
        (r"\b\w{3} +\d+ +(\d\d:\d\d|\d{4})\b", "DATE"),
        (r"\d+(\.\d+)?( ?(B|KiB|MiB|GiB|ms|s|min|h|%)(/s)?(?!\w))?", "N"),
        (r"[▁-█▕▏]+[▁-█ ]*▏?", "MAP"),
    )
)


def block(seen: Seen) -> str:
    """Return the commands and what they showed, as they stand in README.md."""
    return "".join(f"$ {command}\n{plain(shown)}" for command, shown in seen)


def plain(shown: str) -> str:
    """Return what a terminal showed without its colours and the blanks behind lines."""
    lines = Text.from_ansi(shown.expandtabs(8)).plain.splitlines()
    return "".join(f"{line.rstrip()}\n" for line in lines)


def blocks(page: str) -> dict[str, str]:
    """Return what README.md shows, by the names of the steps."""
    return {found["name"]: found["text"] for found in BLOCK.finditer(page)}


def written(page: str, seen: dict[str, Seen]) -> str:
    """Return `page` with what was seen. AssertionError: it does not have just these steps."""
    assert list(blocks(page)) == list(seen), "README.md has other steps, or another order"
    return BLOCK.sub(
        lambda found: f"{found['name']} -->\n```console\n{block(seen[found['name']])}```\n", page
    )


def shape(text: str) -> Iterable[str]:
    """Return the lines of a block without what is another one each time."""
    for line in text.splitlines():
        if line.startswith("  now "):  # rates are shown of a mount that has been there for a while
            continue
        if not line.startswith("$ "):
            for pattern, name in CHANGING:
                line = pattern.sub(name, line)  # noqa: PLW2901 - the same line, with less in it
        yield " ".join(line.split())
