"""The same package with a higher version, to see what an upgrade does."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path


def newer(package: Path, made: Path) -> None:
    """Write to `made` what `package` holds, as the version after its own."""
    with tempfile.TemporaryDirectory(prefix="nebfs-newer-") as scratch:
        tree = Path(scratch) / "tree"
        _run("dpkg-deb", "--raw-extract", str(package), str(tree))
        control = tree / "DEBIAN/control"
        head, mark, rest = control.read_text().partition("Version: ")
        version, end, others = rest.partition("\n")
        control.write_text(f"{head}{mark}{version}+next{end}{others}")
        # It is put in once: to pack it small takes longer than to copy it.
        words = ("dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(made))
        _run(*words)


def _run(*words: str) -> None:
    subprocess.run(words, stdout=sys.stderr, check=True)
