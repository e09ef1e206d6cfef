"""Listing: a datastore of 10,000 images, and a marketplace of 2,000 apps, on fresh mounts."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

from scripts.benchmarks.frontend import frontend
from scripts.benchmarks.peers.everyone import LOW_LEVEL, RCLONES
from scripts.benchmarks.peers.local import Passthrough
from scripts.benchmarks.peers.peer import Peer
from scripts.benchmarks.processes import Mismatch, run
from scripts.benchmarks.rounds import Bench, Figures, Result, alternate, clear

ENTRIES, APPS, SIZE = 10_000, 2_000, 4096
COLD, AGAIN, FIND, MOUNT = "ls -lR s", "again s", "find s", "mount s"


def _timed(*words: str | Path) -> float:
    # Sorting by the locale's rules takes longer than the listing.
    environment = {**os.environ, "LC_ALL": "C"}
    began = time.perf_counter()
    run(*words, env=environment)
    return time.perf_counter() - began


def _fill(directory: Path, count: int) -> None:
    directory.mkdir(parents=True)
    for number in range(count):
        (directory / f"{number:05}").write_bytes(f"{number:<{SIZE}}".encode())


def _compare(directory: Path, files: list[Path], count: int) -> None:
    """Compare how many there are, how long they are, and what some of them hold."""
    sizes = run("find", directory, "-type", "f", "-size", f"{SIZE}c", "-printf", ".")
    if len(sizes) < count:
        raise Mismatch(f"{len(sizes)} of {count} files are listed with their size")
    for number in range(0, count, count // 50):
        if files[number].read_bytes() != f"{number:<{SIZE}}".encode():
            raise Mismatch(f"{files[number]} has wrong bytes")


def _walk(directory: Path) -> Figures:
    return {
        COLD: _timed("ls", "-lR", directory),
        AGAIN: _timed("ls", "-lR", directory),
        FIND: _timed("find", directory, "-size", "+1M"),
    }


def datastore(bench: Bench) -> Result:
    """10,000 images of a datastore, beside 10,000 files through libfuse's example."""
    title = f"ls -lR over {ENTRIES:,} entries of a directory on this machine"
    result = Result("listing", title, COLD, more_is_better=False, baseline=LOW_LEVEL.name)
    store = bench.scratch()
    _fill(store, ENTRIES)

    def once(peer: Peer) -> Figures:
        home = bench.scratch()
        began = time.perf_counter()
        try:
            if isinstance(peer, Passthrough):
                with peer.over(store, bench.loopback, home) as mounted:
                    took = time.perf_counter() - began
                    figures = _walk(mounted.root)
                    _compare(mounted.root, sorted(mounted.root.iterdir()), ENTRIES)
            else:
                with peer.mount(site, home, []) as mounted:
                    took = time.perf_counter() - began
                    directory = mounted.root / "datastores/store"
                    figures = _walk(directory)
                    found = (f for f in directory.iterdir() if f.is_file())
                    _compare(directory, sorted(found), ENTRIES)
        finally:
            clear(home)
        return {**figures, MOUNT: took}

    try:
        with frontend(bench.scratch(), [], store=store, entries=ENTRIES) as (endpoint, _):
            site = dataclasses.replace(bench.loopback, endpoint=endpoint)
            alternate(bench, result, (bench.nebfs, LOW_LEVEL), once)
    finally:
        clear(store)
    return result


def marketplace(bench: Bench) -> Result:
    """2,000 apps with a file each, whose lengths the web server must be asked for."""
    title = f"ls -lR over {APPS:,} apps (nebfs), or files (rclone), of a web server on loopback"
    result = Result("listing-market", title, COLD, more_is_better=False, baseline="")
    files = bench.images[0].path.parent / "many"
    _fill(files, APPS)
    url = f"{bench.loopback.web.url()}/many"

    def once(peer: Peer) -> Figures:
        home = bench.scratch()
        began = time.perf_counter()
        try:
            with peer.mount(site if peer is bench.nebfs else bench.loopback, home, []) as mounted:
                took = time.perf_counter() - began
                ours = peer is bench.nebfs
                directory = mounted.root / ("marketplaces/market" if ours else "many")
                figures = _walk(directory)
                pattern = "*/*.raw" if ours else "*"
                _compare(directory, sorted(directory.glob(pattern)), APPS)
        finally:
            clear(home)
        return {**figures, MOUNT: took}

    apps = [(number, f"{url}/{number - 10_000:05}", "") for number in range(10_000, 10_000 + APPS)]
    try:
        with frontend(bench.scratch(), apps) as (endpoint, _):
            site = dataclasses.replace(bench.loopback, endpoint=endpoint)
            alternate(bench, result, (bench.nebfs, RCLONES[0], RCLONES[1]), once)
    finally:
        clear(files)
    return result
