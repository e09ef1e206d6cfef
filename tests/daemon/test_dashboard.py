"""The dashboard's listening, its files, and what it is told: without a browser."""

import array
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from nebfs.blocks import SLOT_SIZE, BlockFile
from nebfs.content.stack import Order, Priority
from nebfs.daemon import dashboard, panorama
from nebfs.daemon.dashboard import FILES, HEADERS, POLICY, Dashboard
from nebfs.daemon.web import Request
from nebfs.errors import Busy, UserError

PAGE = Path(dashboard.__file__).parent / "page"


@pytest.fixture
def house(nursery):
    return SimpleNamespace(nursery=nursery)


@pytest.fixture
def made(house):
    async def seen():
        return {"now": 1.0}

    return Dashboard(house, SimpleNamespace(seen=seen))


async def get(url, path=None, headers=""):
    """Return status, head and body of what is answered."""
    port = int(url.split(":")[2].split("/")[0])
    path = "/" + url.split("/", 3)[3] if path is None else path
    with trio.socket.socket() as line:
        await line.connect(("127.0.0.1", port))
        asked = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{headers}\r\n"
        await line.send(asked.encode())
        answered = b""
        while data := await line.recv(65536):
            answered += data
    head, _, body = answered.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode().lower(), body


async def test_it_is_there_as_long_as_somebody_listens(made):
    told = made.shown(0)
    first = await anext(told)
    assert first["event"] == "listening"
    url = first["url"]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{24}/", url)
    status, head, body = await get(url)
    assert status == 200
    assert body == (PAGE / "page.html").read_bytes()
    for name, value in HEADERS:
        assert f"{name}: {value}" in head
    assert (await get(url + "data"))[2] == b'{"now": 1.0}'
    await told.aclose()
    with pytest.raises(OSError, match="refused"):
        await get(url)


async def test_without_the_secret_there_is_nothing(made):
    told = made.shown(0)
    url = (await anext(told))["url"]
    secret = url.split("/")[3]
    other = secret[:-1] + ("A" if secret[-1] != "A" else "B")
    for path in ("/", "/data", "/page.js", f"/{other}/", f"/{other}/data", f"/{secret}", "//"):
        assert (await get(url, path))[0] == 404, path
    for path in (f"/{secret}/../page.js", f"/{secret}/page.html/..", f"/{secret}/%2e%2e/x"):
        assert (await get(url, path))[0] == 404, path
    await told.aclose()
    again = made.shown(0)
    assert (await anext(again))["url"].split("/")[3] != secret
    await again.aclose()


async def test_a_given_port_and_one_that_is_taken(made):
    told = made.shown(0)
    port = int((await anext(told))["url"].split(":")[2].split("/")[0])
    with pytest.raises(UserError, match=f"dashboard cannot be had at 127.0.0.1:{port}"):
        await anext(made.shown(port))
    await told.aclose()
    told = made.shown(port)
    assert f":{port}/" in (await anext(told))["url"]
    await told.aclose()


async def test_it_says_again_and_again_that_it_is_there(made, autojump_clock):
    told = made.shown(0)
    before = trio.current_time()
    events = [(await anext(told))["event"] for _ in range(3)]
    assert events == ["listening", "alive", "alive"]
    assert trio.current_time() - before <= 3 * dashboard.ALIVE
    await told.aclose()


async def test_what_is_kept_is_there_until_it_is_stopped(made):
    assert not await made.stop()
    url = (await made.keep(0))["url"]
    assert (await made.keep(0))["url"] == url
    port = int(url.split(":")[2].split("/")[0])
    assert (await made.keep(port))["url"] == url
    with pytest.raises(Busy, match="another port"):
        await made.keep(port % 60000 + 1)
    assert (await get(url))[0] == 200
    assert await made.stop()
    with pytest.raises(OSError, match="refused"):
        await get(url)
    assert not await made.stop()


@pytest.mark.parametrize("body", [b'{"port": -1}', b'{"port": 65536}', b'{"port": "80"}', b"[]"])
async def test_nonsense_is_refused(house, body):
    begin = dashboard.routes(house, None, None)["POST", "/v1/dashboard"]
    with pytest.raises(UserError):
        await begin(Request("POST", "/v1/dashboard", body=body))


def test_the_page_needs_nothing_but_its_files_and_makes_no_markup_of_names():
    assert {file for file, _ in FILES.values()} == {path.name for path in PAGE.iterdir()}
    for path in PAGE.iterdir():
        text = path.read_text()
        for address in re.findall(r"(?:https?:)?//[\w.]+", re.sub(r"^\s*//.*|/\*.*?\*/", "", text)):
            assert address == "http://www.w3.org", f"{path.name}: {address}"
        for never in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("):
            assert never not in text, path.name
    html = (PAGE / "page.html").read_text()
    assert not re.search(r"<script(?! src)|<style|\son\w+=|\sstyle=", html)
    assert "unsafe" not in POLICY


# --- what is told ---


@pytest.fixture
def file():
    """An object of 1000 slots of which the last is short."""
    fd = os.memfd_create("test", os.MFD_CLOEXEC)
    slots = 1000
    made = BlockFile(
        *("k" * 64, slots * SLOT_SIZE - 5, 1, fd),
        present=bytearray(slots),
        sums=array.array("Q", bytes(8 * slots)),
        index=None,
        waits=False,
    )
    yield made
    made.close()


def test_a_map_shows_as_whole_only_what_is_and_as_empty_only_what_is(file):
    told = panorama.map_of(file)
    assert told == {"here": "0" * panorama.CELLS, "under_way": []}
    file._state[:] = bytes([1]) * 1000
    assert panorama.map_of(file)["here"] == "9" * panorama.CELLS
    file._state[500] = 0
    here = panorama.map_of(file)["here"]
    assert here.count("9") == panorama.CELLS - 1
    assert here[120] in "123456789"[:8]
    file._state[:] = bytes(1000)
    file._state[999] = 2
    here = panorama.map_of(file)["here"]
    assert here[:-1] == "0" * (panorama.CELLS - 1)
    assert here[-1] in "12345678"


def test_a_map_shows_what_is_under_way(file):
    order = Order(file, 0, 30, priority=Priority.READ_AHEAD)
    order.claim()
    assert panorama.map_of(file)["under_way"] == list(range(8))
    order.finish()
    assert panorama.map_of(file)["under_way"] == []


@pytest.mark.parametrize("slots", [0, 1, 7, 240, 241])
def test_maps_of_all_lengths(slots):
    present = bytes([1]) * slots
    made = SimpleNamespace(slots=slots, claimed=bytearray(slots), present=lambda: present)
    assert panorama.map_of(made)["here"] == "9" * min(slots, 240)


async def test_one_look_into_the_cache_is_good_for_a_while(monkeypatch, autojump_clock):
    looks = []

    async def listed(house):
        looks.append(trio.current_time())
        await trio.sleep(2)
        return [
            {"key": str(n), "source": f"s{n}", "disk": n, "used": 1.0, "size": n}
            for n in range(300)
        ]

    monkeypatch.setattr(panorama, "listed", listed)
    house = SimpleNamespace(
        tree=SimpleNamespace(inodes=SimpleNamespace(nodes=list)),
        store=SimpleNamespace(open_files=list),
        library=SimpleNamespace(paces=dict),
    )
    status = SimpleNamespace(facts=dict)
    seeing = panorama.Panorama(house, status, SimpleNamespace(told=dict))
    said = await seeing.seen()
    assert abs(said["now"] - time.time()) < 60
    assert [one["key"] for one in said["objects"][:2]] == ["299", "298"]
    assert (len(said["objects"]), said["left_out"]) == (200, 100)
    for _ in range(19):
        await trio.sleep(2)
        await seeing.seen()
    assert len(looks) == 1, "it took 2 seconds, and is good for 40"
    await trio.sleep(3)
    await seeing.seen()
    assert len(looks) == 2


def test_the_manuals_pictures_are_there_and_small():
    docs = Path(__file__).resolve().parents[2] / "docs"
    named = re.findall(r"\]\(([\w-]+\.png)\)", (docs / "dashboard.md").read_text())
    assert sorted(named) == sorted(path.name for path in docs.glob("dashboard*.png"))
    for name in named:
        assert (docs / name).read_bytes()[:4] == b"\x89PNG"
        assert (docs / name).stat().st_size < 150_000, name
