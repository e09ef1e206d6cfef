"""A real nginx on loopback, with a log of what it sent. For the tests of several rooms."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

SENT = "$uri $status $body_bytes_sent"


class Nginx:
    """Serves `home`/www; `server` is more of what is in its ``server {}``, `listen` of its socket,
    `log` the form of a line of its log.
    """

    def __init__(self, home: Path, server: str = "", *, listen: str = "", log: str = SENT) -> None:
        self.home = home
        self.root = home / "www"
        self.root.mkdir(exist_ok=True)
        self.log = home / "access.log"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        scratch = "".join(
            f"{kind}_temp_path {home}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        configuration = home / "nginx.conf"
        configuration.write_text(
            f"daemon off; master_process off; pid {home}/pid; error_log {home}/error.log;"
            f"events {{}} http {{ log_format sent '{log}'; access_log {self.log} sent; {scratch}"
            f"sendfile on; server {{ listen 127.0.0.1:{self.port} {listen}; root {self.root};"
            f"{server} }} }}"
        )
        self._process = subprocess.Popen(
            ["nginx", "-e", home / "error.log", "-c", configuration], stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 10
        while not self._answers():
            if time.monotonic() > end:
                self.stop()
                raise AssertionError((home / "error.log").read_text())
            time.sleep(0.02)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(10)

    def bytes_sent(self, uri: str) -> int:
        lines = [line.split() for line in self.log.read_text().splitlines()]
        return sum(int(sent) for where, _, sent in lines if where == uri)
