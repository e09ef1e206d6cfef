"""The Debian package: where each file goes, what dpkg is told, what happens when it is put in."""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from email.utils import formataddr, formatdate, parseaddr
from pathlib import Path
from time import gmtime, strftime

import nebfs
from nebfs.cli.template import template
from scripts.packaging.environment import HOME, needed_libc
from scripts.packaging.lintian import overrides
from scripts.packaging.pages import pages

ROOT = Path(__file__).resolve().parents[2]
NOBODY = ("nebfs maintainers", "nebfs@localhost")
"""Name and address where whoever builds it does not say, which is who answers for what he built."""
COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/nebfs",
    "zsh": "usr/share/zsh/vendor-completions/_nebfs",
    "fish": "usr/share/fish/vendor_completions.d/nebfs.fish",
}
LINKS = {
    "usr/bin/nebfs": f"..{str(HOME).removeprefix('/usr')}/bin/nebfs",
    "usr/sbin/mount.nebfs": f"..{str(HOME).removeprefix('/usr')}/bin/mount.nebfs",
    # mount(8) asks for it by the type that the mount table shows.
    "usr/sbin/mount.fuse.nebfs": "mount.nebfs",
    "usr/share/man/man8/mount.fuse.nebfs.8.gz": "mount.nebfs.8.gz",
}
RELOAD = """\
#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload || true
fi
"""
PRERM = """\
#!/bin/sh
set -e
# An upgrade leaves mounts alone: files are open there. Before a removal they have to end.
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    deb-systemd-invoke stop 'nebfs@*.service' || true
fi
"""
# Settings in /etc/nebfs were written by the administrator, and stay.
POSTRM = (
    RELOAD
    + """\
if [ "$1" = purge ]; then
    rm -rf --one-file-system /var/cache/nebfs /run/nebfs
fi
"""
)
SCRIPTS = {"postinst": RELOAD, "prerm": PRERM, "postrm": POSTRM}
COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2026 the authors of nebfs
License: Apache-2.0
 On Debian systems the text is in /usr/share/common-licenses/Apache-2.0.
Comment:
 The Python packages below /usr/lib/nebfs are other people's. Their licenses stand there in the
 directories whose names end with .dist-info. pyfuse3 (LGPL 2.1 or newer) is used unmodified.
"""


def lay_out(stage: Path, moment: int, completion: Callable[[str], str]) -> None:
    """Put everything but the environment into `stage`; `completion` answers for a shell."""
    documents = stage / "usr/share/doc/nebfs"
    write(documents / "copyright", COPYRIGHT)
    write(documents / "example.toml", template())
    entry = (
        f"nebfs ({nebfs.__version__}) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n"
        f" -- {maintainer(os.environ)}  {formatdate(moment)}\n"
    )
    compress(documents / "changelog.gz", entry)
    for document in (ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))):
        write(documents / document.name, document.read_text())
    for name, page in pages(strftime("%Y-%m-%d", gmtime(moment))).items():
        compress(stage / f"usr/share/man/man{name[-1]}/{name}.gz", page)
    for shell, place in COMPLETIONS.items():
        write(stage / place, completion(shell))
    unit = "nebfs@.service"
    write(stage / "usr/lib/systemd/system" / unit, (ROOT / "scripts/systemd" / unit).read_text())
    write(stage / "usr/share/lintian/overrides/nebfs", overrides())
    for place, target in LINKS.items():
        (stage / place).parent.mkdir(parents=True, exist_ok=True)
        (stage / place).symlink_to(target)
    (stage / "etc/nebfs").mkdir(parents=True)


def control(stage: Path, architecture: str, minor: int) -> str:
    """Return what dpkg reads about the package; `minor` is the 11 of Python 3.11."""
    found = needed_libc(stage)
    libc = f", libc6 (>= {found})" if found else ""
    size = sum(path.lstat().st_size for path in stage.rglob("*") if path.is_file()) // 1024
    return f"""\
Package: nebfs
Version: {nebfs.__version__}
Architecture: {architecture}
Maintainer: {maintainer(os.environ)}
Installed-Size: {size}
Depends: python3 (>= 3.{minor}), python3 (<< 3.{minor + 1}), fuse3, libfuse3-3{libc}
Section: admin
Priority: optional
Description: OpenNebula's disk images as files, fetched as they are read
 Mounts the marketplaces and datastores of an OpenNebula cloud as one read-only
 directory tree. Only what is read is fetched, into a checksummed cache.
"""


def maintainer(environment: Mapping[str, str]) -> str:
    """Return who answers for the package, as Debian's own tools find it: debchange(1).

    DEBEMAIL may have the name in it: ``Ada <ada@example.org>``.
    """
    name, address = parseaddr(environment.get("DEBEMAIL") or environment.get("EMAIL") or "")
    name = environment.get("DEBFULLNAME") or name or NOBODY[0]
    return formataddr((name, address or NOBODY[1]))


def md5sums(stage: Path) -> str:
    """Return what ``dpkg --verify`` compares the installed files with."""
    lines = []
    for path in sorted(stage.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
            lines.append(f"{digest.hexdigest()}  {path.relative_to(stage)}\n")
    return "".join(lines)


def pack(stage: Path, out: Path, moment: int) -> Path:
    """Build the package of `stage` into the directory `out` and return its file."""
    said = subprocess.run(
        ["dpkg", "--print-architecture"], stdout=subprocess.PIPE, text=True, check=True
    )
    architecture = said.stdout.strip()
    minor = int(next((stage / HOME.relative_to("/") / "lib").glob("python3.*")).suffix[1:])
    written, sums = control(stage, architecture, minor), md5sums(stage)
    write(stage / "DEBIAN/control", written)
    write(stage / "DEBIAN/md5sums", sums)
    for name, script in SCRIPTS.items():
        write(stage / "DEBIAN" / name, script)
        (stage / "DEBIAN" / name).chmod(0o755)
    # A directory of tempfile's is closed to others, and would stand for / in the package.
    stage.chmod(0o755)
    package = out / f"nebfs_{nebfs.__version__}_{architecture}.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "--build", str(stage), str(package)],
        env=os.environ | {"SOURCE_DATE_EPOCH": str(moment)},
        stdout=sys.stderr,
        check=True,
    )
    return package


def write(path: Path, words: str) -> None:
    """Write a file that everybody may read, with the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(words)
    path.chmod(0o644)


def compress(path: Path, words: str) -> None:
    """Write a file as gzip -9n does: the same words give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(words.encode(), 9, mtime=0))
    path.chmod(0o644)
