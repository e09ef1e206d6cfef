"""Wheel and sdist, by the build backend that pyproject.toml names."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BACKEND = "hatchling>=1.24"
"""As pyproject.toml has it; it also makes the sdist, which pip cannot."""


def build(out: Path) -> tuple[Path, Path]:
    """Write the wheel and the sdist into `out` and return where they are."""
    with tempfile.TemporaryDirectory(prefix="nebfs-build-") as scratch:
        tools, made = Path(scratch) / "tools", Path(scratch) / "made"
        run("-m", "pip", "install", "--quiet", "--no-input", "--target", str(tools), BACKEND)
        program = (
            f"import sys; sys.path.insert(0, {str(tools)!r}); import hatchling.build as b; "
            f"b.build_wheel({str(made)!r}); b.build_sdist({str(made)!r})"
        )
        made.mkdir()
        run("-c", program)
        wheel, sdist = next(made.glob("*.whl")), next(made.glob("*.tar.gz"))
        return Path(shutil.copy(wheel, out)), Path(shutil.copy(sdist, out))


def run(*words: str) -> None:
    """Run this Python in the root of the project; what it prints goes to stderr."""
    subprocess.run([sys.executable, *words], cwd=ROOT, stdout=sys.stderr, check=True)
