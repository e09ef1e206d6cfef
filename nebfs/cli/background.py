"""Start a mount as a process of its own, and wait until it says how it went.

The daemon is a fresh process rather than a fork: it inherits nothing but its arguments, the
environment, its log and one end of a pipe. On that pipe it writes one JSON line,
``{"ready": true}`` or ``{"error": text, "exit": code}``; a pipe that closes without one means that
it died.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import nebfs
from nebfs.cli.exits import FAILURE, MOUNT
from nebfs.errors import UserError
from nebfs.private import open_file

GRACE = 5.0  # seconds between asking a child to end and making it
LOG_TAIL_LINES = 10
LOG_TAIL_BYTES = 4096
LONGEST_LINE = 64 << 10


class Announcement:
    """The child's end of the pipe: says once that the mount is ready, or why it is not."""

    def __init__(self, descriptor: int) -> None:
        """Take over `descriptor`, so that no process started later holds the pipe open."""
        os.set_inheritable(descriptor, False)
        self._descriptor: int | None = descriptor

    def ready(self) -> None:
        """Say that the mount answers."""
        self._say({"ready": True})

    def failed(self, message: str, exit_code: int) -> None:
        """Say why it failed, unless `ready` was said before."""
        self._say({"error": message, "exit": exit_code})

    def _say(self, what: dict[str, object]) -> None:
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        # Whoever started us may be gone: the mount is none the worse for it.
        with contextlib.suppress(BrokenPipeError), open(descriptor, "wb") as pipe:
            pipe.write(json.dumps(what).encode() + b"\n")


def start(arguments: Sequence[str], log_file: Path, timeout: float) -> int:
    """Start ``nebfs ARGUMENTS --ready-fd N`` in the background; return its process id when ready.

    `log_file` takes all that it writes. Raises UserError with the child's own message and exit
    code, or, if it died or was not ready within `timeout` seconds, with the end of its log.
    """
    log = _open_log(log_file)
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as pipe, open(log, "ab", buffering=0) as output:
        seen_before = output.tell()
        try:
            # -P: whatever lies in the current directory is not to be imported.
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", "nebfs.cli", *_with_pipe(arguments, writing)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(writing,),
                start_new_session=True,
                env=_environment(),
            )
        finally:
            os.close(writing)
        try:
            said = _one_line(pipe.fileno(), timeout)
        except BaseException as exc:
            _end(child)
            if isinstance(exc, TimeoutError):
                raise UserError(
                    f"the mount was not ready within {timeout:.0f} s and was given up"
                    + _tail(log_file, seen_before),
                    exit_code=MOUNT,
                ) from exc
            raise
    if said.get("ready") is True:
        return child.pid
    _end(child)
    if isinstance(said.get("error"), str):
        code = said.get("exit")
        raise UserError(str(said["error"]), exit_code=code if isinstance(code, int) else FAILURE)
    raise UserError(
        f"the daemon died before it was ready ({_how(child.returncode)})"
        + _tail(log_file, seen_before)
    )


def _with_pipe(arguments: Sequence[str], descriptor: int) -> list[str]:
    command, *rest = arguments
    return [command, "--ready-fd", str(descriptor), *rest]


def _environment() -> dict[str, str]:
    """Return our environment, with this very nebfs importable though ``-P`` hides the directory."""
    home = Path(nebfs.__file__).resolve().parents[1]
    if home.name in {"site-packages", "dist-packages"}:
        return dict(os.environ)
    paths = [str(home), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def _open_log(log_file: Path) -> int:
    try:
        return open_file(log_file, os.O_WRONLY | os.O_APPEND)
    except OSError as exc:
        raise UserError(f"log file {log_file} cannot be opened: {exc.strerror}") from exc


def _one_line(descriptor: int, timeout: float) -> dict[str, object]:
    """Read to the end of one JSON line; an empty object if there is none before the end."""
    until = time.monotonic() + timeout
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    line = b""
    while not line.endswith(b"\n") and len(line) < LONGEST_LINE:
        left = until - time.monotonic()
        if left <= 0 or not waiting.poll(left * 1000):
            raise TimeoutError
        chunk = os.read(descriptor, LONGEST_LINE)
        if not chunk:
            break
        line += chunk
    with contextlib.suppress(ValueError):  # a line that broke off, as if there were none
        said = json.loads(line)
        if isinstance(said, dict):
            return said
    return {}


def _end(child: subprocess.Popen[bytes]) -> None:
    """See to it that `child` is gone. One that reported a failure is already leaving."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(0.5)
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        child.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE)
            return


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _tail(log_file: Path, since: int) -> str:
    """Return the last lines written to the log after byte `since`, ready to be appended."""
    with open(log_file, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(since, size - LOG_TAIL_BYTES))
        lines = file.read(LOG_TAIL_BYTES).decode(errors="replace").splitlines()
    if not lines:
        return f"; nothing was written to {log_file}"
    return "\n".join([f"; the end of {log_file}:", *lines[-LOG_TAIL_LINES:]])
