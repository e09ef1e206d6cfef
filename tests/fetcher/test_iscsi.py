"""iSCSI against a real target: right bytes, CHAP, refusals, a target that goes, no orphans."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import tempfile
import time
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from nebfs.errors import Changed, Missing, Refused, Unreachable, Unsupported
from nebfs.fetcher.client import open_fetcher
from nebfs.fetcher.messages import CallRequest, FetchRequest
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports import make_transport, qsd, qsd_exports
from nebfs.fetcher.transports.iscsi_failures import explain
from nebfs.fetcher.transports.qsd import Node
from nebfs.model import Locator, Revision
from tests.fetcher.tgt import PASSWORD, USER, serving

SLOT = 128 << 10
MIB = 1 << 20

Source = random.Random(13)
DATA = Source.randbytes(5 * MIB) + bytes(3 * MIB) + Source.randbytes(MIB + 512)


class Listener:
    def __init__(self, target, then=None):
        self.found = target.found.append
        self.target = target
        self.handed = []
        self.then = then

    def filled(self, slots):
        self.target.progress(slots)
        if self.then is not None:
            then, self.then = self.then, None
            then()

    def early(self, offset, data):
        self.handed.append((offset, data))


@asynccontextmanager
async def transport(settings):
    made = make_transport("iscsi", settings)
    try:
        yield made
    finally:
        await made.aclose()


def asked_of(address, target, *ranges, expected=None, wanted=None, slot=SLOT, **options):
    """A request for `ranges` of slots (first, beyond the last); for all of it without any."""
    size = len(target.content)
    spans = [(a * slot, min(b * slot, size)) for a, b in ranges] or [(0, size)]
    locator = Locator("iscsi", address, tuple(options.items()))
    return FetchRequest(locator, tuple(spans), expected, slot, 2**64 - 2, wanted)


def fetch(request, target, settings, then=None):
    async def run():
        async with transport(settings) as iscsi:
            return await iscsi.fetch(request, target.fd, Listener(target, then))

    return asyncio.run(run())


def qsds(parent=None):
    """The qemu-storage-daemons that run, of this process or of another."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, rest = status.read_text().rpartition(")")[::2]
        except OSError:
            continue
        state, ppid = rest.split()[:2]
        if state != "Z" and "(qemu-storage-d" in name and int(ppid) == (parent or os.getpid()):
            found.append(int(status.parent.name))
    return found


@pytest.fixture
def settings(tmp_path):
    """Make settings, whose file of credentials has these entries: address -> lines."""

    def make(entries=None, **changes):
        facts = {"connect_timeout": 20.0, "stall_timeout": 20.0, **changes}
        if entries:
            path = tmp_path / "credentials"
            path.write_text("".join(f'["{a}"]\n{lines}\n' for a, lines in entries.items()))
            path.chmod(0o600)
            facts["credentials_file"] = str(path)
        return FetcherSettings(**facts)

    return make


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path, monkeypatch):
    """No process, and nothing in the directory for temporary files, whose name may be long."""
    temporary = tmp_path / ("a" * 120)
    temporary.mkdir()
    made = SimpleNamespace(mkdtemp=partial(tempfile.mkdtemp, dir=temporary))
    monkeypatch.setattr(qsd, "tempfile", made)
    yield
    assert qsds() == []
    assert list(temporary.iterdir()) == []


@pytest.fixture
def target(make_target):
    return make_target(DATA, SLOT)


def with_chap(tgt):
    name = tgt.target("chap", user=USER, password=PASSWORD)
    tgt.unit(1, DATA)
    return tgt.address(name)


def without_chap(tgt):
    name = tgt.target("open")
    tgt.unit(1, DATA)
    return tgt.address(name)


LOGIN = f'user = "{USER}"\npassword = "{PASSWORD}"'


def test_every_byte_comes_and_its_length_is_found(tgt, target, settings):
    revision = fetch(asked_of(without_chap(tgt), target), target, settings())
    assert revision == Revision(len(DATA))
    assert target.found == [revision]
    target.check()


def test_ranges_come_alone(tgt, target, settings):
    last = len(DATA) // SLOT
    ranges = ((1, 2), (30, 41), (last, last + 1))
    fetch(
        asked_of(without_chap(tgt), target, *ranges, expected=Revision(len(DATA))),
        target,
        settings(),
    )
    assert target.slots == {1, *range(30, 41), last}
    target.check()


@pytest.mark.parametrize("entry", ["iscsi://{portal}", "iscsi://{portal}/{name}"])
def test_chap_with_a_password_out_of_the_file_of_credentials(tgt, target, settings, entry):
    address = with_chap(tgt)
    entry = entry.format(portal=tgt.portal, name=address.split("/")[3])
    # The user that is there wins over what OpenNebula says.
    fetch(asked_of(address, target, user="other"), target, settings({entry: LOGIN}))
    target.check()


def test_the_user_may_be_the_locators(tgt, target, settings):
    entry = {f"iscsi://{tgt.portal}": f'password = "{PASSWORD}"'}
    fetch(asked_of(with_chap(tgt), target, user=USER), target, settings(entry))
    target.check()


def test_a_password_is_in_no_command_line_and_no_environment(tgt, target, settings):
    seen = []

    def look():
        for name in ("cmdline", "environ"):
            for path in Path("/proc").glob(f"[0-9]*/{name}"):
                with contextlib.suppress(OSError):  # it has ended
                    seen.append((path, path.read_bytes()))

    fetch(
        asked_of(with_chap(tgt), target),
        target,
        settings({f"iscsi://{tgt.portal}": LOGIN}),
        then=look,
    )
    assert any(b"qemu-storage-daemon" in text for _, text in seen)
    assert [path for path, text in seen if PASSWORD.encode() in text] == []


@pytest.mark.parametrize(
    ("entry", "options", "words"),
    [
        (f'user = "{USER}"\npassword = "canary-wrong-1"', {}, "does not accept"),
        (f'user = "nobody"\npassword = "{PASSWORD}"', {}, "does not accept"),
        ("", {}, "may want a CHAP user and password"),
        ("", {"user": USER}, "no CHAP password: the file of credentials"),
        (f'password = "{PASSWORD}"', {}, "no user"),
    ],
)
def test_a_target_that_refuses_us_is_refused_and_no_password_is_shown(
    tgt, target, settings, entry, options, words
):
    address = with_chap(tgt)
    entries = {f"iscsi://{tgt.portal}": entry} if entry else None
    with pytest.raises(Refused, match=words) as caught:
        fetch(asked_of(address, target, **options), target, settings(entries))
    assert "canary" not in str(caught.value) + repr(caught.value)
    target.check_untouched()


def test_a_password_is_for_its_own_target_only(tgt, target, settings):
    entries = {f"iscsi://{tgt.portal}/iqn.2003-01.org.example:other": LOGIN}
    with pytest.raises(Refused):
        fetch(asked_of(with_chap(tgt), target), target, settings(entries))


def test_what_is_not_there_is_missing(tgt, target, settings):
    address = without_chap(tgt)
    with pytest.raises(Missing, match="no such LUN"):
        fetch(asked_of(address[:-1] + "7", target), target, settings())
    with pytest.raises(Missing, match="no such target"):
        fetch(asked_of(address.replace(":open", ":shut"), target), target, settings())
    with pytest.raises(Unsupported, match="is no disk"):
        fetch(asked_of(address[:-1] + "0", target), target, settings())
    target.check_untouched()


def test_a_target_may_know_one_initiator_only(tgt, target, settings):
    name = tgt.target("ours", initiator="iqn.2026-01.org.example:nebfs")
    tgt.unit(1, DATA)
    with pytest.raises(Missing, match="this initiator"):
        fetch(asked_of(tgt.address(name), target), target, settings())
    ours = {"initiator": "iqn.2026-01.org.example:nebfs"}
    fetch(asked_of(tgt.address(name), target, **ours), target, settings())
    target.check()


def test_ipv6_is_written_in_brackets(target, settings):
    with serving("::1") as tgt:
        fetch(asked_of(without_chap(tgt), target), target, settings())
    target.check()


def test_4_kib_in_the_middle_read_4_kib(tgt, make_target, settings):
    address = without_chap(tgt)
    target = make_target(DATA, 4096)

    async def run():
        async with transport(settings()) as iscsi:
            revision = await iscsi.fetch(
                asked_of(address, target, (0, 1)), target.fd, Listener(target)
            )
            before = tgt.read_bytes()
            request = asked_of(address, target, (700, 701), expected=revision, slot=4096)
            await iscsi.fetch(request, target.fd, Listener(target))
            return tgt.read_bytes() - before

    assert asyncio.run(run()) == 4096


def test_what_was_never_written_is_not_sent(tgt, make_target, settings):
    data = Source.randbytes(MIB) + bytes(30 * MIB) + Source.randbytes(MIB)
    name = tgt.target("thin")
    path = tgt.root / "thin"
    with path.open("wb") as file:
        file.write(data[:MIB])
        file.seek(31 * MIB)
        file.write(data[31 * MIB :])
    tgt.unit(1, path, thin_provisioning="1")
    target = make_target(data, SLOT)
    read = []
    asked = asked_of(tgt.address(name), target)

    async def run():
        async with transport(settings()) as iscsi:
            await iscsi.fetch(asked, target.fd, Listener(target))
            read.append(tgt.read_bytes())
            # Another initiator writes there: what was nothing must not be remembered.
            with path.open("r+b") as file:
                file.seek(16 * MIB)
                file.write(b"written")
            again = make_target(data[: 16 * MIB] + b"written" + data[16 * MIB + 7 :], SLOT)
            await iscsi.fetch(asked, again.fd, Listener(again))
            again.check()

    asyncio.run(run())
    target.check()
    assert read[0] < 4 * MIB


def test_units_with_long_sectors_are_read_at_any_byte(tgt, make_target, settings):
    data = Source.randbytes(MIB)
    name = tgt.target("long")
    tgt.unit(1, data, "--blocksize", "4096")
    target = make_target(data, 1024)
    request = asked_of(tgt.address(name), target, (0, 1), (501, 503), slot=1024)
    assert fetch(request, target, settings()) == Revision(MIB)
    target.check()


def test_what_somebody_waits_for_is_handed_over(tgt, target, settings):
    wanted = (20 * SLOT + 5000, 20 * SLOT + 9000)

    async def run():
        async with transport(settings()) as iscsi:
            listener = Listener(target)
            request = asked_of(without_chap(tgt), target, (0, 40), wanted=wanted)
            await iscsi.fetch(request, target.fd, listener)
            return listener.handed

    handed = asyncio.run(run())
    assert handed
    assert set(handed) == {(wanted[0], DATA[slice(*wanted)])}
    target.check()


# --- Trouble ----------------------------------------------------------------------------------


@contextmanager
def within(seconds):
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


def test_nobody_there_is_unreachable(target, settings):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(Unreachable, match="cannot be reached"):
        fetch(asked_of(f"iscsi://127.0.0.1:{port}/iqn.x:y/1", target), target, settings())
    with pytest.raises(Unreachable, match="cannot be reached"):
        fetch(asked_of("iscsi://nowhere.invalid/iqn.x:y/1", target), target, settings())


def test_a_target_that_does_not_answer_is_unreachable_in_time(target, settings):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"iscsi://127.0.0.1:{silent.getsockname()[1]}/iqn.x:y/1"
        with within(15), pytest.raises(Unreachable, match="no answer in time"):
            fetch(asked_of(address, target), target, settings(connect_timeout=1.0))


def big(make_target, tgt):
    """A unit that takes some time to be read."""
    data = DATA * 8
    name = tgt.target("big")
    tgt.unit(1, data)
    target = make_target(data, SLOT)
    return target, asked_of(tgt.address(name), target)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_target_that_goes_in_the_middle_is_given_up_and_read_when_it_is_back(
    tgt, make_target, settings, number
):
    target, request = big(make_target, tgt)
    pid = tgt.pid

    async def run():
        async with transport(settings(stall_timeout=2.0)) as iscsi:
            with within(15), pytest.raises(Unreachable):
                listener = Listener(target, lambda: os.kill(pid, number))
                await iscsi.fetch(request, target.fd, listener)
            target.check()  # what came before it went is good
            assert 0 < len(target.slots) * SLOT < len(target.content)
            if number == signal.SIGKILL:
                tgt.kill()
                with within(15), pytest.raises(Unreachable):
                    await iscsi.fetch(request, target.fd, Listener(target))
                tgt.start()
            else:
                os.kill(pid, signal.SIGCONT)
            again = make_target(target.content, SLOT)
            await iscsi.fetch(request, again.fd, Listener(again))
            again.check()
            assert len(again.slots) * SLOT >= len(again.content)

    asyncio.run(run())


def test_a_target_that_is_back_in_time_is_not_noticed(tgt, make_target, settings):
    target, request = big(make_target, tgt)

    def restart():
        tgt.kill()
        tgt.start()

    fetch(request, target, settings(), then=restart)
    target.check()
    assert len(target.slots) * SLOT >= len(target.content)


def test_a_daemon_that_is_killed_is_an_error_and_another_is_started(tgt, make_target, settings):
    target, request = big(make_target, tgt)

    async def run():
        async with transport(settings()) as iscsi:
            with pytest.raises(Unreachable):
                listener = Listener(target, lambda: os.kill(qsds()[0], signal.SIGKILL))
                await iscsi.fetch(request, target.fd, listener)
            again = make_target(target.content, SLOT)
            await iscsi.fetch(request, again.fd, Listener(again))
            again.check()

    asyncio.run(run())


def test_a_unit_of_another_length_is_another_version(tgt, target, settings, monkeypatch):
    monkeypatch.setattr(qsd_exports, "FRESH", 0.0)
    address = without_chap(tgt)

    async def run():
        async with transport(settings()) as iscsi:
            revision = await iscsi.fetch(asked_of(address, target), target.fd, Listener(target))
            tgt.kill()
            os.truncate(tgt.root / "disk-1-1", 2 * MIB)
            tgt.start()
            with pytest.raises(Changed, match="length"):
                # QEMU itself does not notice; it is asked for what we do not expect.
                old = Revision(revision.size - 512)
                await iscsi.fetch(
                    asked_of(address, target, (0, 1), expected=old), target.fd, Listener(target)
                )
            probe = asked_of(address, target, (0, 1))
            again = await iscsi.fetch(probe, target.fd, Listener(target))
            assert again == Revision(2 * MIB)

    asyncio.run(run())


def test_a_fetch_that_is_cancelled_writes_nothing_more(tgt, make_target, settings):
    target, request = big(make_target, tgt)

    async def run():
        async with transport(settings()) as iscsi:
            listener = Listener(target, lambda: task.cancel() and None)
            task = asyncio.create_task(iscsi.fetch(request, target.fd, listener))
            with pytest.raises(asyncio.CancelledError):
                await task
            reported = len(target.filled)
            target.check()
            again = make_target(target.content, SLOT)
            await iscsi.fetch(request, again.fd, Listener(again))
            again.check()
            assert len(target.filled) == reported
            assert len(qsds()) == 1

    asyncio.run(run())


# --- Processes --------------------------------------------------------------------------------


def two_units(tgt):
    name = tgt.target("two")
    tgt.unit(1, DATA)
    tgt.unit(2, DATA)
    return tgt.address(name, 1), tgt.address(name, 2)


def test_one_process_serves_all_who_read_a_unit_and_ends_when_it_is_idle(
    tgt, make_target, settings, monkeypatch
):
    monkeypatch.setattr(qsd_exports, "IDLE", 0.3)
    targets = [make_target(DATA, SLOT) for _ in range(4)]
    address = without_chap(tgt)

    async def run():
        async with transport(settings()) as iscsi:
            await asyncio.gather(
                *(iscsi.fetch(asked_of(address, t), t.fd, Listener(t)) for t in targets)
            )
            assert len(qsds()) == 1
            assert len(tgt.sessions()) == 1
            async with asyncio.timeout(20):
                while qsds():  # noqa: ASYNC110 - nothing tells
                    await asyncio.sleep(0.02)
            assert tgt.sessions() == []  # it has said goodbye
            more = make_target(DATA, SLOT)
            await iscsi.fetch(asked_of(address, more), more.fd, Listener(more))

    asyncio.run(run())
    for target in targets:
        target.check()


def test_there_are_never_too_many_processes(tgt, make_target, settings, monkeypatch):
    monkeypatch.setattr(qsd_exports, "MOST", 1)
    addresses = two_units(tgt) * 3
    targets = [make_target(DATA, SLOT) for _ in addresses]

    async def run():
        async with transport(settings()) as iscsi:
            work = asyncio.gather(
                *(
                    iscsi.fetch(asked_of(a, t), t.fd, Listener(t))
                    for a, t in zip(addresses, targets, strict=True)
                )
            )
            seen = 0
            while not work.done():
                seen = max(seen, len(qsds()))
                await asyncio.sleep(0.005)
            await work
            assert seen == 1

    asyncio.run(run())
    for target in targets:
        target.check()
        assert len(target.slots) * SLOT >= len(DATA)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_no_process_outlives_the_fetcher(tgt, make_target, settings, number):
    target, request = big(make_target, tgt)
    async with open_fetcher(settings()) as fetcher:
        await fetcher.fetch(request, target.fd, target.progress)
        target.check()
        first = fetcher.pid
        (child,) = qsds(first)
        os.kill(first, number)
        with trio.fail_after(20):
            while Path(f"/proc/{child}").exists():  # noqa: ASYNC110 - nothing tells
                await trio.sleep(0.01)
        again = make_target(target.content, SLOT)
        await fetcher.fetch(request, again.fd, again.progress)
        again.check()
        (child,) = qsds(fetcher.pid)
        assert fetcher.pid != first
    assert not Path(f"/proc/{child}").exists()


def test_a_missing_program_says_what_to_install(target, settings, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(Unsupported, match="install qemu-system-common and qemu-block-extra"):
        fetch(asked_of("iscsi://127.0.0.1/iqn.x:y/1", target), target, settings())


def test_a_missing_driver_says_what_to_install():
    said = "qemu-storage-daemon: --blockdev {...}: Unknown driver 'iscsi'\n"
    assert "qemu-block-extra" in str(explain(Node.of({}), said))


def test_only_what_qemu_says_counts_and_not_what_it_was_told():
    user = "log in to target (513) (0x2500) Unknown driver"
    said = f'--blockdev {{"user": "{user}"}}: iSCSI: Failed to connect to LUN : it is\tbroken\n'
    failure = explain(Node.of({}, shown="iscsi://h/t/1"), said)
    assert isinstance(failure, Unreachable)
    assert failure.facts["reason"] == "Failed to connect to LUN : it is broken"


@pytest.mark.parametrize(
    "address",
    [
        "iscsi://host/iqn.x:y",
        "iscsi://host/iqn.x:y/",
        "iscsi://host/iqn.x:y/one",
        "iscsi://host/iqn.x:y/1/2",
        "iscsi://host/iqn.x:y/-1",
        "iscsi://host/iqn.x:y/16384",
        "iscsi://host/iqn%2Fx/1",
        "iscsi://host/iqn%0Ax/1",
        "iscsi://host//1",
        "iscsi:///iqn.x:y/1",
        "iscsi://host:99999/iqn.x:y/1",
        "iscsi://[::1/iqn.x:y/1",
        "iscsi://ho,st/iqn.x:y/1",
        "http://host/iqn.x:y/1",
    ],
)
def test_what_is_no_address_is_not_tried(target, settings, address):
    with pytest.raises(Unsupported, match="no address"):
        fetch(asked_of(address, target), target, settings())


def test_there_is_nothing_to_call(settings):
    async def run():
        async with transport(settings()) as iscsi:
            await iscsi.call(CallRequest("LOOK", "iscsi://host", transport="iscsi"))

    with pytest.raises(Unsupported, match="no such method"):
        asyncio.run(run())
