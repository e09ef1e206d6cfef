"""``nebfs warm``: what is asked, and how it is told; tests/mounted/test_commands.py has it done."""

import json

import pytest

from nebfs.daemon.web import as_lines
from nebfs.errors import UserError

PLAN = {"event": "plan", "images": 2, "size": 4 << 20, "here": 1 << 20, "left_out": []}
NEWS = {"event": "progress", "path": "d/a", "number": 1, "size": 1, "here": 1, "total": 2 << 20}


@pytest.fixture
def told(answering):
    """Answer with these lines; return the mount and what was asked."""
    asked = []

    def tell(*lines):
        async def handler(request):
            asked.append(request.json())

            async def said():
                for line in lines:
                    if isinstance(line, Exception):
                        raise line
                    yield line

            return as_lines(said())

        return answering({("POST", "/v1/warm"): handler}), asked

    return tell


def test_all_paths_go_to_their_daemon_in_one_question(invoke, told):
    place, asked = told(PLAN, {"event": "image", "path": "d/a", "verified": "yes"})
    done = invoke("warm", "-r", "--rate", "20M/s", place / "d/a", place / "e")
    assert done.exit_code == 0, done.output
    assert asked == [{"paths": ["d/a", "e"], "recursive": True, "rate": 20 << 20}]
    assert "2 images, 4.00 MiB, of which 1.00 MiB is here" in done.output
    assert "d/a: all of it is here and is what was published" in done.output


def test_failures_and_what_is_left_out_are_told_and_exit_with_1(invoke, told):
    left = [{"path": "d/b", "reason": "it is here"}]
    failed = {"event": "failed", "path": "d/\x1b[2J", "reason": "no answer"}
    place, _ = told(PLAN | {"left_out": left}, failed)
    done = invoke("warm", place / "d")
    assert done.exit_code == 1
    assert "left out: d/b: it is here" in done.output
    assert r"d/\x1b[2J: no answer" in done.output


def test_that_it_cannot_fit_is_an_error(invoke, told):
    place, _ = told(UserError("that is 4 GiB, and the cache has room for 1 GiB"))
    done = invoke("warm", place / "d")
    assert done.exit_code == 1
    assert "has room for 1 GiB" in done.output


def test_json_is_what_the_daemon_says(invoke, told):
    place, _ = told(PLAN, NEWS)
    done = invoke("warm", "--json", place / "d")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [PLAN, NEWS]


def test_without_a_terminal_a_line_now_and_then_tells_how_far_it_is(invoke, told, monkeypatch):
    monkeypatch.setattr("nebfs.cli.progress.EVERY", 0.0)
    place, _ = told(PLAN, NEWS)
    assert "1/2 a: 2.00 MiB of 4.00 MiB, " in invoke("warm", place / "d").output


def test_an_interrupted_one_says_how_to_go_on(invoke, answering, monkeypatch):
    def follow(*_, **__):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("nebfs.daemon.control.follow", follow)
    done = invoke("warm", answering({}) / "d")
    assert done.exit_code == 130
    assert "the same command goes on from there" in done.output
