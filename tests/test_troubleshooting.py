"""docs/troubleshooting.md: every message and event that it explains is one that nebfs has."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/troubleshooting.md").read_text()


@cache
def texts():
    """Every text of the program; the parts of an f-string by themselves."""
    found = set()
    for file in (ROOT / "nebfs").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def rows(section):
    """Return the texts in backquotes of the first column of a section's table."""
    part = PAGE.partition(f"## {section}\n")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("| `")]
    assert lines, section
    return [text for line in lines for text in re.findall(r"`([^`]+)`", line.split(" | ")[0])]


MESSAGES = [
    *rows("What nebfs says when it is started"),
    *rows("What the log, `nebfs status` and `user.nebfs.trouble` say"),
]


@pytest.mark.parametrize("message", MESSAGES)
def test_every_message_is_one_of_the_programs(message):
    for part in filter(None, (part.strip() for part in message.split("…"))):
        assert any(part in text for text in texts()), f"nothing says {part!r} any more"


@pytest.mark.parametrize("event", rows("Events in the log"))
def test_every_event_is_one_of_the_programs(event):
    assert event in texts()


def test_the_other_pages_are_there():
    for name in re.findall(r"\]\((\w+\.md)\)", PAGE):
        assert (ROOT / "docs" / name).is_file()
