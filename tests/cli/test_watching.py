"""``nebfs status --watch`` on terminals of several kinds and sizes, and where there is none."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import pytest

from nebfs.cli.terminal import Frame
from nebfs.daemon.web import as_json
from tests.cli.terminal import ALTERNATE, CHECKOUT, START, Terminal

LONG = "a marketplace whose owner likes to say all there is to know of it in its name, 日本語"


def places(number, **changes):
    found = [
        {
            "kind": "marketplace" if n % 2 else "datastore",
            "name": f"place {n}",
            "healthy": True,
            "trouble": "",
            "objects": n,
            "age": 5.0,
        }
        for n in range(number)
    ]
    for n, more in changes.items():
        found[int(n[1:])] |= more
    return found


class Daemon:
    """What the daemon says: it can be changed while it is watched."""

    def __init__(self):
        self.places = places(3)
        self.asked = 0

    async def answer(self, _):
        self.asked += 1
        return as_json(
            {
                "healthy": all(place["healthy"] for place in self.places),
                "trouble": "",
                "places": self.places,
                "uptime": float(self.asked),
                "cache": {"used": 3 << 20, "limit": 10 << 30, "hits": 5, "misses": 5},
                "reads": {"reads": 10, "bytes_read": self.asked << 20},
                "fetcher": {"fetched_bytes": 0, "in_flight": 0},
                "open_files": 1,
            }
        )


@pytest.fixture
def daemon(answering):
    made = Daemon()
    answering({("GET", "/v1/status"): made.answer})
    return made


@pytest.fixture
def watch(daemon, tmp_path):
    """Return a terminal on which it is watched."""

    def start(columns=80, lines=24, **environment):
        words = ["status", "--watch", "--run-dir", tmp_path / "run"]
        return Terminal(words, columns, lines, **environment)

    return start


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (120, 40), (40, 10)])
def test_each_frame_is_drawn_over_the_one_before(watch, daemon, columns, lines):
    daemon.places = places(60, _3={"name": LONG}, _5={"healthy": False, "trouble": LONG * 3})
    with watch(columns, lines) as terminal:
        terminal.read(lambda: terminal.frames >= 5)
        assert terminal.rows[0].startswith("MOUNT POINT")
        assert terminal.scrolled == 0, "it scrolls"
        assert b"\x1b[2J" not in terminal.raw, "it flickers"
        assert b"\x1b[K" not in terminal.raw.partition(b"\x1b[H")[2]
        assert re.fullmatch(r"\.\.\. \d+ more lines than the window has", terminal.rows[-1])
        assert terminal.raw.count(ALTERNATE) == 1
        terminal.type(b"\x03")
        assert terminal.end() == 130
        assert terminal.is_as_it_was()


def test_no_line_is_wrapped_and_long_names_are_cut(watch, daemon):
    daemon.places = places(4, _1={"name": LONG}, _2={"healthy": False, "trouble": LONG * 3})
    with watch() as terminal:
        # Rates are of the time between two looks, so the first has none.
        terminal.read(lambda: "1.00 MiB/s read" in terminal.text)
        rows = terminal.rows
        (head,) = [n for n, row in enumerate(rows) if row.split()[:2] == ["PLACE", "KIND"]]
        shown = [row.split()[0] for row in rows[head + 1 : head + 5]]
        assert shown == ["place", "place", "a", "place"], "a name takes several lines"
        assert rows[head + 1].split()[:4] == ["place", "2", "datastore", "degraded"]
        (cut,) = [row for row in rows if "a marketplace whose" in row and "healthy" in row]
        assert "…" in cut
        assert cut.rstrip().endswith("5 s old")
        (trouble,) = [row for row in rows if "place 2: a marketplace whose" in row]
        assert trouble.endswith("…")
        assert all(row == "" for row in rows[head + 5 :])


def test_the_window_may_change_its_size(watch, daemon):
    daemon.places = places(60)
    with watch(120, 40) as terminal:
        terminal.read(lambda: terminal.frames >= 2)
        terminal.resize(60, 12)
        terminal.read(lambda: terminal.rows[-1].startswith("...") and "MOUNT" in terminal.rows[0])
        before = terminal.frames
        terminal.read(lambda: terminal.frames >= before + 2)
        assert max(map(len, terminal.rows)) <= 60
        terminal.resize(100, 90)
        terminal.read(lambda: "place 59" in terminal.text)
        assert "more lines" not in terminal.text


def test_a_new_size_is_drawn_at_once_and_asks_nothing(monkeypatch):
    """Between two looks, too: a window that is dragged does not stay torn for a second."""
    import os
    import threading

    from nebfs.cli import watching

    looked, drawn = [], []
    monkeypatch.setattr(watching, "can_draw", lambda: True)
    monkeypatch.setattr(watching, "EVERY", 20.0)

    def draw():
        drawn.append(True)
        if len(drawn) == 2:
            raise KeyboardInterrupt
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGWINCH)).start()
        return []

    def look():
        looked.append(True)
        return draw

    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with pytest.raises(KeyboardInterrupt):
        watching.watch(look, lambda _: None)
    assert (len(looked), len(drawn)) == (1, 2)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_the_terminal_as_it_was(watch, number):
    with watch() as terminal:
        terminal.read(lambda: terminal.frames >= 2)
        terminal.signal(number)
        assert terminal.end() == 128 + number
        assert terminal.is_as_it_was()
        assert b"Traceback" not in terminal.raw


def test_no_color_has_no_colours(watch):
    colour = re.compile(rb"\x1b\[[\d;]*3[0-7][\d;]*m")
    with watch() as terminal:
        terminal.read(lambda: terminal.frames >= 2)
        assert colour.search(terminal.raw)
    with watch(NO_COLOR="1") as terminal:
        terminal.read(lambda: terminal.frames >= 2)
        assert not colour.search(terminal.raw)
        assert "healthy" in terminal.text


@pytest.mark.parametrize("kind", ["dumb", ""])
def test_a_terminal_that_cannot_draw_gets_one_frame_after_the_other(watch, kind):
    with watch(TERM=kind) as terminal:
        terminal.read(lambda: terminal.raw.count(b"MOUNT POINT") >= 3)
        assert b"\x1b[?" not in terminal.raw
        assert b"\x1b[H" not in terminal.raw
        assert re.search(rb"^\d\d:\d\d:\d\d\r\n", terminal.raw)
        terminal.type(b"\x03")
        assert terminal.end() == 130


def test_a_pipe_gets_plain_frames(daemon, tmp_path):
    words = ["status", "--watch", "--run-dir", str(tmp_path / "run")]
    with subprocess.Popen(
        [sys.executable, "-c", START, "", *words],
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(CHECKOUT), "TERM": "xterm"},
        text=True,
    ) as process:
        lines = [process.stdout.readline() for _ in range(40)]
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    assert "\x1b" not in "".join(lines)
    assert sum(line.startswith("MOUNT POINT") for line in lines) >= 3


def test_where_nothing_is_mounted_it_says_so_until_something_is(tmp_path):
    with Terminal(["status", "--watch", "--run-dir", tmp_path / "none"]) as terminal:
        terminal.read(lambda: terminal.frames >= 2)
        assert terminal.rows[0].startswith("nothing is mounted by this user: 'nebfs mount ")
    with Terminal(["status", "-w", "/mnt/none", "--run-dir", tmp_path / "none"]) as terminal:
        terminal.read(lambda: terminal.frames >= 2)
        assert terminal.rows[0].startswith("/mnt/none is not mounted; nothing is mounted by ")


def test_a_frame_that_fits_is_whole():
    from rich.console import Console
    from rich.text import Text

    console = Console(width=20, height=3)
    for number, last in [(3, "line 2"), (4, "... 2 more lines th…")]:
        with console.capture() as drawn:
            console.print(Frame(Text(f"line {n}") for n in range(number)))
        assert drawn.get().splitlines()[-1].rstrip() == last
