"""Warm reading: everything has been read once, but the kernel's page cache of it has been dropped.

The peers' cache files are still in RAM: what is measured is the way through the filesystem, not
a disk. ext4 is what that RAM gives with nothing between, so its pages are not dropped.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from nebfs.units import MIB
from scripts.benchmarks.images import Image, forget
from scripts.benchmarks.peers.everyone import (
    HIGH_LEVEL,
    LOW_LEVEL,
    NATIVE,
    NBDKITS,
    QUICK_RCLONES,
    RCLONES,
)
from scripts.benchmarks.peers.peer import Mounted, Peer
from scripts.benchmarks.processes import Failed, Mismatch, running
from scripts.benchmarks.rounds import Bench, Figures, Result, alternate, clear
from scripts.benchmarks.toolbox import program

RATE, IOPS, P50, P99 = "MiB/s", "iops", "p50 us", "p99 us"
LONG = 600.0


class Filled(contextlib.ExitStack):
    """Peers that stay mounted for a whole case, each of them having read the image once."""

    def __init__(self, bench: Bench, result: Result, peers: Sequence[Peer], image: Image) -> None:
        super().__init__()
        self._bench, self._result, self._peers, self._image = bench, result, peers, image
        self.mounts: dict[str, Mounted] = {}

    def fill(self, others: Sequence[Image] = ()) -> None:
        """Mount and read; a peer that cannot is remarked on, and is in no round."""
        for peer in self._peers:
            reason = peer.missing()
            if reason:
                self._result.remarks[peer.name] = reason
                continue
            try:
                site, home = self._bench.loopback, self._bench.scratch()
                images = [self._image, *others]
                self.callback(clear, home)
                mounted = self.enter_context(peer.mount(site, home, images))
                site.read("seq", mounted.path(self._image))
                site.read("same", mounted.path(self._image), self._image.path)
                self.mounts[peer.name] = mounted
            except Mismatch as exc:
                self._result.wrong = True
                self._result.remarks[peer.name] = f"WRONG BYTES: {exc}"
            except (Failed, OSError, StopIteration) as exc:
                self._result.remarks[peer.name] = str(exc)

    def peers(self) -> list[Peer]:
        """Return who is there."""
        return [peer for peer in self._peers if peer.name in self.mounts]

    def path(self, peer: Peer) -> Path:
        """Return the image's path in a peer's mount, its pages dropped."""
        path = self.mounts[peer.name].path(self._image)
        if peer is not NATIVE:
            forget(path)
        return path


def warm(bench: Bench) -> Result:
    """A whole image in sequence."""
    title = "Warm sequential read, page cache dropped"
    result = Result("warm", title, RATE, more_is_better=True, baseline=HIGH_LEVEL.name)
    image = bench.images[0]
    peers = (
        bench.nebfs,
        *(QUICK_RCLONES if bench.quick else RCLONES[:3]),
        HIGH_LEVEL,
        LOW_LEVEL,
        NBDKITS[1],
        NATIVE,
    )
    with Filled(bench, result, peers, image) as filled:
        filled.fill()

        def once(peer: Peer) -> Figures:
            took = bench.loopback.read("seq", filled.path(peer))["ns"] / 1e9
            bench.loopback.read("same", filled.mounts[peer.name].path(image), image.path)
            return {RATE: image.size / MIB / took}

        alternate(bench, result, filled.peers(), once)
    return result


def figures(found: dict[str, float]) -> Figures:
    """Return what the reader's summary means."""
    return {
        IOPS: found["reads"] / (found["ns"] / 1e9),
        P50: found["p50"] / 1e3,
        P99: found["p99"] / 1e3,
    }


def random_warm(bench: Bench) -> Result:
    """4 KiB pages in random order, one after the other."""
    title = "Warm random 4 KiB reads, page cache dropped"
    result = Result("random-warm", title, IOPS, more_is_better=True, baseline=LOW_LEVEL.name)
    image = bench.images[0]
    peers = (bench.nebfs, RCLONES[0], RCLONES[1], LOW_LEVEL, HIGH_LEVEL, NBDKITS[1], NATIVE)
    seconds = "1.5" if bench.quick else "3"
    with Filled(bench, result, peers, image) as filled:
        filled.fill()

        def once(peer: Peer) -> Figures:
            words = ("random", filled.path(peer), image.path, seconds, "7")
            return figures(bench.loopback.read(*words))

        alternate(bench, result, filled.peers(), once)
    return result


def random_streaming(bench: Bench) -> Result:
    """The same on one image, idle and while others stream in cold."""
    title = "Warm random 4 KiB reads while other images stream in, to the same when idle"
    result = Result("random-streaming", title, "ratio", more_is_better=True, baseline="")
    image, others = bench.images[0], bench.images[1:5]
    seconds = "1.5" if bench.quick else "3"

    def once(peer: Peer) -> Figures:
        with Filled(bench, result, (peer,), image) as filled:
            filled.fill(others)
            if peer.name not in filled.mounts:
                raise Failed(result.remarks[peer.name])
            idle = figures(
                bench.loopback.read("random", filled.path(peer), image.path, seconds, "7")
            )
            path = filled.path(peer)
            stream: list[str | Path] = [program("reader"), "seq"]
            stream += [filled.mounts[peer.name].path(other) for other in others]
            log = bench.scratch()
            with running(stream, log, stdout=subprocess.PIPE) as streaming:
                busy = _until(streaming, path, image)
            for other in others:
                bench.loopback.read("same", filled.mounts[peer.name].path(other), other.path)
        return {
            "ratio": busy[IOPS] / idle[IOPS],
            "idle iops": idle[IOPS],
            "streaming iops": busy[IOPS],
            "streaming p50 us": busy[P50],
            "streaming p99 us": busy[P99],
        }

    rclones = RCLONES[1:2] if bench.quick else RCLONES[:2]
    alternate(bench, result, (bench.nebfs, *rclones), once)
    return result


def _until(streaming: subprocess.Popen[bytes], path: Path, image: Image) -> Figures:
    """Read at random for as long as the stream lasts."""
    words: list[str | Path] = [program("reader"), "random", path, image.path, str(LONG), "8"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as reading:
        try:
            streaming.wait(60)
            reading.send_signal(signal.SIGTERM)
            out, _ = reading.communicate(timeout=10)
        except subprocess.TimeoutExpired as exc:
            raise Failed("the stream was not finished after 60 s") from exc
        finally:
            reading.kill()
    if reading.returncode == 9:
        raise Mismatch("wrong bytes while streaming")
    return figures(json.loads(out))
