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
import trio
from click.testing import CliRunner

from nebfs.cli.main import nebfs_command
from nebfs.cli.mounts import mounted_at
from nebfs.daemon import control, registry

CHECKOUT = Path(__file__).resolve().parents[2]


def serve_in_thread(own, routes):
    """Answer by `routes` on a registration's socket; return what is to be called at the end."""
    stops = []
    ready = threading.Event()

    async def serve():
        async with trio.open_nursery() as nursery:
            await nursery.start(control.serve, Path(own.socket), routes)
            token = trio.lowlevel.current_trio_token()
            stops.append(lambda: token.run_sync_soon(nursery.cancel_scope.cancel))
            ready.set()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    assert ready.wait(20)
    return [*stops, thread.join]


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
def answering(tmp_path, monkeypatch):
    """Be the daemon of a mount at `place`, as far as the mount table tells: ``answering(routes)``
    answers as told, and the words of commands end with ``--run-dir run_dir``.
    """
    place, run_dir, table = tmp_path / "mnt", tmp_path / "run", tmp_path / "mountinfo"
    run_dir.mkdir(mode=0o700)
    table.write_text(f"1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / {place} ro - fuse.nebfs h ro\n")
    monkeypatch.setattr("nebfs.cli.mounts.MOUNTINFO", table)
    monkeypatch.setenv("NEBFS_RUN_DIR", str(run_dir))
    own = registry.Registration.of_this_process(run_dir, place, source="http://h:2633/RPC2")
    registry.register(run_dir, own)
    stops = []

    def start(routes):
        stops.extend(serve_in_thread(own, routes))
        return place

    yield start
    for stop in stops:
        stop()


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
