"""Promise 13: memory, descriptors, connections, threads and disk have a limit each and a gauge
each; the limits hold while many read much, and the gauges return to zero when nobody reads.
"""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nebfs.daemon import metrics
from nebfs.daemon.control import ask
from nebfs.errors import NebfsError
from nebfs.units import MIB
from tests.mounted.conftest import wait_until
from tests.promises.images import mount_of, web_of

pytestmark = [pytest.mark.mounted, pytest.mark.nginx]

IMAGES, SIZE, READERS, SECONDS = 8, 12 * MIB, 32, 4.0
ENDING = 30.0
"""Seconds in which whoever reads ends, of which each has one read to wait for."""

IDLE = 20.0
"""Seconds in which what was ordered ahead of readers has ended, too."""

CACHE = 48 * MIB
"""Half of what is read: all the time something has to leave."""

CONNECTIONS = 3
"""To one place, and as many again for what is waited for. On a busy machine even a place nearby
seems far: some connections are then made before they are needed, beside those in use.
"""

TO_ONED = 2

# --- the limits, with what is theirs beside them ---

MEMORY = {"daemon": 300 * MIB, "fetcher": 150 * MIB}
"""Resident bytes; an idle daemon has 90 MiB, the libraries of all rooms."""

THREADS = {"daemon": 48, "fetcher": min(32, (os.cpu_count() or 1) + 4) + 4}
"""16 for the cache's disk, 2 that decode, 1 that hashes, 1 that parses, 16 for listings, and a few
that tell the kernel; of the fetcher, asyncio's own, which look names up and write."""

DESCRIPTORS = {"daemon": 100, "fetcher": 64}
"""Two for each open image, one for each request, and what a process has anyway."""

OVERHEAD = 2 * MIB
"""Of a cache's directory: indexes, documents, directories."""

# --- which gauges there are ---

ZERO = {
    "nebfs_open_files",
    "nebfs_open_objects",
    "nebfs_cache_reserved_bytes",
    "nebfs_fetcher_requests",
}
"""Which are 0 when nobody reads."""

LEVEL = {
    "nebfs_process_open_descriptors",
    "nebfs_process_open_sockets",
    "nebfs_process_threads",
}
"""Which return to what they were before."""

KEPT = {("nebfs_process_threads", "fetcher")}
"""asyncio's threads are kept for the next time: they have their limit only."""

STAYING = {
    *("nebfs_info", "nebfs_start_time_seconds", "nebfs_healthy", "nebfs_lists_age_seconds"),
    *("nebfs_inodes", "nebfs_cache_limit_bytes", "nebfs_cache_used_bytes", "nebfs_places"),
    *("nebfs_place_healthy", "nebfs_place_objects", "nebfs_place_list_age_seconds"),
    *("nebfs_server_latency_seconds", "nebfs_server_rate_bytes_per_second"),
    *("nebfs_callers", "nebfs_callers_age_seconds"),
    "nebfs_process_resident_bytes",
}
"""Which are facts, or bounded by a limit that is looked at below."""


def test_every_gauge_is_looked_at():
    gauges = {family.name for family in metrics.FAMILIES if family.type == metrics.GAUGE}
    assert gauges == ZERO | LEVEL | STAYING


@pytest.fixture
def web(tmp_path):
    directives = "keepalive_timeout 1s; client_header_timeout 1s;"
    with web_of(tmp_path / "web", IMAGES, SIZE, directives) as made:
        yield made


@pytest.fixture
def mounted(web, home, tmp_path):
    options = f"cache_min_free=0,connections={CONNECTIONS},read_ahead=4M,profiles=false"
    words = ("--cache-size", f"{CACHE}", "-o", options)
    with mount_of(web, home, tmp_path / "store", IMAGES, *words) as mount:
        yield mount


class Gauges:
    """What a daemon says of itself, and what the kernel says of it."""

    def __init__(self, mount, port):
        self._socket = next(mount.run_dir.glob("*.sock"))
        self._cache = mount.cache
        self._ports = {"places": port, "oned": mount.servers._listeners["front_end"].server_port}
        self.pid = mount.pid
        self.fetcher = next(
            int(pid)
            for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            if b"nebfs.fetcher" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )

    def told(self):
        """Return (name, labels' values) -> value."""
        import socket

        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(10)
            line.connect(str(self._socket))
            line.sendall(b"GET /metrics HTTP/1.1\r\nhost: nebfs\r\n\r\n")
            said = b""
            while chunk := line.recv(1 << 16):
                said += chunk
        text = said.partition(b"\r\n\r\n")[2].decode()
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def connections(self):
        """Return how many connections the fetcher has to the places, and to the front-end."""
        sockets = set()
        for fd in Path(f"/proc/{self.fetcher}/fd").iterdir():
            try:
                sockets.add(os.readlink(fd))
            except FileNotFoundError:
                continue
        found = dict.fromkeys(self._ports, 0)
        for line in Path(f"/proc/{self.fetcher}/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] != "01":
                continue  # not established, or closed by the other side already
            port, inode = int(fields[2].rpartition(":")[2], 16), fields[9]
            for name, wanted in self._ports.items():
                found[name] += port == wanted and f"socket:[{inode}]" in sockets
        return found

    def on_disk(self):
        """Return the bytes of the cache's directory, as du(1) counts them."""
        total = 0
        for top, _, files in os.walk(self._cache):
            for name in files:
                try:
                    total += os.stat(os.path.join(top, name)).st_blocks * 512
                except FileNotFoundError:
                    continue
        return total


class Most:
    """The most that was ever seen of each."""

    def __init__(self):
        self.seen = {}

    def note(self, facts):
        for name, value in facts.items():
            self.seen[name] = max(value, self.seen.get(name, value))


def read_much(mount, stop, failures, number):
    """Read at random, and sometimes all of it, and compare every byte."""
    choose = random.Random(number)
    image = number % IMAGES
    content = random.Random(image).randbytes(SIZE)
    path = mount.path / f"marketplaces/market/app {image}/app {image}.raw"
    try:
        while not stop.is_set():
            with open(path, "rb", buffering=0) as file:
                for _ in range(8):
                    if stop.is_set():
                        break
                    length = choose.choice((4096, 70_000, MIB))
                    offset = choose.randrange(SIZE - length)
                    if os.pread(file.fileno(), length, offset) != content[offset:][:length]:
                        failures.append(f"{length} bytes at {offset} of {path.name}")
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError as exc:
        failures.append(f"{path.name}: {exc}")


def refresh_much(socket, stop):
    while not stop.is_set():
        try:
            ask(socket, "POST", "/v1/refresh", timeout=30)
        except NebfsError:
            return


def in_time(left, seconds):
    """Return what is `left` once nothing is, or after so many seconds."""
    until = time.monotonic() + seconds
    while (found := left()) and time.monotonic() < until:
        time.sleep(0.2)
    return found


def test_the_limits_hold_under_load_and_the_gauges_return(mounted, web):
    mount = mounted
    for number in range(IMAGES):  # each was open once: what that leaves is the level
        app = mount.path / f"marketplaces/market/app {number}"
        assert (app / f"app {number}.raw").stat().st_size == SIZE
    gauges = Gauges(mount, web.port)
    wait_until(lambda: gauges.connections()["places"] == 0)
    before = gauges.told()
    assert all(before[key] == 0 for key in before if key[0] in ZERO)

    mount.servers.front_end.delay = 0.05  # long enough for a third question to show itself
    stop, failures, most = threading.Event(), [], Most()
    control = next(mount.run_dir.glob("*.sock"))
    work = [(f"reader {n}", read_much, (mount, stop, failures, n)) for n in range(READERS)]
    work += [(f"refresher {n}", refresh_much, (control, stop)) for n in range(3)]
    # As daemons: one that hangs must not keep the tests from ending.
    busy = [threading.Thread(name=n, target=to, args=by, daemon=True) for n, to, by in work]
    try:
        for thread in busy:
            thread.start()
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            most.note(gauges.told())
            most.note({("connections", name): n for name, n in gauges.connections().items()})
            most.note({("du",): gauges.on_disk()})
            time.sleep(0.05)
    finally:
        stop.set()

    def above_zero():
        now = gauges.told()
        return {key: now[key] for key in now if key[0] in ZERO and now[key]}

    def above_level():
        now = gauges.told()
        level = [key for key in now if key[0] in LEVEL and key not in KEPT]
        return {key: (before[key], now[key]) for key in level if now[key] > before[key]}

    until = time.monotonic() + ENDING
    for thread in busy:
        thread.join(max(0.0, until - time.monotonic()))
    hanging = [thread.name for thread in busy if thread.is_alive()]
    if hanging:
        said = f"gauges left: {above_zero()}; failures: {failures}; these hang: {hanging}"
        mount.kill()  # their reads end with it: else they would outlast this test
        pytest.fail(said)
    assert failures == [], f"gauges left: {above_zero()}"
    # Before all else: what is never given back is why other things go wrong.
    assert in_time(above_zero, IDLE) == {}, "gauges that are not zero when nobody reads"

    seen = most.seen
    assert seen[("nebfs_open_objects",)] == IMAGES
    assert seen[("nebfs_open_files",)] > IMAGES
    assert seen[("nebfs_cache_evicted_bytes_total", "disk")] > 0, "the cache was never full"
    assert seen[("nebfs_cache_used_bytes", "disk")] <= CACHE
    assert seen[("du",)] <= CACHE + OVERHEAD
    limit = seen[("nebfs_cache_limit_bytes", "memory")]
    assert seen[("nebfs_cache_used_bytes", "memory")] <= limit == 64 * MIB
    assert 0 < seen[("connections", "places")] <= 2 * CONNECTIONS
    assert 0 < seen[("connections", "oned")] <= TO_ONED
    for process in ("daemon", "fetcher"):
        assert seen[("nebfs_process_resident_bytes", process)] < MEMORY[process]
        assert seen[("nebfs_process_threads", process)] <= THREADS[process]
        assert seen[("nebfs_process_open_descriptors", process)] <= DESCRIPTORS[process]
    sockets = seen[("nebfs_process_open_sockets", "fetcher")]
    assert sockets > before[("nebfs_process_open_sockets", "fetcher")], "connections are sockets"

    # trio keeps a thread that has nothing to do for ten seconds.
    assert in_time(above_level, 40) == {}, "gauges that have not returned (before, now)"
    assert above_zero() == {}
    assert gauges.connections() == {"places": 0, "oned": 0}
    assert gauges.on_disk() <= CACHE + OVERHEAD
    assert gauges.told()[("nebfs_cache_used_bytes", "memory")] == 0
