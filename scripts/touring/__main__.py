"""The command line: `scripts/tour --help`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from scripts.touring import cast, page
from scripts.touring.steps import STEPS
from scripts.touring.visit import visit

ROOT = Path(__file__).resolve().parents[2]
README, PICTURE = ROOT / "README.md", ROOT / "docs" / "tour.svg"


def main() -> None:
    """Take the tour and write down what was seen, or only compare."""
    parser = argparse.ArgumentParser(prog="scripts/tour", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if it differs")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nebfs-tour-") as scratch:
        images, home = Path(scratch) / "images", Path(scratch) / "home"
        images.mkdir()
        home.mkdir()
        seen = take(images, home)
    shown = README.read_text()
    if chosen.check:
        sys.exit("\n".join(differences(shown, seen)) or None)
    README.write_text(page.written(shown, seen))
    PICTURE.write_text(cast.cast([step.title for step in STEPS], list(seen.values())))


def take(images: Path, home: Path) -> dict[str, page.Seen]:
    """Take the tour; return what each step showed."""
    with visit(images, home) as demonstration:
        return {step.name: demonstration.see(step) for step in STEPS}


def differences(shown: str, seen: dict[str, page.Seen]) -> list[str]:
    """Return where README.md shows something else than was seen now, but for numbers and names."""
    found = page.blocks(shown)
    wrong = [f"README.md has no block {name!r}" for name in seen if name not in found]
    wrong += [f"the tour has no step {name!r}" for name in found if name not in seen]
    for name, text in found.items():
        if name in seen:
            there, now = list(page.shape(text)), list(page.shape(page.block(seen[name])))
            wrong += [f"{name}: README.md shows {line!r}" for line in there if line not in now]
            wrong += [f"{name}: the tour shows {line!r}" for line in now if line not in there]
    return wrong


if __name__ == "__main__":
    main()
