"""The soak from the command line; 1 when a promise was broken."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.promises.soak.run import soak
from tests.promises.soak.troubles import LONG, SHORT
from tests.promises.soak.uses import FEW, MIX

LEAST = 5.0
"""Minutes from which on a run is a long one, with its quiet times."""


def main() -> int:
    """Soak, and print what was found."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--minutes", type=float, default=60.0)
    words.add_argument("--seed", type=int, default=int(time.time()))
    words.add_argument("--report", type=Path, help="where soak.json and the pictures are written")
    told = words.parse_args()
    print(f"seed {told.seed}", flush=True)
    # Ended early, it stops its readers and unmounts as it does at the end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    long = told.minutes >= LEAST
    with tempfile.TemporaryDirectory(prefix="nebfs-") as home:
        report = soak(
            told.minutes,
            told.seed,
            Path(home),
            mix=MIX if long else FEW,
            pace=LONG if long else SHORT,
            report=told.report,
            say=lambda text: print(text, flush=True),
        )
    print(report)
    for finding in report.findings[:40]:
        print(" ", finding)
    return 0 if report.kept else 1


if __name__ == "__main__":
    sys.exit(main())
