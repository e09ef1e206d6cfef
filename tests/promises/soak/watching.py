"""What the daemon and its fetcher take while they are used: samples of memory and of gauges."""

from __future__ import annotations

import os
import re
import urllib.request
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
_METRIC = re.compile(r"^(nebfs_\w+)(?:\{([^}]*)\})? (\S+)$", re.MULTILINE)
FACTS = ("memory", "descriptors", "threads", "cpu")

GAUGES = {
    "open_files": "nebfs_open_files",
    "open_objects": "nebfs_open_objects",
    "inodes": "nebfs_inodes",
    "used": "nebfs_cache_used_bytes",
    "reserved": "nebfs_cache_reserved_bytes",
    "limit": "nebfs_cache_limit_bytes",
    "evicted": "nebfs_cache_evicted_bytes_total",
    "corrupt": "nebfs_cache_corrupt_blocks_total",
    "faults": "nebfs_cache_faults_total",
    "fetched": "nebfs_fetched_bytes_total",
    "requests": "nebfs_fetcher_requests",
    "restarts": "nebfs_fetcher_restarts_total",
    "reads": "nebfs_reads_total",
    "read_errors": "nebfs_read_errors_total",
}
"""Of a metric with labels: the sum, or what is of the store on disk."""


@dataclass(frozen=True, slots=True)
class Watching:
    """Looks at one mount."""

    daemon: int
    metrics: str
    cache: Path

    def sample(self) -> dict[str, float]:
        """Return all figures of now. Bytes are bytes; OSError: the daemon does not answer."""
        found = self.gauges()
        fetchers = children(self.daemon)
        for name, pids in (("daemon", [self.daemon]), ("fetcher", fetchers)):
            facts = [fact for pid in pids if (fact := process(pid)) is not None]
            for index, what in enumerate(FACTS):
                found[f"{name}_{what}"] = sum(fact[index] for fact in facts)
        # Blocks come and go while they are counted: too much is too much if it stays.
        found["disk"] = min(self.disk() for _ in range(3))
        return found

    def gauges(self) -> dict[str, float]:
        """Return what the daemon says of itself."""
        with urllib.request.urlopen(self.metrics, timeout=60) as answer:
            text = answer.read().decode()
        found = dict.fromkeys(GAUGES, 0.0)
        names = {metric: name for name, metric in GAUGES.items()}
        for metric, labels, value in _METRIC.findall(text):
            if metric in names and 'store="memory"' not in labels:
                found[names[metric]] += float(value)
        return found

    def disk(self) -> int:
        """Return the bytes that the blocks of all objects have on the disk."""
        taken = 0
        for path in self.cache.glob("objects/*/*.dat"):
            try:
                taken += path.stat().st_blocks * 512
            except FileNotFoundError:
                continue
        return taken


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    try:
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def process(pid: int) -> tuple[int, int, int, float] | None:
    """Return the FACTS of a process: bytes of its memory, of which what it shares is divided by
    those who share it, and seconds of CPU. Pages of programs and libraries do not count: they are
    the kernel's to drop, and each process that comes or goes makes a share of them another one.
    """
    home = Path(f"/proc/{pid}")
    try:
        rollup = (home / "smaps_rollup").read_text()
        fields = (home / "stat").read_text().rpartition(") ")[2].split()
        descriptors = len(os.listdir(home / "fd"))
    except OSError:
        return None
    memory = sum(
        int(rollup.partition(f"\n{kind}:")[2].split()[0]) << 10
        for kind in ("Pss_Anon", "Pss_Shmem")
    )
    return memory, descriptors, int(fields[17]), _seconds(fields)


def cpu(pid: int) -> float:
    """Return the seconds of CPU time of a process and of its children that have ended."""
    try:
        return _seconds(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split())
    except OSError:
        return 0.0


def _seconds(fields: list[str]) -> float:
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
