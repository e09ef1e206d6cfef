"""A template in JSON, written in OpenNebula's syntax: no value may leave its quotes."""

from __future__ import annotations

import re

from nebfs.marketplaces.template_text import template_text

_VALUE = r'"(?:[^"\\]|\\.)*+"'
_PAIR = rf"[A-Za-z0-9_-]+ = {_VALUE}"
_LINE = re.compile(rf"(?:{_PAIR}|[A-Za-z0-9_-]+ = \[ (?:{_PAIR}(?:, {_PAIR})*+)? \])\n", re.DOTALL)


def one(data: bytes) -> None:
    """The whole text must be assignments, one after the other."""
    text = template_text(data.decode("utf-8", "replace"))
    text.encode()
    at = 0
    while at < len(text):
        found = _LINE.match(text, at)
        assert found is not None, text[at : at + 200]
        at = found.end()
