"""The same histories over a real mount: the command line, the kernel, real servers and processes.

Fewer steps: a refresh takes what it takes, and no clock jumps.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from nebfs.daemon.control import ask
from nebfs.demo.server import DemonstrationServers, serve
from nebfs.errors import NebfsError
from tests.mounted.conftest import Mount
from tests.promises.model.history import ANY, History, counted
from tests.promises.model.judging import Handle
from tests.promises.model.kernel import Entry
from tests.promises.model.readings import Readings
from tests.promises.model.reference import Thing, Version
from tests.promises.model.world import PASSWORD, World

CACHE = "6M"
PATIENCE = 8
"""Seconds after which nebfs answers a read with an error, instead of 60."""


class Programs:
    """What programs do with the mount at `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def list(self, path: str) -> dict[str, Entry]:
        names = os.listdir(self._root / path)
        assert len(names) == len(set(names)), f"a name is there twice in {path}: {names}"
        return {name: self._entry(f"{path}/{name}") for name in names}

    def _entry(self, path: str) -> Entry:
        found = os.lstat(self._root / path)
        return Entry(found.st_ino, found.st_mode, found.st_size)

    def open(self, path: str) -> tuple[int, Entry]:
        fd = os.open(self._root / path, os.O_RDONLY)
        found = os.fstat(fd)
        return fd, Entry(found.st_ino, found.st_mode, found.st_size)

    def read(self, fh: int, offset: int, length: int) -> bytes:
        """As a program does that reads on after what it was given, up to the end of the file."""
        found = bytearray()
        while len(found) < length:
            part = os.pread(fh, length - len(found), offset + len(found))
            if not part:
                break
            found += part
        return bytes(found)

    def release(self, fh: int) -> None:
        os.close(fh)


class MountedWorld(World):
    """A world whose bytes are behind a real file server."""

    def __init__(self, home: Path, seed: int) -> None:
        # Where the servers are is put into the records when they are asked for.
        super().__init__(home, seed, files="{files}", service="{appliances}")
        self._stamp = 1_700_000_000

    def _publish(self, thing: Thing, version: Version) -> None:
        super()._publish(thing, version)
        path = self.home / "published" / f"{version.number}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(version.data)
        self._stamp += 10
        os.utime(path, (self._stamp, self._stamp))
        self.cloud.publish(f"/{thing.id}", path)

    def remove(self, thing: Thing) -> None:
        super().remove(thing)
        with self.cloud.lock:
            self.cloud.published.pop(f"/{thing.id}", None)


class MountedHistories(Readings):
    """Random histories of a cloud, its servers, and a mount."""

    deadline = 3.0 * PATIENCE
    machine: Mount
    servers: DemonstrationServers
    world: MountedWorld

    @property
    def now(self) -> float:
        return time.monotonic()

    @initialize(seed=ANY)
    def begin(self, seed: int) -> None:
        self.tally.histories += 1
        self.home = Path(tempfile.mkdtemp(prefix="nebfs-"))
        self.stack.callback(shutil.rmtree, self.home, ignore_errors=True)
        self.world = MountedWorld(self.home, seed)
        self.reference = self.world.reference
        self.servers = self.stack.enter_context(serve(self.world.cloud))
        self.begun = True
        self.world.add_app("alpine", 100, "raw", 300_000, with_md5=True)
        self.world.add_app("debian", 101, "qcow2", 300_000, with_md5=False)
        self.world.add_app("alpine", 101, "gz", 300_000, with_md5=True)
        self.world.add_image("alpine", 200, "raw", 4096)
        config = self.home / "nebfs.toml"
        config.write_text(
            f'refresh_interval = "1h"\ncache_min_free = "0"\ndeadline = "{PATIENCE}s"\n'
            f'listing_deadline = "{PATIENCE}s"\n'
        )
        options = ("--cache-size", CACHE, "--config", str(config))
        self.machine = Mount(
            self.home, self.servers.frontend_url, *options, auth=f"alice:{PASSWORD}"
        )
        self._start()

    def teardown(self) -> None:
        if not self.begun:
            return
        try:
            self._close_all()
            log = self.machine.log
        finally:
            self.machine.stop()
            self.stack.close()
        assert "Traceback" not in log, log[log.index("Traceback") :][:2000]
        assert self.servers.failures() == []

    def _start(self) -> None:
        done = self.machine.start(check=False)
        up = self.world.network.one == "up"
        if self.world.refuses and up:
            assert done.returncode, "it has started though nobody lets it in"
            return
        if not up and self.reference.shown is None:
            assert done.returncode, "it has started without any list"
            return
        assert done.returncode == 0, done.stderr
        if up:
            self.reference.refreshed(services_answer=self.world.network.service == "up")
        self.denied = False
        self.mount = Programs(self.machine.path)

    def _close_all(self) -> None:
        for handle in self.handles:
            with contextlib.suppress(OSError):
                os.close(handle.fh)
        self.handles.clear()

    def set_weather(self, what: str, weather: str) -> None:
        """A place that hangs is for the other height: here everybody would have to wait."""
        if weather == "hangs":
            weather = "down"
        super().set_weather(what, weather)
        away = 0 if weather == "up" else 1 << 30
        match what:
            case "one":
                self.servers.front_end.fail_next = away
            case "service":
                self.servers.appliances.fail_next = away
            case _:
                self._set_files(weather)

    def _set_files(self, weather: str) -> None:
        for number in range(10, 200):
            switches = self.servers.files.switches(f"/{number}")
            switches.fail_next = 1 << 30 if weather == "down" else 0
            switches.cut_after = 100_000 if weather == "half" else None

    def _ask(self, where: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        socket = next(self.machine.run_dir.glob("*.sock"))
        return ask(socket, "POST", where, body=body, timeout=120.0)

    # --- lives -------------------------------------------------------------------------------

    @precondition(History.alive)
    @rule()
    @counted
    def refresh(self) -> None:
        told = self._ask("/v1/refresh")
        if told["refreshed"]:
            assert self.world.network.one == "up"
            assert not self.world.refuses
            self.reference.refreshed(services_answer=self.world.network.service == "up")
            self.denied = False
        elif self.world.network.one == "up":
            assert self.world.refuses, told
            self.denied = True

    @precondition(History.alive)
    @rule()
    @counted
    def kill_fetcher(self) -> None:
        children = Path(f"/proc/{self.machine.pid}/task/{self.machine.pid}/children").read_text()
        for pid in map(int, children.split()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @precondition(History.alive)
    @rule(gently=st.booleans())
    @counted
    def end_daemon(self, gently: bool) -> None:
        if gently:
            self._close_all()
            self.machine.stop()
        else:
            self.machine.kill()
            self._look_at_the_dead()
            self._close_all()
        self.mount = None

    def _look_at_the_dead(self) -> None:
        """After a crash the mount point gives an error; it does not look empty."""
        try:
            found = os.listdir(self.machine.path)
        except OSError as exc:
            assert exc.errno in (errno.ENOTCONN, errno.ECONNABORTED), exc
        else:
            raise AssertionError(f"a mount whose daemon is dead shows {found}")

    @precondition(History.dead)
    @rule()
    @counted
    def start_daemon(self) -> None:
        self._start()

    @precondition(History.alive)
    @rule()
    @counted
    def drop_cache(self) -> None:
        self._ask("/v1/cache/drop", {"all": True, "force": True})

    @precondition(History.alive)
    @rule(which=ANY, unpin=st.booleans())
    @counted
    def pin_or_unpin(self, which: int, unpin: bool) -> None:
        chosen = self.pick(which, self.shown())
        with contextlib.suppress(NebfsError):
            if unpin:
                self._ask("/v1/unpin", {"all": True})
                self.weather.crowded = False
            elif chosen is not None:
                self._ask("/v1/pin", {"paths": [self.path_of(*chosen, raw=False)]})
                self.weather.crowded = True

    # --- after each step ---------------------------------------------------------------------

    def failed(self, handle: Handle, exc: OSError) -> None:
        """The kernel says EIO of pages that it has tried to read ahead, whatever it was told."""
        if exc.errno == errno.EIO and handle.may_fail(errno.ESTALE, self.weather, self.now):
            self.tally.error(exc)
            return
        super().failed(handle, exc)
