"""What must be there before anything is measured: compiled programs, and a place to keep them.

The C programs of this package and the examples of libfuse are compiled once and kept, with the
environment of the newest rclone, in a directory of the user's cache: they are no part of the
project's own environment.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from scripts.benchmarks.processes import Failed, run

HERE = Path(__file__).parent


def kept() -> Path:
    """Return the directory of what was built; NEBFS_BENCH_DIR names another one."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    place = Path(os.environ.get("NEBFS_BENCH_DIR") or Path(cache, "nebfs-bench"))
    place.mkdir(parents=True, exist_ok=True)
    return place


def program(name: str) -> Path:
    """Return one of this package's C programs, compiled when it has changed."""
    source = HERE / f"{name}.c"
    mark = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    built = kept() / f"{name}-{mark}"
    if not built.exists():
        if shutil.which("gcc") is None:
            raise Failed("gcc is missing")
        unfinished = built.with_suffix(f".{os.getpid()}")
        run("gcc", "-O2", "-Wall", "-o", unfinished, source)
        unfinished.replace(built)
    return built


def find(command: str) -> str | None:
    """Return where a command is; ordinary users have no sbin in their PATH."""
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    return shutil.which(command, path=path)
