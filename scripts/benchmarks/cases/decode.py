"""A pass over compressed images: our decoders beside the formats' own command-line tools."""

from __future__ import annotations

import mmap
import os
import time
from dataclasses import dataclass
from pathlib import Path

from nebfs.content.decoders import decoder
from nebfs.units import MIB
from scripts.benchmarks.disks import make_disk
from scripts.benchmarks.processes import Mismatch, run
from scripts.benchmarks.rounds import Bench, Contestant, Figures, Result, alternate
from scripts.benchmarks.toolbox import find

RATE, CPU = "MiB/s", "CPU s/GiB"
DISK, QUICK_DISK = 256 * MIB, 96 * MIB
"""A disk is decoded in seconds, by the slowest in half a minute."""

SLOWEST = 300.0
"""Seconds that packing a disk may take."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to compress an image: what our decoder calls it, and the tool and its words."""

    name: str
    compression: str
    tool: str
    words: tuple[str, ...]


KINDS = (
    Kind("gzip", "gz", "gzip", ("-6",)),
    Kind("bzip2", "bz2", "bzip2", ("-9",)),
    Kind("xz", "xz", "xz", ("-1",)),
    Kind("xz-blocks", "xz", "xz", ("-1", "-T2", "--block-size=8MiB")),
    Kind("zstd", "zst", "zstd", ("-3", "-q")),
)


class Tool:
    """The command-line tool of a format."""

    name = "its own tool"

    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    def missing(self) -> str | None:
        """Return why it cannot be run, or None."""
        if find(self._kind.tool) is None:
            return f"{self._kind.tool} is not installed; --install-peers does it"
        return None

    def decode(self, path: Path) -> None:
        """Decode a file and throw it away."""
        run("sh", "-c", f"exec {self._kind.tool} -dc <{path} >/dev/null")


class Ours:
    """Our decoder, in the harness's own process, fed from a file."""

    name = "nebfs"

    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    def missing(self) -> str | None:
        """Return None: it is always there."""

    def decode(self, path: Path, original: mmap.mmap | None = None) -> None:
        """Decode a file and throw it away; Mismatch: it is not `original`, if there is one."""
        at = 0
        with decoder(self._kind.compression) as work, path.open("rb", buffering=0) as file:
            while data := file.read(MIB):
                for piece in work.feed(data):
                    at = _compared(piece, original, at)
            for piece in work.end():
                at = _compared(piece, original, at)
        if original is not None and at != len(original):
            raise Mismatch(f"{path.name}: {at} bytes, not {len(original)}")


def _compared(piece: bytes, original: mmap.mmap | None, at: int) -> int:
    end = at + len(piece)
    if original is not None and piece != original[at:end]:
        raise Mismatch(f"wrong bytes between {at} and {end}")
    return end


def passes(bench: Bench) -> list[Result]:
    """Every format, from a file that the page cache has."""
    home = bench.scratch()
    home.mkdir()
    disk = home / "disk"
    size = QUICK_DISK if bench.quick else DISK
    bench.say("  making a disk of this machine's own files")
    make_disk(disk, size)
    results = []
    for kind in KINDS:
        title = f"A pass over an image ({kind.name}: {kind.tool} {' '.join(kind.words)})"
        result = Result(f"decode-{kind.name}", title, RATE, more_is_better=True, baseline=Tool.name)
        results.append(result)
        if reason := Tool(kind).missing():
            result.remarks[Tool.name] = reason
            continue
        packed = home / kind.name
        words = " ".join((kind.tool, *kind.words))
        run("sh", "-c", f"exec {words} -c <{disk} >{packed}", limit=SLOWEST)
        _pass(bench, result, kind, packed, disk)
    return results


def _pass(bench: Bench, result: Result, kind: Kind, packed: Path, disk: Path) -> None:
    ours, tool = Ours(kind), Tool(kind)
    size = disk.stat().st_size
    with disk.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as original:
        try:
            ours.decode(packed, original)
        except Mismatch as exc:
            result.wrong = True
            result.remarks[ours.name] = f"WRONG BYTES: {exc}"
            return

    def once(peer: Contestant) -> Figures:
        before, began = _processor(), time.perf_counter()
        (ours if peer is ours else tool).decode(packed)
        took = time.perf_counter() - began
        return {RATE: size / MIB / took, CPU: (_processor() - before) / (size / (1024 * MIB))}

    contestants: tuple[Contestant, ...] = (ours, tool)
    alternate(bench, result, contestants, once)


def _processor() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
