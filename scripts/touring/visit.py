"""The demonstration as a newcomer meets it, and a terminal in which its tour is typed."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scripts.touring.steps import Step

COLUMNS, LINES = 120, 40
"""Of the terminal: as wide as a table with the names of temporary directories in it."""
PATIENCE = 120.0
"""Seconds for the demonstration to be ready, and for each command."""
PLACE = "/var/tmp"  # noqa: S108 - a directory of its own is made there
"""Where the demonstration is, wherever this machine has its temporary files: as long a name."""
WAY_IN = re.compile(r"^ +(export NEBFS_RUN_DIR=.*; cd .*)$", re.MULTILINE)


@dataclass(slots=True)
class Visit:
    """A running demonstration. `way` is what leads to where we stand; its first part is what the
    demonstration tells people to type in another shell.
    """

    way: str
    environment: Mapping[str, str]

    def see(self, step: Step) -> list[tuple[str, str]]:
        """Type the commands of `step`; return each with what it shows, colours and all."""
        return [(command, self._type(command)) for command in step.commands]

    def _type(self, command: str) -> str:
        """Type one command. AssertionError: it failed, or does not end."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", LINES, COLUMNS, 0, 0))
        shell = subprocess.Popen(
            ["bash", "-c", f"{self.way} && {command}"],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        try:
            shown = _read(ours, shell)
        finally:
            os.close(ours)
        assert shell.wait() == 0, f"{command}: exit code {shell.returncode}\n{shown}"
        if command.startswith("cd "):
            self.way += f" && {command}"
        return shown


@contextmanager
def visit(directory: Path, home: Path) -> Iterator[Visit]:
    """Start ``nebfs demo --keep``, with its images in `directory`; end it however the visit ends.

    `home` is the visitor's home directory. AssertionError: it did not start, or did not end well.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("NEBFS_")}
    environment = kept | {"HOME": str(home), "LC_ALL": "C.UTF-8", "TERM": "xterm-256color"}
    environment["TMPDIR"] = PLACE
    for size in ("COLUMNS", "LINES"):  # it is the terminal that tells
        environment.pop(size, None)
    # As of a checkout whose programs are not in the PATH of people.
    programs = str(Path(sys.executable).parent)
    places = environment.get("PATH", os.defpath).split(":")
    environment["PATH"] = ":".join(place for place in places if place != programs)
    said = home / "demo.log"
    with said.open("wb") as log:
        demonstration = subprocess.Popen(
            [sys.executable, "-m", "nebfs.cli", "demo", "--keep", "--directory", str(directory)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + PATIENCE
        while not (found := WAY_IN.search(said.read_text())):
            assert demonstration.poll() is None, said.read_text()
            assert time.monotonic() < until, said.read_text()
            time.sleep(0.05)
        yield Visit(found[1], environment)
    except BaseException:
        demonstration.send_signal(signal.SIGINT)
        demonstration.wait(PATIENCE)
        raise
    # The tour's last command has unmounted: the demonstration ends by itself.
    code = demonstration.wait(PATIENCE)
    assert code == 0, f"the demonstration ended with {code}\n{said.read_text()}"


def _read(terminal: int, shell: subprocess.Popen[bytes]) -> str:
    shown, until = bytearray(), time.monotonic() + PATIENCE
    while True:
        left = until - time.monotonic()
        if left < 0 or not select.select([terminal], [], [], left)[0]:
            os.killpg(shell.pid, signal.SIGKILL)
            raise AssertionError(f"no end after {PATIENCE:.0f} s\n{shown.decode(errors='replace')}")
        try:
            shown += os.read(terminal, 65536)
        except OSError:  # EIO: nobody has the other end any more
            return shown.decode().replace("\r\n", "\n")
