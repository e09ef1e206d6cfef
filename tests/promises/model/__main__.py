"""Random histories until so many steps were taken::

python -m tests.promises.model --steps 20000 [--seed N] [--length 60] [--mounted]
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.promises.model.running import run


def main() -> int:
    """Run from the command line; 1 when a promise was broken."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--steps", type=int, default=20_000)
    words.add_argument("--seed", type=int, default=int(time.time()))
    words.add_argument("--length", type=int, default=60, help="steps of one history at most")
    words.add_argument(
        "--mounted", action="store_true", help="over a real mount, with real servers"
    )
    words.add_argument("--shrink", action="store_true", help="make a failing history shorter")
    told = words.parse_args()
    print(f"seed {told.seed}", flush=True)
    began = time.monotonic()
    tally = run(
        told.steps,
        seed=told.seed,
        length=told.length,
        mounted=told.mounted,
        shrink=told.shrink,
        say=lambda text: print(text, flush=True),
    )
    print(tally)
    print(f"in {time.monotonic() - began:.0f} s; nothing was wrong")
    return 0


if __name__ == "__main__":
    sys.exit(main())
