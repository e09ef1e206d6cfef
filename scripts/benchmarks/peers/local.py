"""What a disk and a filesystem in C make of the same file: the ceiling of warm reads.

libfuse's own examples `passthrough_ll` and `passthrough_hp` hand a local directory through FUSE.
No package has them; they are compiled here from Debian's source package.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.benchmarks.images import Image
from scripts.benchmarks.peers.peer import Mounted, mounting
from scripts.benchmarks.processes import Failed, run
from scripts.benchmarks.sites import Site
from scripts.benchmarks.toolbox import find, kept

READ_AHEAD_KB = "1024"
"""What nebfs sets on its own mount when it is root; with it these two are at their best."""


class Native:
    """The directory of the originals, with no filesystem between."""

    name = "ext4"

    def missing(self) -> str | None:
        """Return None: it is always there."""

    def version(self) -> str:
        """Return nothing: the kernel's version is told anyway."""
        return ""

    @contextmanager
    def mount(
        self, site: Site, home: Path, images: list[Image], tls: bool = False
    ) -> Iterator[Mounted]:
        """Return the originals' own directory."""
        del site, home, tls
        root = images[0].path.parent
        yield Mounted(root, lambda image: image.path, os.getpid())


class Passthrough:
    """One of libfuse's two examples over the directory of the originals.

    From libfuse 3.17 on, passthrough_hp asks the kernel to go past it; --nopassthrough says no to
    that, so that it remains a filesystem. Earlier ones have no such thing.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def _program(self) -> Path:
        return kept() / self.name

    def missing(self) -> str | None:
        """Return why it cannot be run, or None."""
        if not self._program().exists():
            return "not built; --install-peers builds it from libfuse's source package"
        return None

    def version(self) -> str:
        """Return the version of the libfuse that it was built with."""
        return run("pkg-config", "--modversion", "fuse3").strip()

    def _argv(self, source: Path, mnt: Path) -> list[str | Path]:
        if self.name == "passthrough_ll":
            return [self._program(), "-f", "-o", f"source={source},cache=always", mnt]
        argv: list[str | Path] = [self._program(), "--foreground", source, mnt]
        if b"nopassthrough" in self._program().read_bytes():
            argv.insert(1, "--nopassthrough")
        return argv

    @contextmanager
    def mount(
        self, site: Site, home: Path, images: list[Image], tls: bool = False
    ) -> Iterator[Mounted]:
        """Mount the originals' directory, with the kernel's read-ahead that nebfs has."""
        del tls
        with self.over(images[0].path.parent, site, home) as mounted:
            yield mounted

    @contextmanager
    def over(self, source: Path, site: Site, home: Path) -> Iterator[Mounted]:
        """Mount any directory."""
        argv = self._argv(source, home / "mnt")
        with mounting(site, home, argv, lambda root, image: root / image.name) as mounted:
            device = mounted.root.stat().st_dev
            bdi = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
            if os.access(bdi, os.W_OK):
                bdi.write_text(READ_AHEAD_KB)
            yield mounted


def build_passthroughs() -> None:
    """Compile the two examples from the source package of fuse3. Failed: it cannot be had."""
    if all((kept() / name).exists() for name in ("passthrough_ll", "passthrough_hp")):
        return
    if find("apt-get") is None:
        raise Failed("there is no apt-get to fetch the source of fuse3 with")
    place = kept() / "fuse3"
    (place / "lists").mkdir(parents=True, exist_ok=True)
    sources = place / "sources.list"
    sources.write_text(_source_lines())
    options: list[str] = []
    for setting in (
        f"Dir::Etc::sourcelist={sources}",
        "Dir::Etc::sourceparts=/dev/null",
        f"Dir::State::lists={place}/lists",
        f"Dir::Cache={place}",
        "APT::Sandbox::User=root",
    ):
        options += ["-o", setting]
    run("apt-get", *options, "update", limit=120)
    run("apt-get", *options, "source", "--download-only", "fuse3", limit=120, cwd=place)
    archive = max(place.glob("fuse3_*.orig.tar.*[!c]"))
    run("tar", "--strip-components=1", "-xf", archive, limit=60, cwd=place)
    flags = run("pkg-config", "--cflags", "--libs", "fuse3").split()
    for compiler, file in (
        (("gcc", "-O2"), "passthrough_ll.c"),
        (("g++", "-O2", "-std=c++17"), "passthrough_hp.cc"),
    ):
        built = kept() / Path(file).stem
        source = place / "example" / file
        run(*compiler, f"-I{place}", "-o", built, source, *flags, limit=120)


def _source_lines() -> str:
    """Return deb-src lines for the places that this machine has its Debian packages from."""
    form = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)"
    listed = run("apt-get", "indextargets", "--format", form, "Created-By: Packages").split("\n")
    lines = set()
    for line in listed:
        uri, release, component, origin = [*line.split("|"), "", "", ""][:4]
        if component == "main" and origin in ("Debian", "Ubuntu"):
            key = Path(f"/usr/share/keyrings/{origin.lower()}-archive-keyring.gpg")
            signed = f"[signed-by={key}] " if key.exists() else ""
            lines.add(f"deb-src {signed}{uri} {release} {component}\n")
    if not lines:
        raise Failed("apt knows no Debian archive to have the source of fuse3 from")
    return "".join(sorted(lines))
