"""The virtual environment of the Debian package, made in one place to be used in another.

A virtual environment knows where it is: in the first lines of its programs, in pyvenv.cfg, in byte
code, and in what was compiled for it. Here each of these says where the package will put it, and
`traces` finds what still does not.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HOME = Path("/usr/lib/nebfs")
"""Where it is once the package is installed."""
SYSTEM_PYTHON = "/usr/bin/python3"
EXTRAS = "s3,ssh,restic"
"""All that nebfs can read: whoever installs the package cannot add to it with pip."""
PROGRAMS = ("nebfs", "mount.nebfs")
PYTHON = frozenset({"python", "python3"})


def make_environment(stage: Path, wheel: Path, scratch: Path) -> None:
    """Make the environment with `wheel` and what it needs, to stand at HOME once `stage` is /."""
    place = stage / HOME.relative_to("/")
    run(SYSTEM_PYTHON, "-m", "venv", "--without-pip", str(place))
    # A build directory of our own, so that its name can be looked for afterwards.
    (scratch / "tmp").mkdir()
    run(
        *(sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), "install"),
        *("--quiet", "--no-input", "--no-compile", "--no-cache-dir", f"{wheel}[{EXTRAS}]"),
        TMPDIR=str(scratch / "tmp"),
        # Debugging information, which would name the directory of the build, is left out.
        CFLAGS="-O2 -g0",
        LDFLAGS="-Wl,-s",
    )
    shutil.rmtree(scratch / "tmp")
    settle(stage)


def settle(stage: Path) -> None:
    """Make everything in the environment say that it is at HOME, and take out what nobody uses."""
    place = stage / HOME.relative_to("/")
    minor = next((place / "lib").glob("python3.*"))
    packages = minor / "site-packages"
    for program in (place / "bin").iterdir():
        if program.name in PROGRAMS:
            relocate(program, str(place), str(HOME))
        elif program.name not in {*PYTHON, minor.name}:
            program.unlink()
    settings = place / "pyvenv.cfg"
    kept = (line for line in settings.read_text().splitlines() if not line.startswith("command"))
    settings.write_text("\n".join(kept) + "\n")
    # The wheel was a file of this machine; where it was is of no use on another one.
    for origin in packages.glob("*.dist-info/direct_url.json"):
        origin.unlink()
        record = origin.with_name("RECORD")
        lines = record.read_text().splitlines(keepends=True)
        record.write_text("".join(one for one in lines if "/direct_url.json," not in one))
    shutil.rmtree(place / "include", ignore_errors=True)
    for tests in [*packages.rglob("tests"), *packages.rglob("_tests")]:
        if tests.is_dir():
            shutil.rmtree(tests)
    for library in packages.rglob("*.so*"):
        library.chmod(0o644)  # some wheels have it as a program
    run(
        *(str(place / "bin" / "python"), "-m", "compileall", "-q", "-j", "0"),
        # Not by date: whatever a tool did to the dates, no program of root's writes below /usr.
        *("--invalidation-mode", "unchecked-hash"),
        *("-s", str(stage), "-p", "/", str(packages)),
    )
    # Within /usr links are relative (Debian's policy, 10.5); from here on it runs where it belongs.
    for link in (place / "bin").iterdir():
        if link.is_symlink() and (target := link.readlink()).is_relative_to("/usr"):
            link.unlink()
            link.symlink_to(os.path.relpath(target, HOME / "bin"))


def needed_libc(stage: Path) -> str:
    """Return the newest version of the C library that something in `stage` asks for, or nothing."""
    asked = set()
    for path in (stage / HOME.relative_to("/")).rglob("*.so*"):
        if path.is_file():
            asked |= {int(minor) for minor in re.findall(rb"\0GLIBC_2\.(\d+)", path.read_bytes())}
    return f"2.{max(asked)}" if asked else ""


def relocate(program: Path, before: str, after: str) -> None:
    """Have the first line of `program` name the Python below `after`."""
    first, newline, rest = program.read_text().partition("\n")
    program.write_text(first.replace(before, after) + newline + rest)


def traces(tree: Path, *places: str) -> Iterator[Path]:
    """Yield each file or link below `tree` in which one of the `places` of the build stands."""
    wanted = [place.encode() for place in places]
    for directory, directories, files in os.walk(tree):
        for name in (*files, *directories):
            path = Path(directory, name)
            if path.is_symlink():
                content = os.fsencode(os.readlink(path))
            elif path.is_file():
                content = path.read_bytes()
            else:
                continue
            if any(place in content for place in wanted):
                yield path


def run(*words: str, **environment: str) -> None:
    """Run a command with no settings of Python or pip for this user; its output is on stderr."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(words, env=inherited | environment, stdout=sys.stderr, check=True)
