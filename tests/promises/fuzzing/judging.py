"""What is promised of any input: an error of ours or an answer, soon, and in bounded memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from importlib import import_module

from structlog.testing import capture_logs

from nebfs.errors import NebfsError

LONGEST = 2.0
"""Seconds of one input; of processor time, as the machine may do other things as well."""

MOST = 512 << 10
"""KiB by which one input may make the process grow. A dictionary of xz may be of 256 MiB."""


def judged(one: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """Return `one` with the bounds checked. Our own errors end here, all others leave."""

    def run(data: bytes) -> None:
        began = time.process_time()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            with capture_logs():  # what is skipped is a line in the log
                one(data)
        except NebfsError as exc:
            str(exc).encode()  # it is logged, and shown
        took = time.process_time() - began
        grew = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert took < LONGEST, f"{len(data)} bytes took {took:.1f} s"
        assert grew < MOST, f"{len(data)} bytes took {grew >> 10} MiB"

    return run


def target(name: str) -> Callable[[bytes], None]:
    """Return what judges an input of this kind."""
    return judged(import_module(f"{__package__}.{name}").one)
