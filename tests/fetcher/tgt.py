"""A real iSCSI target on loopback: a tgtd of our own, with its own port and control socket."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAMS = ("qemu-storage-daemon", "tgtadm", "tgtd")
PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
START = 30.0  # seconds that it may take on a busy machine; it takes 0.1
PREFIX = "iqn.2003-01.org.example:"
USER, PASSWORD = "one", "canary-chap-1"  # of at least 12 letters, as RFC 7143 wants


class Tgt:
    """A tgtd in `root`. What was configured is there again after a restart."""

    def __init__(self, root: Path, host: str = "127.0.0.1") -> None:
        self.root = root
        self.host = host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, 0), family=family) as probe:
            self.port = probe.getsockname()[1]
        self._environment = {"PATH": PATH, "TGT_IPC_SOCKET": str(root / "control")}
        self._process: subprocess.Popen[bytes] | None = None
        self._words: list[tuple[str, ...]] = []
        self._targets = 0

    @property
    def portal(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        with (self.root / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["tgtd", "-f", "-C", "1", "--iscsi", f"portal={self.portal}"],
                stdout=log,
                stderr=log,
                env=self._environment,
            )
        end = time.monotonic() + START
        while self._tgtadm("--op", "show", "--mode", "sys", check=False) is None:
            assert self._process.poll() is None, (self.root / "log").read_text()
            assert time.monotonic() < end, "tgtd did not start"
            time.sleep(0.02)
        for words in self._words:
            self._tgtadm(*words)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def target(self, name: str, *, user: str = "", password: str = "", initiator: str = "") -> str:
        """Make a target; return its name. Its LUN 0 is a controller, as always with tgt."""
        self._targets += 1
        tid = ("--tid", str(self._targets))
        self._do("--op", "new", "--mode", "target", *tid, "-T", PREFIX + name)
        whose = ("--initiator-name", initiator) if initiator else ("-I", "ALL")
        self._do("--op", "bind", "--mode", "target", *tid, *whose)
        if user:
            account = ("--mode", "account", "--user", user)
            self._do("--op", "new", *account, "--password", password)
            self._do("--op", "bind", *account, *tid)
        return PREFIX + name

    def unit(self, lun: int, data: bytes | Path, *options: str, **params: str) -> Path:
        """Give the target that was made last a unit with these bytes; return its file."""
        path = data
        if not isinstance(path, Path):
            path = self.root / f"disk-{self._targets}-{lun}"
            path.write_bytes(data)
        unit = ("--mode", "logicalunit", "--tid", str(self._targets), "--lun", str(lun))
        self._do("--op", "new", *unit, "-b", str(path), *options)
        if params:
            text = ",".join(f"{name}={value}" for name, value in params.items())
            self._do("--op", "update", *unit, "--params", text)
        return path

    def address(self, target: str, lun: int = 1) -> str:
        return f"iscsi://{self.portal}/{target}/{lun}"

    def read_bytes(self, lun: int = 1) -> int:
        """How many bytes the open sessions with the target made last have read from a unit."""
        said = self._tgtadm("--op", "stat", "--mode", "target", "--tid", str(self._targets))
        rows = [line.split() for line in (said or "").splitlines()[1:]]
        return sum(int(row[5]) for row in rows if row and row[1] == str(lun))

    def sessions(self) -> list[str]:
        """The initiators that are logged in."""
        return re.findall(
            r"Initiator: (\S+)", self._tgtadm("--op", "show", "--mode", "target") or ""
        )

    def _do(self, *words: str) -> None:
        self._tgtadm(*words)
        self._words.append(words)

    def _tgtadm(self, *words: str, check: bool = True) -> str | None:
        done = subprocess.run(
            ["tgtadm", "-C", "1", "--lld", "iscsi", *words],
            capture_output=True,
            text=True,
            timeout=START,
            env=self._environment,
        )
        if done.returncode:
            assert not check, f"tgtadm {words}: {done.stderr}"
            return None
        return done.stdout


@contextlib.contextmanager
def serving(host: str = "127.0.0.1") -> Iterator[Tgt]:
    """Run one."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    assert not missing, f"{', '.join(missing)} missing: scripts/install-needs --tests"
    with tempfile.TemporaryDirectory(prefix="nebfs-tgt-") as root:
        server = Tgt(Path(root), host)
        try:
            server.start()
            yield server
        finally:
            server.kill()


@pytest.fixture
def tgt() -> Iterator[Tgt]:
    """One of this test."""
    with serving() as server:
        yield server
