"""Seeing to it that memory costs every peer the same.

A virtual machine may give memory that it does not use back to its host (free page reporting, the
virtio balloon). Who touches it next waits for the host: up to two seconds per GiB where this was
found, ten times as long as copying, so that whose turn it was decided what was measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nebfs.units import GIB, MIB
from scripts.benchmarks.processes import run
from scripts.benchmarks.toolbox import program

_ORDER = Path("/sys/module/page_reporting/parameters/page_reporting_order")
"""The smallest block, in powers of two of pages, that is reported to the host."""

_NEVER = ("11", "10")
"""More than the longest block there is, and the longest (4 MiB), for kernels that refuse the first:
reporting is then off, or rare."""

MOST = 12 * GIB
"""What all caches and mounts of a case take together, at most."""


@contextmanager
def kept() -> Iterator[str]:
    """Have free memory stay with this machine while the benchmark runs, if root may say so.

    Yields what was done, for the report.
    """
    before = _ORDER.read_text().strip() if _ORDER.exists() else ""
    done = "as it is"
    try:
        if before:
            done = _switched_off()
        run(program("reader"), "touch", str(min(MOST, _available() // 2) // MIB), limit=120.0)
        yield done
    finally:
        if before:
            with suppress(OSError):
                _ORDER.write_text(before)


def _switched_off() -> str:
    for order in _NEVER:
        with suppress(OSError):
            _ORDER.write_text(order)
            return f"free page reporting at order {order}"
    return "free page reporting is on: first use of memory is measured, too"


def _available() -> int:
    table = Path("/proc/meminfo").read_text()
    return int(table.partition("MemAvailable:")[2].split()[0]) << 10
