"""What is told to Prometheus, read by its own parser; and listening on TCP for it."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE
from types import SimpleNamespace

import h11
import pytest
import trio
import trio.testing
from prometheus_client.parser import text_string_to_metric_families

from nebfs import config_kinds
from nebfs.blocks import MemoryStore
from nebfs.catalog.callers import Facts
from nebfs.catalog.snapshot import CloudSnapshot, DatastoreListing, MarketplaceListing
from nebfs.content.pace import Pace
from nebfs.daemon import listening, metrics
from nebfs.daemon.status import Status
from nebfs.daemon.web import as_json
from nebfs.errors import UserError
from nebfs.fetcher.client import FetcherStatistics
from nebfs.fuse.operations import Counters
from nebfs.model import Datastore, Marketplace

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = 'a "b"\n\\c{d="e"} \udcff 1'


def listings(count=1):
    return tuple(MarketplaceListing(Marketplace(n, f"market {n}"), as_of=5.0) for n in range(count))


def house(**changed):
    """What the metrics look at, with made-up numbers."""
    pace = Pace(0.25)
    pace.requests, pace.failures, pace.bytes, pace.seconds = 7, 2, 1000, 3.5
    snapshot = CloudSnapshot(
        "http://h",
        100.0,
        marketplaces=changed.get("marketplaces", listings()),
        datastores=(DatastoreListing(Datastore(1, HOSTILE), trouble="gone"),),
    )
    return SimpleNamespace(
        store=MemoryStore(1 << 20),
        memory=MemoryStore(1 << 19),
        fetcher=SimpleNamespace(pid=0, statistics=lambda: FetcherStatistics(1, 2, 3)),
        catalog=SimpleNamespace(
            current=None if changed.get("unlisted") else snapshot, denied=changed.get("denied", "")
        ),
        library=SimpleNamespace(paces=lambda: {"https://h": pace}, open_objects=4),
        tree=SimpleNamespace(inodes=[1, 2, 3]),
        operations=SimpleNamespace(
            counters=Counters(warm_reads=90, cold_reads=10, bytes_read=4096, errors=1),
            slow=SimpleNamespace(counted=6),
            handles=range(5),
        ),
        callers=changed.get("callers"),
    )


async def asked(house):
    """Return all samples: name and labels -> value."""
    handler = metrics.routes(house, Status(house, Path("/mnt")))["GET", "/metrics"]
    reply = await handler(None)
    assert reply.kind.startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(reply.body.decode()))
    assert all(family.documentation for family in families)
    samples = [sample for family in families for sample in family.samples]
    found = {(s.name, tuple(sorted(s.labels.items()))): s.value for s in samples}
    assert len(found) == len(samples), "two samples of one series"
    return found


async def test_what_the_rooms_count_is_told():
    found = await asked(house())
    assert found["nebfs_reads_total", (("answered", "at_once"),)] == 90
    assert found["nebfs_reads_total", (("answered", "waited"),)] == 10
    assert found["nebfs_read_bytes_total", ()] == 4096
    assert found["nebfs_slow_operations_total", ()] == 6
    assert found["nebfs_fetched_bytes_total", ()] == 3
    server = (("server", "https://h"),)
    assert found["nebfs_server_requests_total", server] == 7
    assert found["nebfs_server_latency_seconds", server] == 0.25
    assert ("nebfs_server_rate_bytes_per_second", server) not in found, "it was never measured"
    place = (("id", "0"), ("kind", "marketplace"), ("name", "market 0"))
    assert found["nebfs_place_healthy", place] == 1
    assert found["nebfs_healthy", ()] == 0, "the datastore is in trouble"
    assert found["nebfs_process_resident_bytes", (("process", "daemon"),)] > 1 << 20
    assert not any(labels == (("process", "fetcher"),) for _, labels in found), "it is not running"


async def test_other_users_are_counted_and_not_named():
    known = [Facts(60001, "alice", 3.0, ""), Facts(60002, "bob", 7.5, "no answer")]
    found = await asked(house(callers=SimpleNamespace(facts=lambda: known)))
    assert found["nebfs_callers", ()] == 2
    assert found["nebfs_callers_age_seconds", ()] == 7.5
    assert "alice" not in str(found)
    nobody = await asked(house(callers=SimpleNamespace(facts=list)))
    assert nobody["nebfs_callers", ()] == 0
    assert ("nebfs_callers_age_seconds", ()) not in nobody


async def test_names_are_somebodys_text():
    found = await asked(house())
    shown = HOSTILE.replace("\udcff", r"\udcff")
    place = (("id", "1"), ("kind", "datastore"), ("name", shown))
    assert found["nebfs_place_healthy", place] == 0
    assert ("nebfs_place_list_age_seconds", place) not in found, "it was never listed"


async def test_there_are_as_many_series_as_places_and_a_thousand_of_these():
    few = await asked(house(marketplaces=listings(10)))
    many = await asked(house(marketplaces=listings(5000)))
    assert many["nebfs_places", ()] == 5001
    assert len(many) - len(few) == 3 * metrics.MOST_PLACES - (3 * 11 - 1)


@pytest.mark.parametrize("trouble", [{"unlisted": True}, {"denied": "wrong password"}])
async def test_a_mount_without_lists_or_login_is_not_healthy(trouble):
    found = await asked(house(**trouble))
    assert found["nebfs_healthy", ()] == 0


async def test_every_family_is_used_and_named_as_prometheus_wants_them():
    names = [family.name for family in metrics.FAMILIES]
    assert len(set(names)) == len(names)
    for family in metrics.FAMILIES:
        assert family.name.endswith("_total") == (family.type == metrics.COUNTER)
        assert family.help.endswith(".")
    pace = Pace(0.1)
    pace.measured = True
    made = house(callers=SimpleNamespace(facts=lambda: [Facts(7, "a", 1.0, "")]))
    made.library.paces = lambda: {"local": pace}
    made.fetcher.pid = os.getppid()
    found = await asked(made)
    assert {name for name, _ in found} == set(names)


def test_the_page_lists_them_all():
    page = (ROOT / "docs/metrics.md").read_text()
    assert page.endswith("## All of them\n\n" + "\n".join(metrics.table()) + "\n")


ONE_MORE = """
import sys, threading
print("ready", flush=True)
sys.stdin.readline()
threading.Thread(target=threading.Event().wait, daemon=True).start()
opened = open("/dev/null")
print("more", flush=True)
sys.stdin.readline()
"""
"""What a process of its own does: the threads of the tests' come and go as they please."""


def test_what_the_kernel_says_of_a_process():
    argv = [sys.executable, "-c", ONE_MORE]
    with subprocess.Popen(argv, stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        before = metrics.process_facts(process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "more\n"
        after = metrics.process_facts(process.pid)
        process.stdin.close()
    assert (before.threads, after.threads) == (1, 2)
    assert after.descriptors == before.descriptors + 1
    assert metrics.process_facts(2**22 + 1) is None, "numbers of processes are smaller"


# --- listening on TCP ---


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("127.0.0.1:9469", ("127.0.0.1", 9469)),
        ("[::1]:1", ("::1", 1)),
        ("localhost:65535", ("127.0.0.1", 65535)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
    ],
)
def test_addresses(text, meant):
    assert config_kinds.address(text) == meant


@pytest.mark.parametrize(
    "text",
    ["9469", ":9469", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "::1:9469",
     "[127.0.0.1]:1", "example.org:1", "127.0.0.1:-1", "127.0.0.1:٣", "[::1:5"],
)  # fmt: skip
def test_what_is_no_address(text):
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:9469"):
        config_kinds.address(text)


def test_an_address_that_is_taken_is_told():
    with listening.listen("127.0.0.1", 0, "metrics") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"metrics cannot be had at 127.0.0.1:{port}: Address"):
            listening.listen_at(f"127.0.0.1:{port}", "metrics")


async def told(port, host, family=socket.AF_INET, address="127.0.0.1"):
    """Return the status of the answer to who calls the server `host`."""
    with trio.socket.socket(family) as line:
        await line.connect((address, port))
        await line.send(f"GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        asking = h11.Connection(h11.CLIENT)
        asking.send(h11.Request(method="GET", target="/", headers=[("host", "h")]))
        while (event := asking.next_event()) is h11.NEED_DATA:
            asking.receive_data(await line.recv(4096))
        return event.status_code


async def hello(_):
    return as_json({})


@pytest.mark.parametrize(("address", "family"), [("127.0.0.1", 2), ("::1", 10)])
async def test_on_loopback_it_answers_to_its_own_names_alone(nursery, address, family):
    heard = listening.listen(address, 0, "metrics")
    port = heard.getsockname()[1]
    await nursery.start(listening.serve, heard, {("GET", "/metrics"): hello})
    for name in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert await told(port, name, family, address) == 200
    for name in ("evil.example", f"evil.example:{port}", "", "127.0.0.1.evil.example"):
        assert await told(port, name, family, address) == 403


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: [\r\n\r\n", 400),
        (b"GET //[ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET http://[::1 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /?%ff&&=;[ HTTP/1.1\r\nHost: localhost:99999999\r\n\r\n", 404),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET / HTTP/1.1\r\nHost: \xe2\x84\x80\r\n\r\n", 403),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ],
)
async def test_whatever_is_sent_the_daemon_outlives_it(nursery, asked, status):
    heard = listening.listen("127.0.0.1", 0, "metrics")
    port = heard.getsockname()[1]
    await nursery.start(listening.serve, heard, {("GET", "/metrics"): hello})
    with trio.socket.socket() as line:
        await line.connect(("127.0.0.1", port))
        await line.send(asked)
        line.shutdown(socket.SHUT_WR)
        assert int((await line.recv(4096)).split()[1]) == status
    assert await told(port, "localhost") == 200


async def test_a_flood_of_connections_takes_a_bounded_number_of_descriptors(nursery):
    heard = listening.listen("127.0.0.1", 0, "metrics")
    port = heard.getsockname()[1]
    await nursery.start(listening.serve, heard, {("GET", "/metrics"): hello})
    lines = []
    most = listening.CONVERSATIONS + listening.WAITING
    try:
        for _ in range(most + 20):
            lines.append(socket.create_connection(("127.0.0.1", port)))
            await trio.testing.wait_all_tasks_blocked(0.001)
        for line in lines:
            line.setblocking(False)
        assert all(line.recv(1) == b"" for line in lines[most:]), "closed at once"
        for line in lines[:most]:
            with pytest.raises(BlockingIOError):
                line.recv(1)
    finally:
        for line in lines:
            line.close()
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert await told(port, "localhost") == 200


async def test_elsewhere_it_answers_to_any_name(nursery):
    heard = listening.listen("0.0.0.0", 0, "metrics")
    port = heard.getsockname()[1]
    await nursery.start(listening.serve, heard, {("GET", "/metrics"): hello})
    assert await told(port, "hypervisor1.example") == 200
