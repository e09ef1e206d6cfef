"""The state of the machine during a run, without which no figure means anything."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from scripts.benchmarks.peers.peer import Peer
from scripts.benchmarks.processes import Failed, run


def state() -> dict[str, object]:
    """Return what can be told of hardware, kernel, load and libraries."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", ""),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory MiB": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "load": [round(load, 2) for load in os.getloadavg()],
        "user": "root" if os.geteuid() == 0 else "not root",
        "commit": _quietly("git", "-C", Path(__file__).parent, "describe", "--always", "--dirty"),
    }


def versions(peers: Iterable[Peer]) -> dict[str, str]:
    """Return the versions of everything that takes part; a peer that is missing has none."""
    found = {"python": platform.python_version()}
    for library in ("pyfuse3", "trio", "aiohttp"):
        found[library] = version(library)
    found["curl"] = _quietly("curl", "--version").partition(" (")[0].removeprefix("curl ")
    found["openssl"] = _quietly("openssl", "version").removeprefix("OpenSSL ")
    found["libfuse"] = _quietly("pkg-config", "--modversion", "fuse3")
    for peer in peers:
        if peer.missing() is None:
            try:
                found[peer.name] = peer.version()
            except (Failed, IndexError) as exc:
                found[peer.name] = f"unknown ({exc})"
    return {name: text for name, text in found.items() if text}


def _quietly(*words: str | Path) -> str:
    try:
        return run(*words, limit=10).strip().partition("\n")[0]
    except Failed:
        return ""


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
