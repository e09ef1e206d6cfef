"""Real kernel mounts of the demonstration cloud, made with the real command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import pytest
from click.testing import CliRunner

from nebfs.cli.main import nebfs_command
from nebfs.demo.demonstration import PASSWORD, demonstration_cloud
from nebfs.demo.server import serve
from tests.nginx import Nginx

NEBFS = (sys.executable, "-m", "nebfs.cli")

AROUND = (2 << 20) + (768 << 10)
"""Bytes that come at most for a read of 64 KiB, with its block, from a place that seems far away
(nebfs/content/layers/surroundings.py: 10 blocks before it and 12 from it on), as one on loopback
does while the machine is busy."""


def run(*argv, check=True, timeout=60, **kwargs):
    """Run a tool and return what it printed; stderr goes with it into a failure's text."""
    done = subprocess.run(
        [os.fspath(a) for a in argv], capture_output=True, text=True, timeout=timeout, **kwargs
    )
    if check and done.returncode:
        raise AssertionError(f"{argv}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


class Mount:
    """One mounted nebfs, its directories, and what can be done to it."""

    def __init__(self, home: Path, source: str | None, *options: str, auth=f"oneadmin:{PASSWORD}"):
        self.path = home / "mnt"
        self.cache = home / "cache"
        self.run_dir = home / "run"
        for made in (self.path, self.cache, self.run_dir):
            made.mkdir(mode=0o700, exist_ok=True)
        auth_file = home / "auth"
        auth_file.write_text(auth + "\n")
        auth_file.chmod(0o600)
        self.argv = [
            *NEBFS,
            "mount",
            *([source] if source else []),
            self.path,
            "--auth-file",
            auth_file,
            "--cache-dir",
            self.cache,
            "--run-dir",
            self.run_dir,
            *options,
        ]

    def start(self, check=True):
        return run(*self.argv, check=check)

    @property
    def pid(self) -> int:
        return json.loads(next(self.run_dir.glob("*.json")).read_text())["pid"]

    @property
    def log(self) -> str:
        return "".join(p.read_text(errors="replace") for p in self.run_dir.glob("*.log"))

    def status(self) -> dict:
        return json.loads((self.path / ".nebfs/status.json").read_text())

    def refresh(self):
        from nebfs.daemon.control import ask

        socket = next(self.run_dir.glob("*.sock"))
        assert ask(socket, "POST", "/v1/refresh", timeout=30).get("refreshed"), self.log

    def kill(self):
        """kill -9, and wait until the process is gone."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{pid}").exists())

    def stop(self):
        if os.path.ismount(self.path) or not _alive(self.path):
            run(*NEBFS, "umount", self.path, "--run-dir", self.run_dir, check=False)
        if os.path.ismount(self.path) or not _alive(self.path):
            run("umount", "-l", self.path, check=False)

    def app(self, name, market="OpenNebula Public") -> Path:
        return self.path / "marketplaces" / market / name

    def image(self, name, datastore="default") -> Path:
        return self.path / "datastores" / datastore / name


def _alive(path) -> bool:
    try:
        os.statvfs(path)
    except OSError:
        return False
    return True


def wait_until(condition, timeout=20.0):
    """Wait for another process: there is no clock of its that we could turn."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def xattr(path, name) -> str:
    return os.getxattr(path, name, follow_symlinks=False).decode()


DOCUMENTS = {"app.json", "image.tmpl", "vm.tmpl", "service.json", "CHECKSUMS"}


def everything_shown(root: Path) -> str:
    """All that a mount shows to whoever looks: names, attributes, documents, status and log."""
    run_dir = root.parent / "run"
    done = run(*NEBFS, "status", "--run-dir", run_dir, check=False)
    seen = [done.stdout, done.stderr, (root / ".nebfs/status.json").read_text()]
    for top, names, files in os.walk(root):
        for name in [".", *names, *files]:
            node = os.path.join(top, name)
            seen.append(node)
            for attribute in os.listxattr(node, follow_symlinks=False):
                seen += [attribute, xattr(node, attribute)]
            if name in DOCUMENTS:
                seen.append(Path(node).read_text())
    seen += [path.read_text(errors="replace") for path in run_dir.glob("*.log")]
    return "\n".join(seen)


@pytest.fixture(scope="session")
def cloud_root(tmp_path_factory):
    return tmp_path_factory.mktemp("cloud")


@pytest.fixture
def cloud(cloud_root):
    return demonstration_cloud(cloud_root)


@pytest.fixture
def servers(cloud):
    with serve(cloud) as servers:
        yield servers
    assert servers.failures() == []


@pytest.fixture
def home():
    """A directory with a short name: a control socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="nebfs-") as made:
        yield Path(made)


class Mounts:
    """Makes mounts below one directory, and unmounts all of them."""

    def __init__(self, home: Path):
        self.home = home
        self.made = []

    def __call__(self, source, *options, home=None, **kwargs):
        home = home or self.home / f"m{len(self.made)}"
        home.mkdir(exist_ok=True)
        mount = Mount(home, source, *options, **kwargs)
        self.made.append(mount)
        return mount

    def stop(self):
        for mount in self.made:
            mount.stop()


@pytest.fixture
def make_mount(home):
    mounts = Mounts(home)
    yield mounts
    mounts.stop()


@pytest.fixture(scope="module")
def shared(cloud_root):
    """One mount for all tests of a file that only look."""
    cloud = demonstration_cloud(cloud_root)
    with tempfile.TemporaryDirectory(prefix="nebfs-") as home, serve(cloud) as servers:
        mounts = Mounts(Path(home))
        mount = mounts(servers.frontend_url)
        mount.start()
        try:
            yield types.SimpleNamespace(mount=mount, cloud=cloud, servers=servers)
        finally:
            mounts.stop()
    assert servers.failures() == []


@pytest.fixture(scope="module")
def nebfs(shared):
    """Run ``nebfs WORDS`` on that mount, which must exit with `code`."""
    return commands_of(shared.mount)


def commands_of(mount):
    """Return what runs ``nebfs WORDS`` on a mount, which must exit with `code`."""

    def run(*words, code=0):
        words = [str(word) for word in words]
        environment = {"NEBFS_RUN_DIR": str(mount.run_dir)}
        done = CliRunner().invoke(nebfs_command, words, prog_name="nebfs", env=environment)
        assert done.exit_code == code, (done.output, done.exception)
        return done

    return run


@pytest.fixture
def mount(make_mount, servers):
    mount = make_mount(servers.frontend_url)
    mount.start()
    return mount


@pytest.fixture
def tools():
    """The functions of this module, for tests that cannot import it by name."""
    return types.SimpleNamespace(
        run=run,
        wait_until=wait_until,
        xattr=xattr,
        nebfs=NEBFS,
        everything_shown=everything_shown,
    )


@pytest.fixture
def nginx(tmp_path):
    home = tmp_path / "nginx"
    home.mkdir()
    with Nginx(home) as server:
        with open(server.root / "big.raw", "wb") as file:
            file.truncate(4 << 30)
            file.seek(2 << 30)
            file.write(os.urandom(2 << 20))
        yield server
