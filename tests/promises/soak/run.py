"""One soak from the first mount to the verdict."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nebfs.demo.demonstration import PASSWORD
from tests.mounted.conftest import DOCUMENTS, Mount, wait_until
from tests.promises.soak.board import Board
from tests.promises.soak.oracle import Handle, Oracle
from tests.promises.soak.pictures import draw
from tests.promises.soak.troubles import LONG, Happened, Pace, Troubles
from tests.promises.soak.verdict import WARM, Check, at_rest, bounded, flat, moderate, none
from tests.promises.soak.watching import Watching, children, cpu
from tests.promises.soak.world import KINDS, MARKETS, World, world

ROOT = Path(__file__).parents[3]
MIB = 1 << 20
TICK = 0.25
SHARE = 0.9
"""Of a processor that everything together may take: readers rest longer when it is more."""

PAUSES = (0.002, 3.0)
"""Seconds: the shortest and the longest rest of a reader."""

IDLE = 90.0
"""Seconds after the last use in which everything must be closed."""


@dataclass(slots=True)
class Report:
    """What a soak found."""

    seed: int
    minutes: float
    checks: list[Check] = field(default_factory=list)
    samples: list[dict[str, float]] = field(default_factory=list)
    troubles: list[Happened] = field(default_factory=list)
    findings: list[dict] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    replaced: int = 0

    @property
    def kept(self) -> bool:
        """Whether all checks were."""
        return all(check.kept for check in self.checks)

    def of(self, *kinds: str) -> list[str]:
        """Return what was found of some kinds."""
        return [found["what"] for found in self.findings if found["kind"] in kinds]

    def write(self, directory: Path) -> None:
        """Write the JSON of it all, and the pictures."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "soak.json").write_text(json.dumps(asdict(self), indent=1))
        if len(self.samples) < 3:
            return
        times = [s["time"] for s in self.samples]

        def line(name: str, key: str, unit: float = MIB) -> tuple[str, list[float]]:
            return name, [s[key] / unit for s in self.samples]

        def rate(name: str, key: str, unit: float) -> tuple[str, list[float]]:
            pairs = zip(self.samples, self.samples[1:], strict=False)
            values = [(b[key] - a[key]) / unit / (b["time"] - a["time"]) for a, b in pairs]
            return name, [values[0], *(max(0.0, value) for value in values)]

        for name, title, lines in (
            ("memory", "Memory, MiB", [
                line("daemon", "daemon_memory"), line("fetcher", "fetcher_memory")]),
            ("cache", "The cache, MiB", [
                line("limit", "limit"), line("on the disk", "disk")]),
            ("work", "Work of the readers, each second", [
                rate("operations", "operations", 1), rate("MiB read", "bytes", MIB),
                rate("errors, all of them excused", "errors", 1)]),
            ("open", "Descriptors and threads", [
                line("descriptors of the daemon", "daemon_descriptors", 1),
                line("its threads", "daemon_threads", 1),
                line("descriptors of the fetcher", "fetcher_descriptors", 1)]),
        ):  # fmt: skip
            (directory / f"soak-{name}.svg").write_text(draw(title, times, lines, self.troubles))

    def __str__(self) -> str:
        last = self.samples[-1] if self.samples else {}
        happened = Counter(f"{t.place} {t.what}".strip() for t in self.troubles)
        lines = [
            f"seed {self.seed}, {self.minutes:g} minutes",
            f"{last.get('operations', 0):.0f} operations",
            f"{last.get('bytes', 0) / (1 << 30):.2f} GiB compared",
            f"{self.replaced} new versions; errors {self.errors}",
            "troubles: " + ", ".join(f"{what} {n}" for what, n in sorted(happened.items())),
        ]
        lines += [f"{'kept  ' if c.kept else 'BROKEN'} {c.name}: {c.figures}" for c in self.checks]
        return "\n".join(lines)


@dataclass(slots=True)
class Soak:
    """What belongs to a run."""

    world: World
    mount: Mount
    board: Board
    report: Report
    watching: Watching
    troubles: Troubles
    processes: list[subprocess.Popen[bytes]]
    pace: Pace
    pause: float = 0.02
    _busy: float = 0.0
    _stuck: set[int] = field(default_factory=set)
    _suspected: set[int] = field(default_factory=set)

    def sample(self) -> None:
        """Take a sample, and slow the readers down or let them be faster."""
        try:
            found = self.watching.sample()
        except OSError as error:
            self._find("failed", f"metrics: {error!r}")
            return
        found |= self.board.totals()
        found["time"] = self.troubles.now
        found["troubles"] = len(self.troubles.active)
        found["busy"] = busy = self._cpu()
        last = self.report.samples[-1] if self.report.samples else None
        if last is not None:
            share = (busy - last["busy"]) / (found["time"] - last["time"])
            self.pause = min(PAUSES[1], max(PAUSES[0], self.pause * (0.5 + share / SHARE / 2)))
        found["pause"] = self.pause
        self.report.samples.append(found)

    def _cpu(self) -> float:
        pids = [os.getpid(), self.watching.daemon, self.world.nginx._process.pid]
        pids += children(self.watching.daemon) + [p.pid for p in self.processes]
        # Fetchers that were killed are not counted any more.
        self._busy = max(self._busy, sum(cpu(pid) for pid in pids))
        return self._busy

    def look(self) -> None:
        """See whether somebody waits for too long, or has ended that should not."""
        # A line may be looked at while it is written: what is true stays true.
        suspected, self._suspected = self._suspected, set(self.board.stuck())
        for slot in suspected & self._suspected:
            if slot not in self._stuck:
                self._stuck.add(slot)
                self._find("late", f"reader {slot} is in an operation for too long")
        for slot, process in enumerate(self.processes):
            if process.poll() is not None and slot not in self._stuck:
                self._stuck.add(slot)
                self._find("bug", f"reader {slot} ended with {process.returncode}")

    def _find(self, kind: str, what: str) -> None:
        self.report.findings.append({"kind": kind, "what": what, "when": time.time()})

    def whole(self) -> list[str]:
        """Read every image to its end through both faces; return those that are not the newest."""
        wrong = []
        for number, faces in enumerate(_images(self.mount)):
            for face, path in faces.items():
                oracle = Oracle(self.world.versions / str(number), face)
                with contextlib.closing(oracle), open(path, "rb", buffering=0) as file:
                    handle = Handle(oracle, file.fileno())
                    offset = 0
                    while got := file.read(MIB):
                        if not handle.right(offset, got):
                            break
                        offset += len(got)
                    if offset != handle.size or not handle.newest:
                        wrong.append(f"{path} at {offset}")
        return wrong

    def settled(self) -> list[str]:
        """Refresh, and return what is still not its newest version when waiting for it is over."""
        end = time.monotonic() + IDLE
        while True:
            try:
                self.mount.refresh()
                wrong = self.whole()
            except (AssertionError, ValueError, OSError) as error:
                wrong = [repr(error)]
            if not wrong or time.monotonic() > end:
                return wrong
            time.sleep(1.0)

    def idle(self, before: dict[str, float]) -> dict[str, float]:
        """Return the figures when nothing is open any more, or when waiting for that is over."""
        end = time.monotonic() + IDLE
        while True:
            found = self.watching.sample()
            if time.monotonic() > end or at_rest(before, found).kept:
                return found
            time.sleep(0.2)


def soak(
    minutes: float,
    seed: int,
    home: Path,
    *,
    mix: Mapping[str, int],
    pace: Pace = LONG,
    size: int = 24 * MIB,
    cache: int = 64 * MIB,
    report: Path | None = None,
    say: Callable[[str], None] = print,
) -> Report:
    """Use a mount for so long and return what was found. `home` has a short name."""
    found = Report(seed, minutes)
    (home / "mount").mkdir()
    (home / "findings").mkdir()
    # What the mount inherits: no key of this machine is to be looked for elsewhere.
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    with world(home, seed, size) as made, contextlib.ExitStack() as stack:
        mount, metrics = _mounted(made, pace, cache)
        stack.callback(mount.stop)
        mount.start()
        sock = next(mount.run_dir.glob("*.sock"))
        watching = Watching(mount.pid, metrics, mount.cache)
        readers = [use for use, count in mix.items() for _ in range(count)]
        plan = _plan(made, mount, readers, sock, metrics, pace)
        board = Board(Path(plan["board"]), len(readers), make=True)
        (home / "plan.json").write_text(json.dumps(plan))
        before = watching.sample()
        choose = random.Random(seed)
        troubles = Troubles(made, mount.pid, sock, choose, pace, WARM * minutes * 60 / 3)
        running = Soak(made, mount, board, found, watching, troubles, [], pace)
        for slot in range(len(readers)):
            running.processes.append(_started(home, slot))
        try:
            _use(running, minutes * 60, report, say)
        finally:
            board.tell(pause=0.0, stop=True, quiet_since=float("inf"))
            troubles.heal()
            _joined(running)
        found.troubles = troubles.happened
        found.replaced = sum(made.version)
        _collect(found, home / "findings")
        wrong = running.settled()
        after = running.idle(before)
        alive = Path(f"/proc/{watching.daemon}").exists() and mount.pid == watching.daemon
        mount.stop()
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not Path(f"/proc/{watching.daemon}").exists(), IDLE)
        gone = not Path(f"/proc/{watching.daemon}").exists()
        log = mount.log
    found.checks = [
        none("no wrong byte", found.of("wrong")),
        none("no operation beyond its time", found.of("late")),
        none("no error without a reason", found.of("strange", "failed", "bug")),
        none("no name vanishes", found.of("vanished")),
        none("at the end every image is its newest version", wrong),
        bounded(found.samples),
        moderate(found.samples),
        *(flat(found.samples) if pace.trends else ()),
        at_rest(before, after),
        Check("one life, without a bug in its log", alive and gone, f"alive {alive}, ended {gone}"),
        none("no traceback", [line for line in log.splitlines() if "Traceback" in line]),
    ]
    if report is not None:
        found.write(report)
        (report / "daemon.log").write_text(log)
    return found


def _use(running: Soak, seconds: float, report: Path | None, say: Callable[[str], None]) -> None:
    troubles, pace = running.troubles, running.pace
    sampled = said = 0.0
    while troubles.now < seconds:
        quiet = troubles.tick()
        running.look()
        if troubles.now >= sampled:
            running.sample()
            sampled = troubles.now + pace.sample
        running.board.tell(pause=running.pause, stop=False, quiet_since=quiet)
        if troubles.now >= said:
            totals = running.board.totals()
            wrong = f"{totals['operations']:.0f} operations, {totals['wrong']:.0f} wrong"
            say(f"{troubles.now:.0f} s: {wrong}, rest {running.pause:.3f} s, {troubles.active}")
            said = troubles.now + 60.0
            if report is not None:
                running.report.troubles = troubles.happened
                running.report.write(report)
        time.sleep(TICK)
    running.sample()


def _mounted(made: World, pace: Pace, cache: int) -> tuple[Mount, str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = {
        "deadline": f"{pace.deadline:g}s",
        "stall_timeout": f"{pace.stall:g}s",
        "connect_timeout": f"{pace.stall:g}s",
        "listing_deadline": "20s",
        "refresh_interval": f"{max(2, round(pace.quiet / 3))}s",
        "cache_size": str(cache),
        "cache_min_free": "0",
        "metrics": f"127.0.0.1:{port}",
    }
    options = ",".join(f"{name}={value}" for name, value in settings.items())
    words = ("--config", os.fspath(made.configuration), "-o", options)
    home = made.home / "mount"
    mount = Mount(home, made.source, *words, auth=f"oneadmin:{PASSWORD}")
    return mount, f"http://127.0.0.1:{port}/metrics"


def _images(mount: Mount) -> list[dict[str, str]]:
    """Return the paths of each image by face, as the mount has them."""
    found = []
    for number, kind in enumerate(KINDS):
        name = f"image {number}"
        if kind.place in MARKETS:
            where = Path("marketplaces") / kind.place / name
        else:
            where = Path("datastores") / kind.place
        faces = {}
        for face, top in (("published", mount.path), ("raw", mount.path / "raw")):
            (path,) = (
                p for p in (top / where).iterdir()
                if p.name.startswith(f"{name}.") and p.name not in DOCUMENTS
            )  # fmt: skip
            faces[face] = os.fspath(path)
        found.append(faces)
    return found


def _plan(
    made: World, mount: Mount, readers: list[str], sock: Path, metrics: str, pace: Pace
) -> dict:
    images = _images(mount)
    # What must be listed whatever happens: apps, and the images of datastores.
    names = [
        str(Path(faces["published"]).parent) if kind.place in MARKETS else faces["published"]
        for kind, faces in zip(KINDS, images, strict=True)
    ]
    return {
        "mount": os.fspath(mount.path),
        "board": os.fspath(made.home / "board"),
        "findings": os.fspath(made.home / "findings"),
        "versions": os.fspath(made.versions),
        "socket": os.fspath(sock),
        "metrics": metrics,
        "slots": len(readers),
        "readers": readers,
        "images": images,
        "names": names,
        "deadline": pace.deadline,
        "grace": pace.grace,
        "seed": made.seed,
    }


def _started(home: Path, slot: int) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "tests.promises.soak.uses", home / "plan.json", str(slot)]
    with (home / "readers.log").open("ab") as log:
        return subprocess.Popen(words, cwd=ROOT, stderr=log, stdout=log)


def _joined(running: Soak) -> None:
    """Wait for the readers; one that hangs is killed, and was found."""
    end = time.monotonic() + 5 * running.pace.deadline + running.pace.grace
    for slot, process in enumerate(running.processes):
        try:
            process.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            running._find("late", f"reader {slot} does not end")
            process.kill()
            process.wait(60)


def _collect(report: Report, directory: Path) -> None:
    for path in sorted(directory.iterdir()):
        for line in path.read_text().splitlines():
            said = json.loads(line)
            if said["kind"] == "errors":
                for name, count in json.loads(said["what"]).items():
                    report.errors[name] = report.errors.get(name, 0) + count
            else:
                report.findings.append(said)
