"""Killing the daemon and its fetcher at random moments, again and again, while images are read.

After each kill: no wrong byte, the mount usable at once, and nothing asked for again but the blocks
that were on their way. Runs as a test with few kills, and with many by hand::

    python -m tests.promises.crashing --kills 300 [--seed N]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from nebfs.demo.demonstration import PASSWORD
from nebfs.demo.server import serve
from scripts.benchmarks.frontend import cloud
from tests.mounted.conftest import Mount, wait_until
from tests.nginx import Nginx

SLOT = 128 << 10
IMAGES = 8
SIZE = 24 << 20
READERS = 4
USABLE = 20.0
"""Seconds in which a mount after a crash must answer on a machine that does other things, too."""

SETTLED = 1.0
"""Seconds before a kill in which what nginx has sent may not be in the cache file yet."""

ENDED = 10.0
"""Seconds in which readers of a mount whose daemon was killed must have their error."""


@dataclass
class Report:
    """What happened. `wrong` and `again` must stay empty."""

    kills: dict[str, int] = field(default_factory=lambda: {"daemon": 0, "fetcher": 0})
    reads: int = 0
    wrong: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    ready: list[float] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)
    """When something was killed, on the clock of nginx's log."""

    def kill(self, what: str, pid: int) -> None:
        """Kill one process, if it is there."""
        self.kills[what] += 1
        self.moments.append(time.time())
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def __str__(self) -> str:
        kept = sorted(self.ready)
        return (
            f"{sum(self.kills.values())} kills ({self.kills['daemon']} of the daemon, "
            f"{self.kills['fetcher']} of the fetcher), {self.reads} reads, "
            f"{len(self.wrong)} wrong, {len(self.failed)} failed that should not have, "
            f"{len(self.again)} blocks fetched again; "
            f"mounted again in {kept[len(kept) // 2]:.2f} s (median), {kept[-1]:.2f} s at most"
        )


class Reader(threading.Thread):
    """Reads at random until told to stop, or until the mount is gone; compares each byte."""

    def __init__(self, path: Path, original: bytes, seed: int) -> None:
        super().__init__(daemon=True)
        self._path, self._original = path, original
        self._random = random.Random(seed)
        self.stop = threading.Event()
        self.reads = 0
        self.wrong: list[str] = []
        self.error: OSError | None = None

    def run(self) -> None:
        try:
            fd = os.open(self._path, os.O_RDONLY)
        except OSError as exc:
            self.error = exc
            return
        try:
            while not self.stop.is_set():
                length = self._random.choice((1, 4096, 70_000, 300_000))
                offset = self._random.randrange(SIZE - length)
                end = offset + length
                while offset < end:
                    # The kernel gives what it had when the mount died, and the error next time.
                    got = os.pread(fd, end - offset, offset)
                    if not got or got != self._original[offset : offset + len(got)]:
                        self.wrong.append(f"{len(got)} bytes at {offset} of {self._path.name}")
                        break
                    offset += len(got)
                self.reads += 1
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as exc:
            self.error = exc
        finally:
            with contextlib.suppress(OSError):
                os.close(fd)


class Log:
    """What nginx has sent, by image: which slots, and when the last of each was."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def news(self) -> list[tuple[float, int, range]]:
        """Return (when, image, slots) of each part that was asked for and sent whole."""
        found = []
        with open(self._path) as file:
            file.seek(self._read)
            for line in file.read().splitlines():
                when, uri, status, part, sent = line.split()
                if status != "206":
                    continue
                first, _, last = part.removeprefix("bytes=").partition("-")
                whole = int(last) + 1 - int(first)
                if whole <= 1024:
                    continue  # what the file is, asked at each start
                slots = range(int(first) // SLOT, -(-(int(last) + 1) // SLOT))
                # Of what was broken off nothing is known: it may be asked for again.
                number = int(uri.removeprefix("/").partition(".")[0])
                found.append((float(when), number, slots if int(sent) == whole else range(0)))
            self._read = file.tell()
        return found


def crash(kills: int, seed: int, home: Path, say=print) -> Report:
    """Kill `kills` times, below `home`. The seed decides what is chosen, not when it happens."""
    choose = random.Random(seed)
    report = Report()
    originals = [random.Random(seed + n).randbytes(SIZE) for n in range(IMAGES)]
    (home / "web").mkdir()
    (home / "mount").mkdir()
    form = "$msec $uri $status $http_range $body_bytes_sent"
    with Nginx(home / "web", log=form) as web:
        for number, content in enumerate(originals):
            (web.root / f"{number}.raw").write_bytes(content)
        apps = [(n, f"{web.url}/{n}.raw", "") for n in range(IMAGES)]
        with serve(cloud(apps, str(home / "store"), 0)) as servers:
            mount = Mount(home / "mount", servers.frontend_url, auth=f"oneadmin:{PASSWORD}")
            log = Log(web.log)
            here: dict[int, dict[int, float]] = {n: {} for n in range(IMAGES)}
            try:
                while sum(report.kills.values()) < kills:
                    # A few lives for each image, which fill it; then the next, from an empty one.
                    number = sum(report.kills.values()) // 8 % IMAGES
                    _one_life(mount, number, originals[number], choose, report)
                    _look_for_repetition(log, here, report)
                    if sum(report.kills.values()) % 25 == 0:
                        say(str(report))
            finally:
                with contextlib.suppress(StopIteration, OSError):
                    report.failed += _tracebacks(mount)
                mount.stop()
    return report


def _one_life(
    mount: Mount, number: int, original: bytes, choose: random.Random, report: Report
) -> None:
    started = time.monotonic()
    mount.start()
    path = mount.path / f"marketplaces/market/app {number}/app {number}.raw"
    path.stat()
    report.ready.append(time.monotonic() - started)
    assert report.ready[-1] < USABLE, "the mount was not usable at once"
    readers = [Reader(path, original, choose.randrange(1 << 30)) for _ in range(READERS)]
    for reader in readers:
        reader.start()
    time.sleep(choose.uniform(0.0, 0.6))
    pid = mount.pid
    if choose.random() < 0.5:
        for fetcher in _children(pid):
            report.kill("fetcher", fetcher)
        time.sleep(choose.uniform(0.1, 0.5))
        # It is started again, and what was asked of it is asked again: nobody notices.
        report.failed += [f"{r.error}" for r in readers if r.error is not None]
    report.kill("daemon", pid)
    until = time.monotonic() + ENDED
    for reader in readers:
        reader.join(max(0.0, until - time.monotonic()))
        if reader.is_alive():
            report.failed.append("a reader hangs after its daemon was killed")
        report.reads += reader.reads
        report.wrong += reader.wrong
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


def _look_for_repetition(log: Log, here: dict[int, dict[int, float]], report: Report) -> None:
    for when, number, slots in log.news():
        known = here[number]
        for slot in slots:
            sent = known.get(slot)
            if sent is not None and not any(-0.1 <= m - sent <= SETTLED for m in report.moments):
                report.again.append(f"slot {slot} of image {number}")
            known[slot] = when


def _children(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _tracebacks(mount: Mount) -> list[str]:
    return ["a traceback in the log"] if "Traceback" in mount.log else []


def main() -> int:
    """Run from the command line; 1 when a promise was broken."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--kills", type=int, default=300)
    words.add_argument("--seed", type=int, default=int(time.time()))
    told = words.parse_args()
    print(f"seed {told.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="nebfs-") as home:
        report = crash(told.kills, told.seed, Path(home), lambda text: print(text, flush=True))
    print(report)
    for line in [*report.wrong, *report.failed, *report.again][:20]:
        print(" ", line)
    return 1 if report.wrong or report.again or report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
