"""The command line: `scripts/bench --help`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from nebfs.units import MIB
from scripts.benchmarks.bars import judge
from scripts.benchmarks.images import make_images
from scripts.benchmarks.machine import state, versions
from scripts.benchmarks.memory import kept
from scripts.benchmarks.peers.everyone import everyone, install
from scripts.benchmarks.peers.nebfs import Nebfs
from scripts.benchmarks.processes import Failed
from scripts.benchmarks.registry import CASES, Case
from scripts.benchmarks.report import Report
from scripts.benchmarks.rounds import Bench, Result
from scripts.benchmarks.servers import certificate
from scripts.benchmarks.sites import CONGESTION, SERVER, link, loopback, why_no_link

SIZES = (1024, 256, 256, 256, 256, 1024, 256)
"""MiB: the large image, four that stream, one for each trace (which says how far it reaches)."""
QUICK_SIZES = (256, 64, 64, 64, 64, 1024, 256)


def say(text: str) -> None:
    """Tell how far things are, on stderr: stdout is for the report."""
    print(text, file=sys.stderr, flush=True)


def options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        "scripts/bench", description="Measure nebfs beside other tools on this machine."
    )
    parser.add_argument("cases", nargs="*", metavar="case", help="which cases (--list); else all")
    parser.add_argument("--list", action="store_true", help="name the cases and the peers")
    parser.add_argument(
        "--quick", action="store_true", help="2 runs of the main cases, small images"
    )
    parser.add_argument("--runs", type=int, help="runs of each peer in each case (5)")
    parser.add_argument("--json", metavar="FILE", help="write all samples as JSON; - is stdout")
    parser.add_argument("--svg", metavar="FILE", help="draw the comparison")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables as Markdown")
    parser.add_argument("--verify", action="store_true", help="give nebfs the images' checksums")
    parser.add_argument(
        "--congestion",
        default=CONGESTION,
        metavar="NAME",
        help=f"TCP congestion control at both ends of the link ({CONGESTION})",
    )
    parser.add_argument("--scratch", type=Path, help="where images and caches go (TMPDIR)")
    parser.add_argument("-o", action="append", default=[], help="a setting for nebfs: name=value")
    parser.add_argument(
        "--install-peers", action="store_true", help="install peers that are missing (apt, pip)"
    )
    chosen = parser.parse_args()
    names = [case.name for case in CASES]
    unknown = [name for name in chosen.cases if name not in names]
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)} (there are: {', '.join(names)})")
    return chosen


def show() -> None:
    """Print the cases and the peers, the missing ones with what is missing."""
    for case in CASES:
        reason = why_no_link() if case.needs_link else None
        print(f"{case.name:<18} {case.what}" + (f" (cannot run: {reason})" if reason else ""))
    print()
    for peer in everyone():
        print(f"{peer.name:<18} {peer.missing() or peer.version()}")


def measure(chosen: argparse.Namespace, home: Path) -> Report:
    """Prepare the ground and run the cases. A case that cannot run is in the report with why."""
    report = Report(state(), versions([Nebfs(), *everyone()]))
    wanted = [
        case
        for case in CASES
        if (case.name in chosen.cases if chosen.cases else case.quick or not chosen.quick)
    ]
    root, tls = home / "www", home / "tls"
    root.mkdir()
    tls.mkdir()
    certificate(tls, "127.0.0.1", SERVER)
    say("making images of random bytes")
    sizes = QUICK_SIZES if chosen.quick else SIZES
    images = make_images(root, [size * MIB for size in sizes], digests=chosen.verify)
    runs = chosen.runs or (2 if chosen.quick else 5)
    report.settings = {
        "runs": runs,
        "quick": chosen.quick,
        "verify": chosen.verify,
        "image MiB": sizes[0],
        "nebfs options": chosen.o,
    }
    with ExitStack() as stack:
        report.machine["memory"] = stack.enter_context(kept())
        near = stack.enter_context(loopback(home / "near", root, tls, images))
        far, no_link = None, why_no_link()
        if no_link is None and any(case.needs_link for case in wanted):
            try:
                far = stack.enter_context(link(home / "far", root, tls, images, chosen.congestion))
                report.machine["link, congestion control"] = chosen.congestion
                report.machine["round trip ms"] = round(far.round_trip() * 1e3, 2)
            except Failed as exc:
                no_link = str(exc)
        bench = Bench(home, runs, chosen.quick, images, near, far, Nebfs(*chosen.o), say)
        for case in wanted:
            if case.needs_link and far is None:
                report.not_run[case.name] = no_link or "there is no link"
                continue
            report.results.update({result.case: result for result in _run(case, bench, report)})
    report.machine["load after"] = [round(load, 2) for load in os.getloadavg()]
    report.verdicts = judge(report.results)
    return report


def _run(case: Case, bench: Bench, report: Report) -> list[Result]:
    say(f"{case.name}: {case.what}")
    began = time.monotonic()
    try:
        return case.measure(bench)
    except (Failed, OSError) as exc:
        report.not_run[case.name] = str(exc)
        say(f"  not run: {exc}")
        return []
    finally:
        say(f"  {time.monotonic() - began:.0f} s")


def _interrupted(number: int, _frame: object) -> None:
    sys.exit(128 + number)  # unwinds every `with`, as Ctrl-C does


def main() -> int:
    """Do what the command line says; 1 when somebody served wrong bytes."""
    chosen = options()
    signal.signal(signal.SIGTERM, _interrupted)
    if chosen.install_peers:
        install(say)
    if chosen.list:
        show()
        return 0
    began = time.monotonic()
    home = Path(tempfile.mkdtemp(prefix="nb-", dir=chosen.scratch))
    try:
        report = measure(chosen, home)
    except Failed as exc:
        say(f"scripts/bench: {exc}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    finally:
        shutil.rmtree(home, ignore_errors=True)
    report.settings["took s"] = round(time.monotonic() - began)
    if chosen.json == "-":
        print(json.dumps(report.document(), indent=2))
    else:
        print(report.text())
    if chosen.json and chosen.json != "-":
        Path(chosen.json).write_text(json.dumps(report.document(), indent=2) + "\n")
    if chosen.markdown:
        Path(chosen.markdown).write_text(report.markdown())
    if chosen.svg:
        Path(chosen.svg).write_text(report.svg())
    return 1 if any(result.wrong for result in report.results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
