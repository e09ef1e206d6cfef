"""``nebfs dashboard``: whose mount is meant, and words that make no sense. The rest is in
tests/mounted/test_dashboard.py.
"""

from pathlib import Path

import pytest

from nebfs.daemon import registry
from nebfs.daemon.registry import Registration


@pytest.fixture
def run_dir(tmp_path):
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    return path


def register(run_dir, place):
    registry.register(run_dir, Registration.of_this_process(run_dir, Path(place), source=""))


def test_one_of_several_has_to_be_named(invoke, run_dir):
    done = invoke("dashboard", "--run-dir", run_dir)
    assert done.exit_code == 3
    assert "nothing is mounted" in done.output
    register(run_dir, "/mnt/one")
    done = invoke("dashboard", "--run-dir", run_dir, "--no-browser")
    assert done.exit_code == 69, "it is the one that is meant, and it does not listen"
    assert "no daemon listens" in done.output
    register(run_dir, "/mnt/two")
    done = invoke("dashboard", "--run-dir", run_dir)
    assert done.exit_code == 2
    assert "several are mounted: say which (/mnt/one, /mnt/two)" in done.output


def test_what_is_no_mount_is_told(invoke, run_dir, tmp_path):
    done = invoke("dashboard", tmp_path, "--run-dir", run_dir)
    assert done.exit_code == 3
    assert "is not in a mount of nebfs" in done.output


def test_usage(invoke, run_dir):
    for words in (["--keep", "--stop"], ["--port", "0"], ["--port", "65536"]):
        assert invoke("dashboard", "--run-dir", run_dir, *words).exit_code == 2
    shown = invoke("dashboard", "--help").output
    for word in ("127.0.0.1", "secret", "Ctrl-C", "--no-browser", "--keep"):
        assert word in shown
