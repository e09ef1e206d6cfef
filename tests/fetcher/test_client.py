"""The fetcher process for real: it works, is killed, restarted, cancelled, and leaks nothing."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trio

from nebfs.errors import Changed, FetcherDied, Missing, NebfsError, Unreachable, Unsupported
from nebfs.fetcher.client import open_fetcher
from nebfs.fetcher.messages import CallRequest, FetchRequest
from nebfs.fetcher.settings import FetcherSettings
from nebfs.model import Locator

SLOT = 4096
PATIENT = FetcherSettings(stall_timeout=15, connect_timeout=10, trust_env=False)


def open_descriptors(pid: int | str) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def until(condition, seconds: float = 30) -> None:
    """Wait for something outside this process."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - it happens in another process
            await trio.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


class Gate:
    """A script that sends `slots` slots of each answer, then waits to be opened."""

    def __init__(self, origin, slots: int) -> None:
        self.origin = origin
        self.slots = slots
        self.opened = threading.Event()
        self.waiting = threading.Semaphore(0)

    def __call__(self, request):
        whole = self.origin(request)
        head = whole.index(b"\r\n\r\n") + 4 + self.slots * SLOT
        yield whole[:head]
        if not self.opened.is_set():
            self.waiting.release()
            self.opened.wait(20)
        yield whole[head:]


async def test_fetch_and_statistics(serve, origin, target):
    server = serve(origin)
    async with open_fetcher(PATIENT) as fetcher:
        request = target.request(server.url + "/d", (0, 10), expected=None)
        assert await fetcher.fetch(request, target.fd, target.progress) == origin.revision
        target.check()
        assert target.slots == set(range(10))
        numbers = fetcher.statistics()
        assert (numbers.in_flight, numbers.restarts) == (0, 0)
        assert numbers.fetched_bytes == len(origin.data)
        pid = fetcher.pid
        assert alive(pid)
    assert not alive(pid)
    with pytest.raises(FetcherDied):
        await fetcher.fetch(request, target.fd, target.progress)


async def test_failures_cross_the_border(serve, origin, target, answer):
    server = serve(lambda r: answer(404) if r.target == "/no" else answer(503, retry_after="9"))
    with pytest.raises(Missing) as missing:  # and not a group
        async with open_fetcher(PATIENT) as fetcher:
            with pytest.raises(Unreachable) as caught:
                await fetcher.fetch(
                    target.request(server.url + "/d", (0, 1), expected=None), target.fd, print
                )
            assert caught.value.retry_after == 9
            assert caught.value.facts["status"] == 503
            with pytest.raises(Unsupported, match="gopher"):
                await fetcher.fetch(
                    FetchRequest(Locator("gopher", "x"), ((0, 1),), None, SLOT), target.fd, print
                )
            await fetcher.fetch(
                target.request(server.url + "/no", (0, 1), expected=None), target.fd, print
            )
    assert missing.value.facts["url"] == server.url + "/no"


async def test_nginx_byte_for_byte(nginx, make_target):
    url, root = nginx
    data = os.urandom(3_000_000) + bytes(2_000_000) + os.urandom(1_234_567)
    (root / "disk.img").write_bytes(data)
    target = make_target(data, 131072)
    async with open_fetcher(PATIENT) as fetcher:
        probe = target.request(url + "/disk.img", (0, 1), expected=None)
        revision = await fetcher.fetch(probe, target.fd, target.progress)
        assert revision.size == len(data)
        assert revision.ranges
        async with trio.open_nursery() as nursery:
            for first in range(1, 48, 8):
                request = target.request(
                    url + "/disk.img", (first, min(first + 8, 48)), expected=revision
                )
                nursery.start_soon(fetcher.fetch, request, target.fd, target.progress)
        (root / "disk.img").write_bytes(data + b"x")
        with pytest.raises(Changed):
            await fetcher.fetch(
                target.request(url + "/disk.img", (0, 1), expected=revision), target.fd, print
            )
    target.check()
    assert hashlib.md5(target.path.read_bytes()).digest() == hashlib.md5(data).digest()
    assert os.fstat(target.fd).st_blocks * 512 < len(data) - 1_500_000


async def test_killed_half_way_goes_on_where_it_was(serve, origin, target):
    gate = Gate(origin, 5)
    server = serve(gate)
    async with open_fetcher(PATIENT) as fetcher, trio.open_nursery() as nursery:
        request = target.request(server.url + "/d", (0, 10), expected=origin.revision)
        nursery.start_soon(fetcher.fetch, request, target.fd, target.progress)
        await until(lambda: len(target.filled) == 5)
        first = fetcher.pid
        gate.opened.set()
        os.kill(first, signal.SIGKILL)
        await until(lambda: len(target.filled) == 10)
        assert fetcher.restarts == 1
        assert fetcher.pid != first
    target.check()
    assert [r.range for r in server.requests] == [
        (0, len(origin.data)),
        (5 * SLOT, len(origin.data)),
    ]


async def test_probe_killed_half_way_goes_on_with_the_version_that_it_found(serve, origin, target):
    gate = Gate(origin, 5)
    server = serve(gate)
    async with open_fetcher(PATIENT) as fetcher:
        with pytest.raises(Changed):
            async with trio.open_nursery() as nursery:

                async def probe():
                    request = target.request(server.url + "/d", (0, 10), expected=None)
                    try:
                        await fetcher.fetch(request, target.fd, target.progress)
                    except Changed as exc:
                        failures.append(exc)

                failures: list[Changed] = []
                nursery.start_soon(probe)
                await until(lambda: len(target.filled) == 5)
                origin.etag = '"v2"'
                gate.opened.set()
                os.kill(fetcher.pid, signal.SIGKILL)
            raise failures[0]
    assert len(target.filled) == 5


async def test_killed_twice_is_given_up(serve, origin, target):
    gate = Gate(origin, 1)
    server = serve(gate)
    async with open_fetcher(PATIENT) as fetcher:
        caught = []

        async def fetch():
            request = target.request(server.url + "/d", (0, 10), expected=origin.revision)
            try:
                await fetcher.fetch(request, target.fd, target.progress)
            except FetcherDied as exc:
                caught.append(exc)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch)
            for _ in range(2):
                await until(lambda: gate.waiting.acquire(blocking=False))
                os.kill(fetcher.pid, signal.SIGKILL)
        assert len(caught) == 1
        gate.opened.set()
        # The next question finds a living worker again.
        assert (await fetcher.call(CallRequest("GET", server.url + "/d"))).status == 200
        assert fetcher.restarts == 2
    target.check()


async def test_killed_while_nothing_is_asked(serve, origin, target):
    server = serve(origin)
    async with open_fetcher(PATIENT) as fetcher:
        for _ in range(3):
            os.kill(fetcher.pid, signal.SIGKILL)
            assert (await fetcher.call(CallRequest("GET", server.url + "/d"))).status == 200


async def test_cancelling_closes_the_connection_and_stops_writing(serve, origin, target):
    gate = Gate(origin, 3)
    server = serve(gate)
    async with open_fetcher(PATIENT) as fetcher:
        async with trio.open_nursery() as nursery:
            request = target.request(server.url + "/d", (0, 10), expected=origin.revision)
            nursery.start_soon(fetcher.fetch, request, target.fd, target.progress)
            await until(lambda: len(target.filled) == 3)
            nursery.cancel_scope.cancel()
        gate.opened.set()
        await until(server.hung_up.is_set)
        assert fetcher.statistics().in_flight == 0
        assert fetcher.restarts == 0
    target.check()
    assert target.slots == {0, 1, 2}


async def test_progress_that_raises_fails_its_fetch_only(serve, origin, target):
    server = serve(origin)

    def progress(slots):
        raise RuntimeError("listener")

    async with open_fetcher(PATIENT) as fetcher:
        request = target.request(server.url + "/d", (0, 10), expected=origin.revision)
        with pytest.raises(RuntimeError, match="listener"):
            await fetcher.fetch(request, target.fd, progress)
        await fetcher.fetch(request, target.fd, target.progress)
    target.check()


async def test_closed_descriptor_is_the_callers_failure(serve, origin, target):
    async with open_fetcher(PATIENT) as fetcher:
        request = target.request(serve(origin).url + "/d", (0, 1), expected=origin.revision)
        with pytest.raises(Unreachable, match="Bad file descriptor"):
            await fetcher.fetch(request, 987, target.progress)


async def test_large_bodies_both_ways(serve, answer):
    server = serve(lambda request: answer(200, request.body[::-1]))
    body = os.urandom(5_000_000)
    async with open_fetcher(PATIENT) as fetcher:
        await fetcher.call(CallRequest("POST", server.url + "/", body=b"x"))
        before = open_descriptors("self"), open_descriptors(fetcher.pid)
        for _ in range(3):
            got = await fetcher.call(CallRequest("POST", server.url + "/", body=body))
            assert got.body == body[::-1]
        assert open_descriptors("self") == before[0]
        assert open_descriptors(fetcher.pid) <= before[1] + PATIENT.connections_per_host


async def test_five_hundred_at_once_and_no_descriptor_left(nginx, make_target):
    url, root = nginx
    data = os.urandom(500 * SLOT)
    (root / "d").write_bytes(data)
    target = make_target(data)
    async with open_fetcher(PATIENT) as fetcher:
        probe = target.request(url + "/d", expected=None)
        revision = await fetcher.fetch(probe, target.fd, target.progress)
        before = open_descriptors("self"), open_descriptors(fetcher.pid)
        async with trio.open_nursery() as nursery:
            for n in range(500):
                request = target.request(url + "/d", (n, n + 1), expected=revision)
                nursery.start_soon(fetcher.fetch, request, target.fd, target.progress)
        assert len(target.slots) == 500
        assert open_descriptors("self") == before[0]
        assert open_descriptors(fetcher.pid) <= before[1] + PATIENT.connections_per_host
        assert fetcher.restarts == 0
    target.check()


async def test_answered_means_that_the_worker_has_closed_the_file(serve, origin, target):
    server = serve(origin)
    async with open_fetcher(PATIENT) as fetcher:
        links = Path(f"/proc/{fetcher.pid}/fd")
        for n in range(100):
            request = target.request(server.url + "/d", (n % 10, n % 10 + 1), expected=None)
            await fetcher.fetch(request, target.fd, lambda slots: None)
            assert str(target.path) not in {os.readlink(link) for link in links.iterdir()}


async def test_cancelling_five_hundred_at_once_leaves_no_descriptor(serve, origin, target):
    gate = Gate(origin, 0)
    server = serve(gate)
    async with open_fetcher(PATIENT) as fetcher:
        async with trio.open_nursery() as nursery:
            for _ in range(500):
                request = target.request(server.url + "/d", (0, 1), expected=origin.revision)
                nursery.start_soon(fetcher.fetch, request, target.fd, target.progress)
            await until(lambda: open_descriptors(fetcher.pid) > 500)
            nursery.cancel_scope.cancel()
        await until(lambda: open_descriptors(fetcher.pid) < 50)
        gate.opened.set()
    assert target.reports == []


async def test_worker_ignores_ctrl_c(serve, origin):
    server = serve(origin)
    async with open_fetcher(PATIENT) as fetcher:
        await fetcher.call(CallRequest("GET", server.url + "/"))
        os.kill(fetcher.pid, signal.SIGINT)
        assert (await fetcher.call(CallRequest("GET", server.url + "/"))).status == 200
        assert fetcher.restarts == 0
        assert os.getsid(fetcher.pid) != os.getsid(0)


PARENT = """
import os, sys, trio
from nebfs.fetcher.client import open_fetcher
from nebfs.fetcher.messages import CallRequest
from nebfs.fetcher.settings import FetcherSettings

async def main():
    async with open_fetcher(FetcherSettings(trust_env=False)) as fetcher:
        await fetcher.call(CallRequest("GET", sys.argv[1]))
        if os.fork() == 0:  # a child that keeps the socket open: EOF alone would not come
            os.execlp("sleep", "sleep", "60")
        print('pid', fetcher.pid, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


async def test_worker_dies_with_the_daemon(serve, origin):
    server = serve(origin)
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, server.url + "/"],
        stdout=subprocess.PIPE,
        cwd=root,
        start_new_session=True,
    )
    try:
        lines = iter(parent.stdout.readline, b"")  # the log is among them
        pid = int(next(line for line in lines if line.startswith(b"pid "))[4:])
        assert alive(pid)
        parent.kill()
        parent.wait(10)
        await until(lambda: not alive(pid))
    finally:
        parent.stdout.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)


async def test_hostile_working_directory_is_not_imported(serve, origin, tmp_path, monkeypatch):
    (tmp_path / "aiohttp.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    async with open_fetcher(PATIENT) as fetcher:
        assert (await fetcher.call(CallRequest("GET", serve(origin).url + "/"))).status == 200
        assert os.readlink(f"/proc/{fetcher.pid}/cwd") == "/"
        assert fetcher.restarts == 0


async def test_stopped_worker_is_killed_at_the_end(monkeypatch):
    monkeypatch.setattr("nebfs.fetcher.process.GRACE", 0.2)
    async with open_fetcher(PATIENT) as fetcher:
        pid = fetcher.pid
        os.kill(pid, signal.SIGSTOP)
    assert not alive(pid)


# --- one word -------------------------------------------------------------------------------------


async def test_a_worker_that_hangs_does_not_answer_and_the_next_one_does():
    async with open_fetcher(PATIENT) as fetcher:
        await fetcher.ping()
        hung = fetcher.pid
        os.kill(hung, signal.SIGSTOP)
        with trio.move_on_after(0.3) as waited:
            await fetcher.ping()
        assert waited.cancelled_caught
        fetcher.kill()
        with trio.fail_after(30):
            await fetcher.ping()
        assert fetcher.pid != hung
        assert not alive(hung)


async def test_new_credentials_are_used_and_what_is_under_way_goes_on(
    serve, origin, target, answer, tmp_path
):
    file = tmp_path / "credentials.toml"
    gate = Gate(origin, 5)

    def script(request):
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if request.target != "/d":
            return answer(200, token.encode())
        return gate(request)

    server = serve(script)

    def write(token):
        file.write_text(f'["{server.url}"]\nbearer-token = "{token}"\n')
        file.chmod(0o600)

    async def shown():
        return (await fetcher.call(CallRequest("GET", server.url + "/who"))).body

    write("old")
    settings = FetcherSettings(credentials_file=str(file), trust_env=False)
    async with open_fetcher(settings) as fetcher, trio.open_nursery() as nursery:
        assert await shown() == b"old"
        request = target.request(server.url + "/d", (0, 10), expected=None)
        nursery.start_soon(fetcher.fetch, request, target.fd, target.progress)
        await until(lambda: gate.waiting.acquire(blocking=False))
        write("new")
        assert await shown() == b"old"
        await fetcher.reload()
        assert await shown() == b"new"
        file.write_text("this is no TOML")
        with pytest.raises(NebfsError):
            await fetcher.reload()
        assert await shown() == b"new"
        gate.opened.set()
    assert fetcher.restarts == 0
    target.check()
    assert target.slots == set(range(10))
