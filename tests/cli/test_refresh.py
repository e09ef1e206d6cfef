"""``nebfs refresh``: how it went, in words and as an exit code."""

import pytest

from nebfs.cli.refresh import code_of
from nebfs.daemon.web import as_json

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


NOTHING = {"added": [], "removed": [], "changed": []}


def place(name, **changes):
    found = {what: [{"id": 1, "name": n} for n in names] for what, names in changes.items()}
    return {**GOOD, "name": name, "changes": {**NOTHING, **found}}


@pytest.fixture
def refreshed(answering, invoke):
    """Run ``nebfs refresh`` of paths in a mount whose daemon answers with `answer`."""

    def run(answer, *paths):
        asked = []

        async def answered(request):
            asked.append(request.json())
            return as_json({"refreshed": True, "took": 0.031, "gone": [], **answer})

        mount = answering({("POST", "/v1/refresh"): answered})
        done = invoke("refresh", *(mount / path for path in paths))
        return asked, done.output.replace(str(mount), "MNT").splitlines(), done.exit_code

    return run


def test_one_place_says_what_changed(refreshed):
    answer = {
        "asked": "marketplaces/A",
        "places": [place("A", added=["new", "newer"], removed=["old"], changed=["o\x1b[2Jdd"])],
    }
    asked, said, code = refreshed(answer, "marketplaces/A/x")
    assert asked == [{"path": "marketplaces/A/x"}]
    assert said == [
        "MNT/marketplaces/A: a new list in 31 ms: 2 added, 1 removed, 1 changed",
        "    + new",
        "    + newer",
        "    - old",
        r"    ~ o\x1b[2Jdd",
    ]
    assert code == 0


def test_all_places_name_those_that_changed(refreshed):
    answer = {"asked": "all", "places": [place("A"), place("B", added=["b"])], "gone": [ILL]}
    asked, said, code = refreshed(answer, ".")
    assert asked == [{"path": "."}]
    assert said == [
        "MNT: new lists of 2 places in 31 ms",
        "  marketplace B: 1 added",
        "    + b",
        "MNT: datastore B is not there any more, or not for this user",
    ]
    assert code == 0


def test_a_place_that_is_gone_and_one_that_does_not_answer(refreshed):
    gone = {"kind": "marketplace", "id": 1, "name": "A"}
    _, said, code = refreshed({"asked": "marketplaces/A", "places": [], "gone": [gone]}, "x")
    assert said == ["MNT: marketplace A is not there any more, or not for this user"]
    assert code == 0


def test_a_place_that_does_not_answer(refreshed):
    _, said, code = refreshed({"asked": "datastores/B", "places": [ILL]}, "datastores/B")
    assert said == ["nebfs: MNT: datastore B: no answer"]
    assert code == 4


def test_a_front_end_that_hangs_is_told_and_that_the_last_lists_stay(refreshed):
    trouble = "the front-end did not answer in time (after=20 s)"
    answer = {"refreshed": False, "kind": "TimedOut", "trouble": trouble, "places": [GOOD]}
    _, said, code = refreshed(answer, ".")
    assert said == [f"nebfs: MNT: {trouble}; what was listed before is still shown"]
    assert code == 69


def test_several_paths_are_asked_one_after_the_other(refreshed):
    answer = {"asked": "datastores/B", "places": [place("B")]}
    asked, said, _ = refreshed(answer, "datastores/B", "datastores/C")
    assert [one["path"] for one in asked] == ["datastores/B", "datastores/C"]
    assert len(said) == 2


def test_of_many_changes_some_are_named(refreshed):
    names = [f"app {n}" for n in range(100)]
    answer = {"asked": "x", "places": [place("A", added=names[:15], changed=names)]}
    _, said, _ = refreshed(answer, "x")
    assert said[0].endswith(": 15 added, 100 changed")
    assert (said[15], said[16], said[20]) == ("    + app 14", "    ~ app 0", "    ~ app 4")
    assert said[21:] == ["    and 95 more, which --json names"]
