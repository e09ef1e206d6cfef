"""A real sshd on loopback for the tests: own host key, own authorized_keys, SFTP only."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

USER = getpass.getuser()


def keygen(path: Path) -> Path:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "canary", "-f", path], check=True
    )
    return path


class Sshd:
    """One host. Files are read as the user who runs the tests."""

    def __init__(
        self, home: Path, client_key: Path, extra: str = "", sees: dict[Path, Path] | None = None
    ) -> None:
        """`sees`: directory -> another one that this host alone has in its place (needs root)."""
        home.mkdir()
        self._sees = dict(sees or {})
        self.home = home
        keygen(home / "host")
        shutil.copy(f"{client_key}.pub", home / "authorized")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self.bridge = f"{USER}@{self.host}"
        (home / "config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {home}/host\n"
            f"AuthorizedKeysFile {home}/authorized\nPidFile {home}/pid\nUsePAM no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
            f"StrictModes no\nLogLevel VERBOSE\nSubsystem sftp internal-sftp\n{extra}\n"
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def known(self) -> str:
        """A line of known_hosts."""
        kind, key, *_ = (self.home / "host.pub").read_text().split()
        return f"[127.0.0.1]:{self.port} {kind} {key}\n"

    @property
    def log(self) -> str:
        return (self.home / "log").read_text(errors="replace")

    @property
    def logins(self) -> int:
        return self.log.count("Accepted publickey")

    def start(self) -> None:
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # it insists
        sshd = shutil.which("sshd") or "/usr/sbin/sshd"
        argv = [sshd, "-D", "-f", self.home / "config", "-E", self.home / "log"]
        for place, real in self._sees.items():
            script = 'mount --bind "$0" "$1" && shift && exec "$@"'
            argv = ["unshare", "--mount", "sh", "-c", script, real, place, *argv]
        self._process = subprocess.Popen(
            argv,
            start_new_session=True,
        )
        end = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < end, self.log
                assert self._process.poll() is None, self.log
                time.sleep(0.02)

    def _tree(self) -> list[int]:
        """It and the processes of its connections."""
        found, i = [self._process.pid], 0
        while i < len(found):
            try:
                children = Path(f"/proc/{found[i]}/task/{found[i]}/children").read_text()
            except OSError:
                children = ""
            found += [int(pid) for pid in children.split()]
            i += 1
        return found

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all of it: STOP makes it silent, CONT wakes it."""
        for pid in self._tree():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self) -> None:
        if self._process is not None:
            self.send(signal.SIGKILL)
            self._process.wait(10)
            self._process = None
