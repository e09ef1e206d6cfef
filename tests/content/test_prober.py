"""Asking places what they have, and remembering it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from nebfs.content import Prober, claimed, sniff
from nebfs.content.prober import GIVEN_UP, place_of
from nebfs.errors import Missing, TimedOut, Unreachable
from nebfs.model import Checksum, Content, Locator


class Drawer:
    """Documents in a dict."""

    def __init__(self):
        self.kept = {}

    async def load(self, name):
        return self.kept.get(name)

    async def save(self, name, data):
        self.kept[name] = data


def content(url="http://host/a", **facts):
    return Content(Locator("http", url), **facts)


@pytest.fixture
def drawer():
    return Drawer()


@pytest.fixture
def prober(place, drawer, mock_clock):
    return Prober(place, drawer, timeout=20.0, now=trio.current_time)


async def test_it_learns_the_length_the_version_and_the_format(place, prober):
    place.data = b"QFI\xfb" + bytes(5000)
    probed = await prober.ask(content())
    assert (probed.revision.size, probed.revision.etag) == (5004, '"1"')
    assert probed.format.extension == "qcow2"


async def test_a_file_shorter_than_the_question(place, prober):
    place.data = b"\x1f\x8b"
    assert (await prober.ask(content(format="qcow2"))).format.extension == "qcow2.gz"
    place.data = b""
    assert (await prober.ask(content("http://host/empty"))).revision.size == 0


async def test_what_is_known_is_not_asked_again(place, prober, autojump_clock):
    await prober.ask(content())
    await prober.ask(content())
    assert len(place.log) == 1
    await prober.ask(content(checksums=(Checksum("md5", "0" * 32),)))  # other bytes, it is said
    assert len(place.log) == 2


async def test_what_is_too_old_is_asked_again(place, drawer, autojump_clock):
    prober = Prober(place, drawer, now=trio.current_time)
    await prober.ask(content())
    await trio.sleep(100)
    await prober.ask(content(), max_age=200)
    assert len(place.log) == 1
    await prober.ask(content(), max_age=50)
    assert len(place.log) == 2
    prober.forget(content())
    assert prober.known(content()) is None


async def test_another_version_than_is_listed_is_asked_about_again(place, drawer, autojump_clock):
    """The raw face of an image that was replaced on a bridge stayed "not asked yet" for ever."""
    prober = Prober(place, drawer, now=trio.current_time)
    old = (await prober.ask(content())).revision
    await trio.sleep(100)
    place.data, place.etag = bytes(7000), '"2"'
    listed = content(revision=replace(old, size=7000, etag='"2"'))
    found = await prober.ask(listed)
    assert found.revision.size == 7000
    assert not prober.known(listed).revision.differs_from(listed.revision)
    await prober.ask(listed)
    assert len(place.log) == 2
    # Where it is the list that is old, the place is not asked by everybody who looks.
    stale = content(revision=old)
    await prober.ask(stale)
    await prober.ask(stale)
    assert len(place.log) == 2


async def test_it_is_remembered_over_a_restart(place, drawer, autojump_clock):
    first = Prober(place, drawer)
    probed = await first.ask(content())
    await first.save()
    again = Prober(place, drawer)
    await again.load()
    assert again.known(content()) == probed


@pytest.mark.parametrize("damaged", [b"", b"[]", b"{", b'{"x": 1}', b'{"x": [1, 2, 3]}'])
async def test_a_damaged_memory_is_no_memory(place, drawer, damaged):
    drawer.kept["probes.json"] = damaged
    prober = Prober(place, drawer)
    await prober.load()
    assert prober.known(content()) is None
    await prober.ask(content())


async def test_many_who_ask_at_once_ask_once(place, drawer, autojump_clock):
    place.latency = 1.0
    prober = Prober(place, drawer)
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(prober.ask, content())
    assert len(place.log) == 1


async def test_a_refusal_is_remembered_for_some_seconds(place, drawer, autojump_clock):
    prober = Prober(place, drawer)
    place.script = [Missing("404")]
    with pytest.raises(Missing):
        await prober.ask(content())
    with pytest.raises(Missing, match="a moment ago"):
        await prober.ask(content())
    assert len(place.log) == 1
    await trio.sleep(11)
    await prober.ask(content())


async def test_a_silent_place_is_given_up_for_a_while(place, drawer, autojump_clock):
    prober = Prober(place, drawer)
    place.script = [Unreachable("no route")] * 1000
    for number in range(50):
        with pytest.raises(Unreachable):
            await prober.ask(content(f"http://host/{number}"))
    assert len(place.log) == GIVEN_UP
    place.script.clear()
    await prober.ask(content("http://other/1"))
    await trio.sleep(11)
    await prober.ask(content("http://host/1"))


async def test_a_server_that_fails_for_one_file_is_asked_for_the_others(
    place, drawer, autojump_clock
):
    prober = Prober(place, drawer)
    for number in range(10):
        place.script = [Unreachable("the server failed", status=500)]
        with pytest.raises(Unreachable):
            await prober.ask(content(f"http://host/bad{number}"))
        await prober.ask(content(f"http://host/good{number}"))


async def test_a_place_that_hangs_ends_in_time(place, drawer, autojump_clock):
    place.latency = 1e6
    prober = Prober(place, drawer, timeout=20.0)
    with pytest.raises(TimedOut):
        await prober.ask(content())
    assert trio.current_time() <= 21


async def test_at_most_so_many_questions_at_one_place(place, drawer, autojump_clock):
    place.latency = 1.0
    prober = Prober(place, drawer, parallel=4)
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(prober.ask, content(f"http://host/{number}"))
    assert place.most == 4


def test_credentials_are_no_part_of_a_place():
    assert place_of(Locator("http", "https://user:canary@host:8/x?canary")) == "https://host:8"
    assert place_of(Locator("file", "/a/b")) == "local"


@pytest.mark.parametrize(
    ("head", "claim", "media", "extension"),
    [
        (b"QFI\xfb", "qcow", "", "qcow2"),
        (b"KDMV", "raw", "", "vmdk"),
        (b"\xfd7zXZ\0", "raw", "", "raw.xz"),
        (b"\x28\xb5\x2f\xfd", "", "", "raw.zst"),
        (b"BZh9", "bz2", "", "raw.bz2"),
        (b"conectix", "", "", "vhd"),
        (b"\0\0\0", "vhd", "", "vhd"),  # perhaps of fixed size: it has its signature at the end
        (b"\0\0\0", "vpc", "", "vhd"),
        (b"COWD", "", "", "vmdk"),
        (b"QED\0", "raw", "", "qed"),
        (b"WithouFreSpacExt", "raw", "", "parallels"),
        (bytes(257) + b"ustar\0", "raw", "", "tar"),
        (bytes(257) + b"ustar  ", "ova", "", "ova"),
        (b"\0\0\0", "ova", "", "raw"),
        (bytes(64) + b"\x7f\x10\xda\xbe", "", "", "vdi"),
        (b"hsqs", "", "", "squashfs"),
        (b"\0\0\0", "qcow2", "", "raw"),
        (b"\0\0\0", "raw", "cdrom", "iso"),
        (b"", "", "", "raw"),
        (b"\x1f\x8b", "../../x", "", "raw.gz"),
    ],
)
def test_the_first_bytes_decide(head, claim, media, extension):
    assert sniff(head, claim, media).extension == extension


def test_a_claim_is_somebody_s_text():
    assert claimed("QCOW2").extension == "qcow2"
    assert claimed("../etc/passwd").extension == "raw"
    assert claimed("a/b\0").extension == "raw"
    assert claimed("raw", "cdrom").extension == "iso"
