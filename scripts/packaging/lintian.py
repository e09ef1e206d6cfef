"""lintian, Debian's checker of packages, and what it need not say, with the reason."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from scripts.packaging.environment import HOME

INSIDE = f"[{str(HOME).removeprefix('/')}/lib/*]"
KNOWN = (
    (
        "The package brings a Python environment of its own, and its commands are run by that.",
        (f"unusual-interpreter {HOME}/bin/python [usr/lib/nebfs/bin/*]",),
    ),
    (
        "py3compile knows nothing of it; it is compiled for the place where it will be.",
        (f"package-installs-python-pycache-dir {INSIDE}",),
    ),
    (
        "Wheels are as they were published: to strip what auditwheel has rewritten breaks it.",
        (
            f"unstripped-binary-or-object {INSIDE}",
            f"library-not-linked-against-libc {INSIDE}",
            f"shared-library-lacks-prerequisites {INSIDE}",
            f"unusual-interpreter python {INSIDE}",
        ),
    ),
    (
        "Whoever builds the package for others says who he is by DEBEMAIL.",
        (
            "bogus-mail-host Maintainer nebfs@localhost",
            "bogus-mail-host-in-debian-changelog nebfs@localhost *",
        ),
    ),
)
"""Reasons, and what they excuse: lintian's tag and where it finds it."""


def overrides() -> str:
    """Return the file that tells lintian."""
    lines = []
    for reason, excused in KNOWN:
        lines += [f"# {reason}", *(f"nebfs: {tag}" for tag in excused)]
    return "\n".join(lines) + "\n"


def ask(package: Path) -> None:
    """Have lintian, where it is installed, look at `package`. Exits with what it says."""
    if shutil.which("lintian") is None:
        print("lintian is not installed, and was not asked", flush=True)
        return
    words = ("lintian", "--fail-on", "error,warning", "--allow-root", str(package))
    said = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    if said.returncode:
        sys.exit(f"lintian says:\n{said.stdout}")
    print("lintian has nothing to say", flush=True)
