"""The bars of ``nebfs warm`` and ``nebfs verify`` on a terminal, and lines where there is none."""

from __future__ import annotations

import json

import pytest
import trio

from nebfs.daemon.web import as_lines
from tests.cli.terminal import Terminal

MIB = 1 << 20
NAME = "an image with a long name that says what is in it and more than fits.qcow2"


class Work:
    """A job as a daemon tells of it: it gets on while `going` is set."""

    def __init__(self, *events):
        self.events = events
        self.pause = 0.02
        self.stopped = False

    async def answer(self, request):
        self.asked = json.loads(request.body)
        return as_lines(self._lines())

    async def _lines(self):
        try:
            for event in self.events:
                yield event
                await trio.sleep(self.pause)
        except trio.Cancelled:
            self.stopped = True
            raise


def warming(steps=20, images=1):
    size = 64 * MIB
    yield {"event": "plan", "images": images, "size": size, "here": 0, "left_out": []}
    for n in range(steps):
        at = {"number": 1, "size": size, "here": n * size // steps, "total": n * size // steps}
        yield {"event": "progress", "path": f"datastores/x/{NAME}", "stage": "fetching", **at}


END = [
    {"event": "failed", "path": "datastores/x/other", "reason": "its place does not answer"},
    {"event": "image", "path": f"datastores/x/{NAME}", "verified": "yes", "total": 64 * MIB},
    {"event": "end", "images": 1, "failed": 1},
]


@pytest.fixture
def run(answering, tmp_path):
    """Return a terminal on which a command shows how far the work is."""

    def start(work, *words, columns=80, lines=24, **environment):
        place = answering({("POST", f"/v1/{words[0]}"): work.answer})
        words = [*words, place / "datastores/x" / NAME, "--run-dir", tmp_path / "run"]
        return Terminal(words, columns, lines, tmp_path / "mountinfo", **environment)

    return start


@pytest.mark.parametrize("columns", [80, 120, 40])
def test_a_bar_takes_one_line_however_long_a_name_is(run, columns):
    with run(Work(*warming(), *END), "warm", columns=columns) as terminal:
        terminal.read(lambda: "of 64.0 MiB, " in terminal.text)
        assert terminal.end() == 1
        assert terminal.is_as_it_was()
        said = " ".join(terminal.text.split())
        assert "1 image, 64.0 MiB, of which 0 B is here" in said
        assert "nebfs: datastores/x/other: its place does not answer" in said
        bars = [row for row in terminal.rows if "━" in row or "…" in row]
        assert len(bars) == 1, terminal.text
        assert terminal.scrolled == 0
        assert "64.0 MiB of 64.0 MiB" in bars[0]
        assert bars[0].startswith(("an i", "1/1 "))
        assert ("━" in bars[0], "/s" in bars[0]) == ((columns > 40),) * 2


def test_ctrl_c_stops_the_work_and_leaves_the_terminal_as_it_was(run):
    work = Work(*warming(steps=10_000))
    with run(work, "warm") as terminal:
        terminal.read(lambda: "1/1" in terminal.text)
        terminal.type(b"\x03")
        assert terminal.end() == 130
        assert terminal.is_as_it_was()
        assert "the same command goes on from there" in terminal.text
        assert len([row for row in terminal.rows if "━" in row]) == 1, "a bar was left behind"
        assert "Traceback" not in terminal.text


def test_a_window_that_gets_narrower_gets_a_shorter_bar(run):
    with run(Work(*warming(steps=10_000)), "warm", columns=120) as terminal:
        terminal.read(lambda: "━" in terminal.text)
        terminal.resize(60, 24)
        before = len(terminal.raw)
        terminal.read(lambda: len(terminal.raw) > before + 2000)
        assert max(map(len, terminal.rows)) <= 60


@pytest.mark.parametrize("kind", ["dumb", ""])
def test_a_terminal_that_cannot_draw_gets_lines(run, kind):
    work = Work(*warming(), *END)
    with run(work, "warm", TERM=kind) as terminal:
        assert terminal.end() == 1
        assert b"\x1b[?" not in terminal.raw
        assert b"MiB of 64.0 MiB, " in terminal.raw


def test_verify_draws_a_bar_and_says_the_end_below_it(run):
    size = 64 * MIB
    events = [{"event": "progress", "size": size, "here": n * MIB} for n in range(65)]
    end = {"event": "end", "algorithm": "sha256", "found": "ab", "published": "ab", "same": True}
    work = Work(*events, end)
    work.pause = 0.01
    with run(work, "verify", columns=120) as terminal:
        assert terminal.end() == 0
        assert terminal.is_as_it_was()
        said = " ".join(terminal.text.split())
        assert "64.0 MiB of 64.0 MiB" in said
        assert "it is what was published (sha256 ab)" in said
