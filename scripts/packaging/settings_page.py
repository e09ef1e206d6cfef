"""nebfs.toml(5), made from the file that `nebfs config template` writes."""

from __future__ import annotations

import re
from collections.abc import Iterator

import nebfs
from nebfs.cli.template import template
from scripts.packaging import roff

GROUP = re.compile(r"# --- (?P<title>.+) ---")
TABLE = re.compile(r"\[(?P<name>[\w.]+)\]")
DESCRIPTION = """\
A mount reads the settings of the file that its --config names; the service nebfs@NAME reads
/etc/nebfs/NAME.toml. The file is TOML. What follows is every setting with its default, or with an
example where it has none."""


def settings_page(date: str) -> str:
    """Return the page of the file of settings."""
    head, *rest = re.split(r"\n\s*\n", template().strip())
    return "".join(
        (
            roff.head("nebfs.toml", 5, nebfs.__version__, date),
            roff.section("Name", "nebfs.toml \\- settings of one nebfs mount\n"),
            roff.section("Description", roff.paragraphs(f"{DESCRIPTION}\n\n{_words(head)}")),
            roff.section("Settings", "".join(_blocks(rest))),
            roff.section("See also", "nebfs(1), nebfs\\-config(1), nebfs\\-mount(1)\n"),
        )
    )


def _blocks(blocks: list[str]) -> Iterator[str]:
    for block in blocks:
        lines = block.splitlines()
        comments = [line for line in lines if line.startswith("# ")]
        if match := GROUP.fullmatch(lines[0]):
            yield f".SS {roff.quoted(match['title'])}\n"
            continue
        settings = [line for line in lines if line not in comments]
        tables = [match for line in settings if (match := TABLE.fullmatch(line))]
        if tables:
            words = roff.paragraphs(_words("\n".join(comments)))
            yield roff.subsection(tables[0].group(), words)
            yield from (roff.literal(line[1:]) for line in settings if line.startswith("#"))
        else:
            term = " ".join(line.removeprefix("#") for line in settings)
            yield roff.entry(term, roff.text(_words("\n".join(comments))))


def _words(comments: str) -> str:
    return " ".join(line.removeprefix("# ") for line in comments.splitlines())
