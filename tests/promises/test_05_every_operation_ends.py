"""Promise 5: every operation ends, and no process stays unkillable beyond that.

A place comes to a standstill at each point there is: data is had within the deadline or is an
error, names are answered from memory meanwhile, and whoever waits can be killed. Mounting while the
front-end hangs is in promise 12, a place that hangs among others in promise 4.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
import trio

from nebfs.content.stack import read
from nebfs.daemon.control import ask
from nebfs.demo.demonstration import PASSWORD
from nebfs.demo.server import serve
from scripts.benchmarks.frontend import cloud as cloud_of
from tests.faults import lies
from tests.faults.deaf import Deaf
from tests.faults.house import House, whole
from tests.faults.reading import RAW
from tests.faults.valve import OPEN, STALLED, Valves
from tests.faults.ways import bridge, object_store
from tests.faults.web import Origin, ScriptedServer
from tests.mounted.conftest import Mount

DEADLINE = 3.0
SLACK = 20.0
"""Seconds more, for a machine that has much else to do. Without an end it would be a minute."""

DATA = random.Random(4).randbytes(4 << 20)

LENGTH = 512 << 10
"""Bytes of a read: more than half of them may have come before its place stands still."""

POINTS = {
    "connection": lies.redirect,
    "TLS": lies.redirect,
    "head": lies.stalled_head,
    "body": lies.stalled_body,
    "half-way": lies.stalled_half_way,
    "drip": lies.drip_for_ever,
}


# --- over a real mount --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hanging(tmp_path_factory):
    """A mount of one app for each point, and of one (`never`) that was not looked at yet."""
    with ExitStack() as stack:
        deaf, silent = stack.enter_context(Deaf()), socket.create_server(("127.0.0.1", 0))
        stack.callback(silent.close)
        elsewhere = {
            "connection": f"http://127.0.0.1:{deaf.port}/",
            "TLS": f"https://127.0.0.1:{silent.getsockname()[1]}/",
        }
        places, apps = {}, []
        for number, name in enumerate([*POINTS, "never"]):
            place = lies.Place(Origin(DATA), elsewhere=elsewhere.get(name, ""))
            server = ScriptedServer(place)
            stack.callback(server.close)
            stack.callback(place.heal)
            places[name] = place
            apps.append((number, f"{server.url}/image.raw", ""))
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nebfs-")))
        (home / "store").mkdir()
        servers = stack.enter_context(serve(cloud_of(apps, str(home / "store"), 0)))
        valves = Valves()
        stack.callback(valves.close)
        port = urlsplit(servers.frontend_url).port
        front_end = valves.valve(port)
        mount = Mount(
            home,
            servers.frontend_url.replace(f":{port}/", f":{front_end.port}/"),
            *("-o", f"deadline={DEADLINE}s,listing_deadline=2s,refresh_interval=1h"),
            *("-o", "stall_timeout=60s,connect_timeout=60s,read_ahead=0"),
            auth=f"oneadmin:{PASSWORD}",
        )
        places["never"].lie = lies.stalled_head
        mount.start()
        stack.callback(mount.stop)
        paths = {
            name: mount.path / f"marketplaces/market/app {number}/app {number}.raw"
            for number, name in enumerate(places)
        }
        for name in POINTS:
            assert paths[name].stat().st_size == len(DATA)
        yield SimpleNamespace(mount=mount, places=places, paths=paths, front_end=front_end)


@dataclass
class Waiting:
    """Reads in a thread. `errno`, and `seconds` of the longest read(2), when it is over."""

    path: Path
    offset: int = 2 << 20
    data: bytes = DATA
    errno: int = -1
    seconds: float = 0.0
    thread: threading.Thread = field(init=False)

    def __post_init__(self):
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        try:
            fd = os.open(self.path, os.O_RDONLY)
            try:
                at = self.offset
                while at < self.offset + LENGTH:  # what came before an error is given first
                    got = self._timed(fd, self.offset + LENGTH - at, at)
                    assert got == self.data[at : at + len(got)] != b""
                    at += len(got)
                self.errno = 0
            finally:
                os.close(fd)
        except OSError as exc:
            self.errno = exc.errno

    def _timed(self, *what):
        began = time.monotonic()
        try:
            return os.pread(*what)
        finally:
            self.seconds = max(self.seconds, time.monotonic() - began)

    @property
    def over(self):
        return not self.thread.is_alive()


@pytest.mark.mounted
def test_a_read_ends_wherever_its_place_stands_still(hanging):
    """And names are answered meanwhile."""
    for name, tell in POINTS.items():
        hanging.places[name].lie = tell
    reads = {name: Waiting(hanging.paths[name]) for name in POINTS}
    top = hanging.mount.path / "marketplaces/market"
    assert len(os.listdir(top)) == len(hanging.places)
    for name in POINTS:
        assert hanging.paths[name].stat().st_size == len(DATA)
    os.statvfs(top)
    names_first = not any(one.over for one in reads.values())
    for one in reads.values():
        one.thread.join(DEADLINE + SLACK)
    assert {name: one.errno for name, one in reads.items()} == dict.fromkeys(
        POINTS, errno.ETIMEDOUT
    )
    assert min(one.seconds for one in reads.values()) > DEADLINE / 2, "nothing stood still"
    assert max(one.seconds for one in reads.values()) < 2 * DEADLINE, "the kernel asked twice"
    assert names_first, "names had to wait for data"
    for name in POINTS:
        hanging.places[name].heal()
    again = [Waiting(path) for name, path in hanging.paths.items() if name in POINTS]
    for one in again:
        one.thread.join(SLACK)
        assert one.errno == 0, one


@pytest.mark.mounted
def test_what_was_never_asked_is_listed_and_an_error(hanging):
    began = time.monotonic()
    path = hanging.paths["never"]
    assert path.parent.name in os.listdir(path.parent.parent)
    names = os.listdir(path.parent)
    assert "app.json" in names
    disk = next(name for name in names if name.endswith(".raw"))
    assert (path.parent / disk).stat().st_mode & 0o777 == 0
    one = Waiting(path.parent / disk)
    one.thread.join(DEADLINE + SLACK)
    assert one.errno in {errno.EIO, errno.ETIMEDOUT}
    assert time.monotonic() - began < 2 * DEADLINE + SLACK


@pytest.mark.mounted
def test_who_waits_can_be_killed(hanging):
    """By the end of the deadline at the latest: until then the kernel lets nobody go."""
    place = hanging.places["body"]
    place.healed.clear()
    place.lie = lies.stalled_body
    before = place.told
    argv = ["dd", f"if={hanging.paths['body']}", "of=/dev/null", "bs=1M", "iflag=direct", "skip=3"]
    reader = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + SLACK
        while place.told == before:
            assert time.monotonic() < end, "it did not ask"
            assert reader.poll() is None, "it did not wait"
            time.sleep(0.02)
        reader.send_signal(signal.SIGKILL)
        assert reader.wait(DEADLINE + SLACK) == -signal.SIGKILL
    finally:
        reader.kill()
        place.heal()


@pytest.mark.mounted
def test_a_refresh_ends_while_the_front_end_hangs(hanging):
    """Within the listings' deadline, however seldom the lists are taken by themselves. Its error is
    told, and every name is there all the time.
    """
    control = next(hanging.mount.run_dir.glob("*.sock"))
    top = hanging.mount.path / "marketplaces/market"
    names = os.listdir(top)
    hanging.front_end.turn(STALLED)
    answers = []
    refresh = threading.Thread(
        target=lambda: answers.append(ask(control, "POST", "/v1/refresh", timeout=60))
    )
    refresh.start()
    try:
        while refresh.is_alive():
            assert os.listdir(top) == names
            time.sleep(0.05)
        (answer,) = answers
        assert not answer["refreshed"]
        assert answer["trouble"] == "the front-end did not answer in time (after=2 s)"
        assert answer["kind"] == "TimedOut"
        assert 2 <= answer["took"] < 2 + SLACK
        assert hanging.mount.status()["trouble"]
    finally:
        hanging.front_end.turn(OPEN)
        refresh.join(60)
    hanging.mount.refresh()
    assert not hanging.mount.status()["trouble"]


@pytest.mark.mounted
def test_an_outage_that_is_shorter_than_the_deadline_is_waited_for(make_mount, servers, cloud):
    """That is the policy: `deadline` says how long."""
    url = next(url for url in cloud.published if url.endswith("debian-12.raw"))
    mount = make_mount(servers.frontend_url, "-o", "deadline=60s,stall_timeout=1s")
    mount.start()
    path = mount.app("Debian 12") / "Debian 12.raw"
    path.stat()
    switches = servers.files.switches(url)
    switches.stall_after = 0
    one = Waiting(path, data=cloud.published[url].read_bytes())
    one.thread.join(1.5)
    assert not one.over
    switches.stall_after = None
    one.thread.join(SLACK)
    assert one.over
    assert one.errno == 0
    assert one.seconds > 1


# --- without a kernel ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    """Nothing gives up by itself."""
    with House(tmp_path_factory.mktemp("house"), stall=60.0) as house:
        yield house


@pytest.mark.parametrize("kind", [object_store, bridge])
def test_a_store_or_a_host_that_stands_still_is_left_in_time(patient, tmp_path, kind):
    """While it is asked, and while a connection to it is made. Afterwards it is as before."""
    valves = Valves()
    with kind(tmp_path, valves) as way:
        content = way.content("image", RAW)

        async def left_alone(reader):
            began = trio.current_time()
            with trio.move_on_after(0.3) as scope:
                await read(reader, len(RAW) - 4096, 4096)
            assert scope.cancelled_caught
            assert trio.current_time() - began < SLACK

        async def all_of_it():
            reader = await patient.open(content)
            await trio.to_thread.run_sync(way.valve.turn, STALLED)
            await left_alone(reader)
            # The connections that there were are gone: new ones get no word either.
            await trio.to_thread.run_sync(valves.run, way.valve.broken())
            await left_alone(reader)
            await trio.to_thread.run_sync(way.valve.turn, OPEN)
            with trio.fail_after(SLACK):
                assert await whole(reader) == RAW
            await reader.aclose()

        patient.run(all_of_it)
    valves.close()
