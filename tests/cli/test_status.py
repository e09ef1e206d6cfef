"""``nebfs status``: what is said of daemons that live, ail, hang and are dead."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nebfs.cli import status
from nebfs.daemon import registry
from nebfs.daemon.registry import Registration
from nebfs.daemon.web import as_json
from tests.cli.conftest import serve_in_thread

HEALTHY = {
    "healthy": True,
    "places": [{"kind": "marketplace", "name": "A", "healthy": True, "trouble": ""}],
    "cache": {"used": 3 << 20, "limit": 10 << 30},
}
DEGRADED = {
    "healthy": False,
    "trouble": "credentials refused",
    "places": [
        {"kind": "marketplace", "name": "A", "healthy": True, "trouble": ""},
        {"kind": "datastore", "name": "[b]\x1b[2J", "healthy": False, "trouble": "no answer"},
    ],
}


@pytest.fixture
def run_dir(tmp_path):
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def daemon(run_dir):
    """Register this process as the daemon of a place, and answer as told on its socket."""
    stops = []

    def start(place, answer):
        own = Registration.of_this_process(run_dir, Path(place), source="http://h:2633/RPC2")
        registry.register(run_dir, own)

        async def answered(request):
            return as_json(answer)

        stops.extend(serve_in_thread(own, {("GET", "/v1/status"): answered}))
        return own

    yield start
    for stop in stops:
        stop()


def test_nothing_is_mounted(invoke, run_dir, tmp_path):
    done = invoke("status", "--run-dir", run_dir)
    assert done.exit_code == 3
    assert "nothing is mounted" in done.output
    done = invoke("status", "--run-dir", tmp_path / "never made", "--json")
    assert done.exit_code == 3
    assert json.loads(done.stdout) == []


def test_all_is_well(invoke, run_dir, daemon):
    own = daemon("/mnt/one", HEALTHY)
    done = invoke("status", "--run-dir", run_dir)
    assert done.exit_code == 0
    head, row = done.output.splitlines()
    assert head.split()[:2] == ["MOUNT", "POINT"]
    assert row.split()[:4] == ["/mnt/one", "healthy", "http://h:2633/RPC2", str(own.pid)]
    assert row.endswith("3.00 MiB of 10.0 GiB")
    done = invoke("status", "--run-dir", run_dir, "--json", "/mnt/one")
    (one,) = json.loads(done.stdout)
    assert one["answer"] == HEALTHY
    assert one["troubles"] == []


def test_a_place_in_trouble_is_named_and_cannot_move_the_cursor(invoke, run_dir, daemon):
    daemon("/mnt/one", DEGRADED)
    done = invoke("status", "--run-dir", run_dir)
    assert done.exit_code == 4
    assert "degraded" in done.output
    assert "1 of 2" in done.output
    assert "/mnt/one: credentials refused" in done.output
    assert r"/mnt/one: datastore [b]\x1b[2J: no answer" in done.output


def test_one_of_several_is_asked_for(invoke, run_dir, daemon):
    daemon("/mnt/one", HEALTHY)
    daemon("/mnt/two", DEGRADED)
    assert invoke("status", "--run-dir", run_dir).exit_code == 4
    done = invoke("status", "/mnt/one", "--run-dir", run_dir)
    assert done.exit_code == 0
    assert "/mnt/two" not in done.output
    assert invoke("status", "/mnt/three", "--run-dir", run_dir).exit_code == 3


def test_a_dead_daemon_is_shown_dead(invoke, run_dir):
    own = Registration.of_this_process(run_dir, Path("/mnt/one"), source="")
    registry.register(run_dir, replace(own, pid_started=1))
    done = invoke("status", "--run-dir", run_dir)
    assert done.exit_code == 4
    assert "dead" in done.output
    assert f"process {own.pid} is gone" in done.output


def test_a_daemon_that_does_not_listen_is_silent(invoke, run_dir):
    registry.register(run_dir, Registration.of_this_process(run_dir, Path("/mnt/one"), source=""))
    done = invoke("status", "--run-dir", run_dir)
    assert done.exit_code == 4
    assert "silent" in done.output
    assert "no daemon listens" in done.output


@pytest.mark.parametrize(
    "answer",
    [
        {"error": "it hurts"},
        {},
        {"healthy": "yes", "places": 5, "cache": []},
        {"healthy": 1, "places": ["x", {}], "cache": {"used": "much"}},
    ],
)
def test_odd_answers_are_never_healthy_and_never_a_traceback(invoke, run_dir, daemon, answer):
    daemon("/mnt/one", answer)
    done = invoke("status", "--run-dir", run_dir)
    assert done.exit_code == 4
    assert "internal" not in done.output


def test_patience_is_bounded():
    assert status.PATIENCE <= 10


BUSY = HEALTHY | {
    "uptime": 100.0,
    "rates": {"served": 2 << 20, "fetched": 1 << 20, "hit_rate": 0.5},
    "cache": {"used": 3 << 20, "limit": 10 << 30, "hits": 3, "kind": "disk", "corrupt": 2},
    "reads": {"reads": 4, "errors": 1, "bytes_read": 1000},
    "fetcher": {"in_flight": 5, "restarts": 0, "fetched_bytes": 500},
    "open_files": 6,
    "places": [
        {"kind": "marketplace", "name": "A", "healthy": True, "objects": 7, "age": 180.0},
        {"kind": "datastore", "name": "[b]", "healthy": True, "objects": 0, "age": None},
    ],
}


def test_one_mount_is_shown_with_all_that_is_known(invoke, run_dir, daemon):
    daemon("/mnt/one", BUSY)
    said = invoke("status", "--run-dir", run_dir, "/mnt/one").output
    assert (
        said.splitlines()[2:]
        == invoke("status", "--run-dir", run_dir, "-l").output.splitlines()[2:]
    )
    assert "3.00 MiB of 10.0 GiB" in said
    assert "4, 75.0 % answered at once" in said
    assert "2.00 MiB/s read, 1.00 MiB/s fetched" in said
    assert "6 files, 5 requests under way" in said
    assert "errors   1 reads failed, 2 rotten blocks" in said
    places = [line.split() for line in said.splitlines()[-2:]]
    assert places == [
        ["A", "marketplace", "healthy", "7", "3", "min", "old"],
        ["[b]", "datastore", "healthy", "0", "never", "had"],
    ]


def test_other_users_are_counted(invoke, run_dir, daemon):
    known = [{"uid": 1, "age": 3, "trouble": ""}, {"uid": 2, "age": 125, "trouble": "no answer"}]
    daemon("/mnt/one", {**HEALTHY, "callers": known})
    said = invoke("status", "--run-dir", run_dir, "-l").output
    assert "users    2 known by their own sessions, asked about within" in said
    assert "; no newer answer about 1" in said
    daemon("/mnt/two", {**HEALTHY, "callers": []})
    assert "nobody else came yet" in invoke("status", "--run-dir", run_dir, "/mnt/two").output
    daemon("/mnt/three", {**HEALTHY, "callers": None})
    assert "users " not in invoke("status", "--run-dir", run_dir, "/mnt/three").output


def test_watching_shows_it_again_until_the_keyboard_interrupts(
    invoke, run_dir, daemon, monkeypatch
):
    daemon("/mnt/one", BUSY)
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(status.time, "sleep", sleep)
    done = invoke("status", "--watch", "--run-dir", run_dir)
    assert done.exit_code == 130
    assert done.output.count("MOUNT POINT") == 2


def test_watched_rates_are_of_the_time_between_two_looks(run_dir):
    own = Registration.of_this_process(run_dir, Path("/mnt/one"), source="")
    old = status.Report(own, "healthy", (), BUSY)
    later = BUSY | {
        "uptime": 102.0,
        "reads": {"bytes_read": 5000},
        "fetcher": {"fetched_bytes": 501},
    }
    new = status.Report(own, "healthy", (), later)
    assert status.between(old, new).answer["rates"] == {"served": 2000.0, "fetched": 0.5}
    assert status.between(None, new) is new
    assert status.between(new, old) is old, "it was started anew"
    other = replace(new, registration=replace(own, pid=1))
    assert status.between(old, other) is other
