"""What SIGUSR1 does: write down what the daemon is doing just now, for whoever looks for a hang.

One JSON file beside the control socket, readable by its owner alone; the next one replaces it. It
tells names of files, functions and line numbers, places without what was in their URLs beyond the
path, and numbers: no values of variables, so no secrets.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import structlog
import trio

from nebfs.daemon import registry
from nebfs.daemon.status import Status
from nebfs.daemon.wiring import House

log = structlog.get_logger()

SUFFIX = ".dump"
DEEPEST = 60
"""Frames of one stack that are told, from the innermost outwards."""


def path_of(run_dir: Path, mountpoint: Path) -> Path:
    """Return where the daemon of `mountpoint` writes."""
    return run_dir / f"{registry.name_of(mountpoint)}{SUFFIX}"


async def write(run_dir: Path, mountpoint: Path, house: House, status: Status) -> Path | None:
    """Write the file and say so in the log; None, said there too, if it cannot be written."""
    text = json.dumps(collected(house, status), indent=1) + "\n"
    path = path_of(run_dir, mountpoint)
    try:
        await trio.to_thread.run_sync(_replace, path, text)
    except OSError as exc:
        log.error("dump.failed", file=str(path), error=exc.strerror)
        return None
    log.info("dump.written", file=str(path))
    return path


def collected(house: House, status: Status) -> dict[str, object]:
    """Return everything that is told. Call it on the loop: nothing moves meanwhile."""
    return {
        "time": time.time(),
        "status": status.facts(),
        "open": house.operations.handles.shown(),
        "orders": house.fetcher.outstanding(),
        "tasks": list(_tasks()),
        "threads": _threads(),
    }


def _tasks() -> Iterator[dict[str, object]]:
    """Yield every task of trio with where it is suspended, parents before children."""
    root = trio.lowlevel.current_root_task()
    waiting = [(root, 0)] if root is not None else []
    while waiting:
        task, depth = waiting.pop()
        stack = [_line(frame, number) for frame, number in task.iter_await_frames()]
        yield {"name": task.name, "depth": depth, "stack": stack[-DEEPEST:]}
        for nursery in task.child_nurseries:
            waiting += [(child, depth + 1) for child in nursery.child_tasks]


def _threads() -> list[dict[str, object]]:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    found: list[dict[str, object]] = []
    for ident, innermost in sys._current_frames().items():  # noqa: SLF001 - documented
        stack = [_line(frame, number) for frame, number in traceback.walk_stack(innermost)]
        found.append({"name": names.get(ident, str(ident)), "stack": stack[:DEEPEST][::-1]})
    return found


def _line(frame: FrameType, number: int) -> str:
    return f"{frame.f_code.co_filename}:{number} {frame.f_code.co_qualname}"


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    # Somebody else's file of that name, or a link, is not written through.
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    partial.replace(path)
