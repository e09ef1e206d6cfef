"""The command as a user has it: in this process for its words, as real processes for the rest."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner

from nebfs.cli.main import nebfs_command
from nebfs.cli.mounts import mounted_at

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("NEBFS_", "ONE_")):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def logs_as_they_were():
    yield
    structlog.reset_defaults()


@pytest.fixture
def invoke():
    """Run ``nebfs WORDS`` in this process."""

    def run(*words):
        return CliRunner().invoke(nebfs_command, [str(word) for word in words], prog_name="nebfs")

    return run


@pytest.fixture
def any_fuse(monkeypatch, tmp_path):
    """A machine on which FUSE seems to work."""
    (tmp_path / "fuse").touch()
    monkeypatch.setattr("nebfs.cli.checks.DEVICE", tmp_path / "fuse")


class Shell:
    """Runs ``nebfs WORDS`` as a process, with directories of its own."""

    def __init__(self, home):
        self.home = home
        self.mountpoint, self.run_dir = home / "m", home / "run"
        self.mountpoint.mkdir()
        self.run_dir.mkdir(mode=0o700)
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(CHECKOUT),
            "HOME": str(home),
            "NEBFS_RUN_DIR": str(self.run_dir),
            "NEBFS_CACHE_DIR": str(home / "cache"),
        }

    def __call__(self, *words, cwd=None):
        return subprocess.run(
            [sys.executable, "-m", "nebfs.cli", *map(str, words)],
            env=self.environment,
            cwd=cwd or self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def daemon(self, body):
        """Make the daemon's `run` this one: `body` sees settings, mountpoint and ready."""
        place = self.home / "site"
        place.mkdir()
        lines = "\n    ".join(body.splitlines())
        (place / "sitecustomize.py").write_text(
            "import json, os, signal, sys, time\n"
            "from pathlib import Path\n"
            "import nebfs.cli.checks, nebfs.daemon.life\n"
            "from nebfs.errors import *\n"
            "nebfs.cli.checks.DEVICE = Path('/dev/null')\n"
            f"HOME = Path({str(self.home)!r})\n"
            f"def run(settings, mountpoint, ready):\n    {lines}\n"
            "nebfs.daemon.life.run = run\n"
        )
        self.environment["PYTHONPATH"] = f"{place}{os.pathsep}{CHECKOUT}"

    def registrations(self):
        return [json.loads(file.read_bytes()) for file in self.run_dir.glob("*.json")]

    def clean_up(self):
        for one in self.registrations():
            with contextlib.suppress(ProcessLookupError):
                os.kill(one["pid"], signal.SIGKILL)
        while mounted_at(self.mountpoint):
            subprocess.run(["fusermount3", "-uz", self.mountpoint], check=True)


@pytest.fixture
def shell(tmp_path):
    made = Shell(tmp_path)
    yield made
    made.clean_up()


@pytest.fixture(scope="session")
def market():
    """The URL of a public marketplace without appliances."""

    class Empty(BaseHTTPRequestHandler):
        def do_GET(self):
            body = b'{"appliances": []}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()
