"""The command line: `scripts/package --help`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts.packaging import check, debian, environment, wheels


def main() -> None:
    """Build, say where, and check if that is wanted."""
    parser = argparse.ArgumentParser(prog="scripts/package", description=__doc__)
    parser.add_argument("--out", type=Path, default=wheels.ROOT / "dist", help="where to, ./dist")
    parser.add_argument("--check", action="store_true", help="try it in a fresh Debian (as root)")
    chosen = parser.parse_args()
    os.umask(0o022)
    out = chosen.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    wheel, sdist = wheels.build(out)
    package = build(wheel, out)
    for made in (wheel, sdist, package):
        print(made)
    if chosen.check:
        sys.exit(check.in_namespaces(package))


def build(wheel: Path, out: Path) -> Path:
    """Build the Debian package of `wheel`."""
    moment = int(os.environ.get("SOURCE_DATE_EPOCH") or last_change())
    with tempfile.TemporaryDirectory(prefix="nebfs-package-") as scratch:
        stage, rest = Path(scratch) / "stage", Path(scratch) / "rest"
        stage.mkdir()
        rest.mkdir()
        environment.make_environment(stage, wheel, rest)
        debian.lay_out(stage, moment, completion)
        if left := [*environment.traces(stage, scratch, str(wheels.ROOT))]:
            names = "\n".join(str(path.relative_to(stage)) for path in left)
            sys.exit(f"the place of the build stands in these files:\n{names}")
        return debian.pack(stage, out, moment)


def completion(shell: str) -> str:
    """Return what `nebfs completion SHELL` writes."""
    words = [sys.executable, "-m", "nebfs.cli", "completion", shell]
    return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout


def last_change() -> str:
    """Return when the last change was made, in seconds: the same source gives the same package."""
    words = ["git", "-C", str(wheels.ROOT), "log", "-1", "--format=%ct"]
    return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
