"""``nebfs cache``: maps, and what is shown of answers that are odd."""

import pytest

from nebfs.cli.cache_command import drawn_map
from nebfs.daemon.web import as_json


@pytest.mark.parametrize(
    ("ranges", "drawn"),
    [
        ([], "    "),
        ([[0, 400]], "████"),
        ([[0, 100]], "█   "),
        ([[50, 150]], "▄▄  "),
        ([[100, 101]], " ▁  "),
        ([[0, 99], [399, 400]], "▇  ▁"),
        ([[0, 399]], "███▇"),
    ],
)
def test_a_map_shows_something_as_something_and_all_as_all(ranges, drawn):
    assert drawn_map(ranges, 400, 4) == drawn


def test_a_map_of_an_image_smaller_than_the_line():
    assert drawn_map([[0, 1]], 2, 4) == "██  "
    assert drawn_map([], 0, 3) == "   "


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"objects": "much"},
        {"objects": [{}, 5]},
        {"objects": [{"source": "\x1b[2J", "size": "x"}]},
    ],
)
@pytest.mark.parametrize("word", ["list", "usage"])
def test_odd_answers_are_no_traceback(invoke, answering, answer, word):
    async def handler(request):
        return as_json(answer)

    answering({("GET", "/v1/cache"): handler})
    done = invoke("cache", word)
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output


def test_all_of_several_mounts_is_not_dropped_by_mistake(invoke, answering, monkeypatch):
    from nebfs.daemon import registry

    answering({})
    one = registry.Registration("/a", 1, 1, "", "/s", 0.0)
    monkeypatch.setattr(registry, "running", lambda _: [one, one])
    done = invoke("cache", "drop", "--all")
    assert done.exit_code == 2
    assert "say which" in done.output
