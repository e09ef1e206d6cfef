"""sd_notify(3) in our own words: what is sent, to whom, and when the watchdog hears nothing."""

import os
import socket
import subprocess

import pytest
import trio

from nebfs.daemon.notify import STATUS_INTERVAL, Notifier, one_line
from nebfs.errors import FetcherDied


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """A service manager's socket, and the address that it tells."""
    name = f"nebfs-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        if request.param == "path":
            sock.bind(str(tmp_path / "notify"))
            yield sock, str(tmp_path / "notify")
        else:
            sock.bind(f"\0{name}")
            yield sock, f"@{name}"


def heard(sock):
    messages = []
    while True:
        try:
            messages.append(sock.recv(4096).decode().splitlines())
        except BlockingIOError:
            return messages


def test_what_is_said(manager):
    sock, address = manager
    notifier = Notifier.taken_from({"NOTIFY_SOCKET": address})
    notifier.starting("one\ntwo")
    notifier.ready("http://h at /mnt\nREADY=0")
    notifier.reloading()
    notifier.stopping()
    notifier.ready("too late")
    starting, ready, reloading, stopping = heard(sock)
    assert starting == ["STATUS=one two"]
    assert ready == ["READY=1", "STATUS=http://h at /mnt READY=0"]
    assert reloading[0] == "RELOADING=1"
    assert reloading[1].startswith("MONOTONIC_USEC=")
    assert stopping[0] == "STOPPING=1"


def test_it_is_what_systemds_own_tool_sends(manager):
    sock, address = manager
    environment = {**os.environ, "NOTIFY_SOCKET": address}
    subprocess.run(
        ["systemd-notify", "--no-block", "--ready", "--status=x y"], env=environment, check=True
    )
    (theirs,) = heard(sock)
    Notifier(address).ready("x y")
    assert set(heard(sock)[0]) == set(theirs)


def test_the_environment_is_not_handed_on_and_the_watchdog_is_ours():
    environment = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "3000000", "A": "b"}
    assert Notifier.taken_from(environment) == Notifier("@x", 3.0)
    assert environment == {"A": "b"}
    for pid, seconds in ((os.getpid(), 3.0), (1, 0.0)):
        environment = {
            "NOTIFY_SOCKET": "@x",
            "WATCHDOG_USEC": "3000000",
            "WATCHDOG_PID": str(pid),
        }
        assert Notifier.taken_from(environment).watchdog == seconds


@pytest.mark.parametrize("address", ["", "@", "vsock:2:1", "relative/path"])
def test_what_is_no_socket_is_not_written_to(address):
    notifier = Notifier.taken_from({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1"})
    assert notifier == Notifier()
    notifier.ready("nobody hears it")


def test_a_manager_that_is_gone_is_no_reason_to_fail(tmp_path):
    Notifier(str(tmp_path / "nobody")).ready("x")


def test_a_line_stays_one_line():
    assert one_line("a\nSTOPPING=1\t\x1bb  c") == "a STOPPING=1 b c"


class Fetcher:
    """Answers at once, or not at all."""

    def __init__(self):
        self.hangs = False
        self.kills = 0

    async def ping(self):
        if self.hangs:
            await trio.sleep_forever()

    def kill(self):
        self.kills += 1
        self.hangs = False


async def beats(sock, autojump_clock, seconds):
    heard(sock)
    await trio.sleep(seconds)
    return sum(message == ["WATCHDOG=1"] for message in heard(sock))


async def test_the_watchdog_hears_at_half_its_time_and_only_while_the_fetcher_answers(
    manager, autojump_clock
):
    sock, address = manager
    notifier, fetcher = Notifier(address, 10.0), Fetcher()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notifier.keep_telling, fetcher, lambda: "fine")
        await trio.sleep(1)
        assert await beats(sock, autojump_clock, 50) == 10
        fetcher.hangs = True
        assert await beats(sock, autojump_clock, 8.5) == 0, "told although the fetcher is silent"
        assert await beats(sock, autojump_clock, 50) == 10, "the next fetcher answers"
        assert fetcher.kills == 1
        nursery.cancel_scope.cancel()


async def test_a_fetcher_that_dies_while_it_is_asked_takes_nothing_down(manager, autojump_clock):
    sock, address = manager
    failures = [FetcherDied("it died twice"), RuntimeError("a mistake of ours")]

    class Dying(Fetcher):
        async def ping(self):
            if failures:
                raise failures.pop()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(Notifier(address, 10.0).keep_telling, Dying(), str)
        await trio.sleep(9)
        assert heard(sock) == []
        assert await beats(sock, autojump_clock, 10) == 2
        nursery.cancel_scope.cancel()


async def test_a_status_is_told_when_it_changes(manager, autojump_clock):
    sock, address = manager
    notifier, status = Notifier(address), ["fine"]
    notifier.ready("fine")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notifier.keep_telling, Fetcher(), lambda: status[0])
        await trio.sleep(2 * STATUS_INTERVAL)
        assert heard(sock) == [["READY=1", "STATUS=fine"]]
        status[0] = "a place is away"
        await trio.sleep(2 * STATUS_INTERVAL)
        assert heard(sock) == [["STATUS=a place is away"]]
        nursery.cancel_scope.cancel()


def test_nobody_to_tell_costs_nothing():
    trio.run(Notifier().keep_telling, Fetcher(), str)
