"""One long run of one target, by hand; 1 or more when it found something (see the package)."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.promises.fuzzing import TARGETS

CORPORA = Path(__file__).parents[1] / "corpora"
SUMS = ["nebfs.content.layers.vhdx_crc"]


def main() -> None:
    """Run until the time is over or something is found; libFuzzer ends the process."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("target", choices=TARGETS)
    words.add_argument("--seconds", type=int, default=300)
    words.add_argument("--found", type=Path, default=Path.cwd(), help="where a finding is written")
    told = words.parse_args()
    try:
        import atheris
    except ImportError:
        sys.exit("a long run needs atheris: pip install nebfs[fuzz]")
    # Arithmetic over every byte has nothing to say of an input's path, and is what takes longest.
    with atheris.instrument_imports(include=["nebfs"], exclude=SUMS):
        from tests.promises.fuzzing.judging import target

        one = target(told.target)
    # New inputs are kept apart from the corpus: only what says something new is worth a file.
    with tempfile.TemporaryDirectory(prefix="nebfs-") as new:
        flags = [f"-max_total_time={told.seconds}", "-rss_limit_mb=2048"]
        # For what hangs: how long an input may take is judged by processor time (judging.py), and
        # instrumented code on a crowded machine is slow. The sums of a vhdx took 27 s of a clock.
        flags += ["-timeout=120"]
        flags += ["-max_len=32768", "-print_final_stats=1", f"-artifact_prefix={told.found}/"]
        atheris.Setup([sys.argv[0], *flags, new, str(CORPORA / told.target)], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
