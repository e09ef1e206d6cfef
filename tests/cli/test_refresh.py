"""``nebfs refresh``: how it went, in words and as an exit code."""

import pytest

from nebfs.cli.refresh import code_of

GOOD = {"kind": "marketplace", "name": "A", "healthy": True, "trouble": ""}
ILL = {"kind": "datastore", "name": "B", "healthy": False, "trouble": "no answer"}


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"refreshed": True, "places": [GOOD]}, 0),
        ({"refreshed": True, "places": [GOOD, ILL]}, 4),
        ({"refreshed": False, "kind": "Unreachable", "trouble": "no answer"}, 69),
        ({"refreshed": False, "kind": "TimedOut", "trouble": "late"}, 69),
        ({"refreshed": False, "kind": "Refused", "trouble": "no"}, 77),
        ({"refreshed": False, "kind": "odd"}, 1),
        ({"refreshed": True, "places": "odd"}, 0),
        ({}, 1),
    ],
)
def test_the_exit_code_tells(answer, code):
    assert code_of(answer) == code


def test_nothing_is_mounted(invoke, tmp_path):
    done = invoke("refresh", "--run-dir", tmp_path)
    assert done.exit_code == 3
    assert "nothing is mounted" in done.output
