"""docs/control.md has a section for every question that a daemon answers, and for no other."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

from nebfs.daemon.routes import routes

PAGE = Path(__file__).parents[2] / "docs/control.md"
SECTION = re.compile(
    r"^### `(GET|POST|PUT|DELETE) (/\S+)`\n(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL
)


def sections():
    return {(method, path): text for method, path, text in SECTION.findall(PAGE.read_text())}


def test_every_question_has_a_section():
    house = Mock()
    answered = routes(house, SimpleNamespace(), SimpleNamespace())
    assert set(sections()) == set(answered)


def test_every_section_has_an_example_of_its_question():
    for (method, path), text in sections().items():
        commands = re.findall(r"^\$ (curl (?:.*\\\n)*.*)$", text, re.MULTILINE)
        asked = {
            "GET": lambda words: " -d " not in words,
            "POST": lambda words: " -d " in words,
            "DELETE": lambda words: " -X DELETE " in words,
        }[method]
        urls = [words for words in commands if re.search(rf"http://nebfs{path}(?:[\s?]|$)", words)]
        assert any(map(asked, urls)), (method, path)


def test_the_page_tells_of_every_status_of_an_error():
    from nebfs.daemon.web import _STATUS

    table = PAGE.read_text().partition("### Errors")[2].partition("```")[0]
    for kind, status in _STATUS:
        rows = [row for row in table.splitlines() if row.startswith(f"| {status} ")]
        assert any(f"`{kind.__name__}`" in row for row in rows), (kind, status)
