"""Programs that a run starts: bounded in time, watched with their children, ended by id."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

Words = Sequence[str | Path]

PATIENCE = 60.0
"""Seconds that one run of one peer may take, so that one that hangs costs a minute."""
_TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A peer could not do what the case asks for; the text goes into the table."""


class Mismatch(Exception):
    """A peer served other bytes than the original's. The whole run has failed."""


def run(*words: str | Path, limit: float = PATIENCE, **how: object) -> str:
    """Run a command to its end and return what it printed. Failed: its exit status, or its time."""
    argv = [os.fspath(word) for word in words]
    try:
        process = subprocess.Popen(  # type: ignore[call-overload]
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how
        )
    except OSError as exc:
        raise Failed(str(exc)) from exc
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired as exc:
        _give_up(process)
        raise Failed(f"not finished after {limit:.0f} s") from exc
    except BaseException:
        _give_up(process)
        raise
    if process.returncode:
        last = (err.strip() or out.strip() or "no message").splitlines()[-1]
        raise Failed(f"{Path(argv[0]).name}: exit {process.returncode}: {last}")
    return str(out)


def _give_up(process: subprocess.Popen[str]) -> None:
    # A reader that waits for a filesystem may be deaf to signals until that one has been ended.
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(2)
    for pipe in (process.stdout, process.stderr):
        if pipe:
            pipe.close()


@contextmanager
def running(argv: Words, log: Path, **how: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in the background, in a session of its own, and end it with its children.

    Its own session keeps the terminal's Ctrl-C away from it: things are ended in order, by us.
    """
    with log.open("ab") as out:
        words = [os.fspath(word) for word in argv]
        process = subprocess.Popen(  # type: ignore[call-overload]
            words,
            **{"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out, **how},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes], grace: float = 5.0) -> None:
    """End a process and all its children: SIGTERM first, SIGKILL after `grace` seconds."""
    pids = family(process.pid)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            if pid != process.pid or process.poll() is None:
                os.kill(pid, signal.SIGKILL)
    process.wait()
    if process.stdout:
        process.stdout.close()


def family(root: int) -> list[int]:
    """Return the id of a process and of all that descend from it, as of now."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                children.setdefault(int(_fields(int(entry))[1]), []).append(int(entry))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def _fields(pid: int) -> list[str]:
    # The command's name, in brackets, may hold anything: what follows it begins with the state.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_seconds(root: int) -> float:
    """Return the processor time that a process, its children and its dead children have taken."""
    total = 0
    for pid in family(root):
        with contextlib.suppress(OSError):
            total += sum(int(ticks) for ticks in _fields(pid)[11:15])
    return total / _TICKS


def memory(root: int) -> int:
    """Return the bytes that a process and its children take, shared pages counted once (PSS)."""
    total = 0
    for pid in family(root):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


class Sampler:
    """Asks for a figure now and then, in a thread, and keeps the largest answer."""

    def __init__(self, ask: Callable[[], int], every: float = 0.2) -> None:
        self.largest = 0
        self._ask, self._every = ask, every
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        while True:
            self.largest = max(self.largest, self._ask())
            if self._done.wait(self._every):
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def wait_until(
    true: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, limit: float = 20.0
) -> None:
    """Wait until a program that was started is ready. Failed: it ended, or took too long."""
    deadline = time.monotonic() + limit
    while not true():
        if process.poll() is not None or time.monotonic() > deadline:
            words = log.read_text(errors="replace").strip().splitlines()
            why = words[-1] if words else "without a word"
            state = "ended" if process.poll() is not None else f"not ready after {limit:.0f} s"
            raise Failed(f"{state}: {why}")
        time.sleep(0.005)
