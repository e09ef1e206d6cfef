"""RBD against a real cluster: right bytes, known holes, versions, refusals, silence."""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import os
import random
import signal
import socket
import struct
import sys
import time
from contextlib import asynccontextmanager

import pytest

from nebfs.errors import Changed, Missing, Refused, Unreachable, Unsupported
from nebfs.fetcher.messages import CallRequest, FetchRequest
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports import make_transport, rbd_binding, rbd_images
from nebfs.fetcher.transports.rbd_look import _moved
from nebfs.fetcher.transports.rbd_places import Place
from nebfs.model import Locator, Revision
from tests.fetcher.ceph import running

SLOT = 128 << 10
MIB = 1 << 20
SETTINGS = FetcherSettings(connect_timeout=10, stall_timeout=10)
HASTY = FetcherSettings(connect_timeout=2, stall_timeout=2)

Source = random.Random(11)
DATA = b"".join(
    (
        Source.randbytes(5 * MIB),
        bytes(6 * MIB),  # an object of zeros, and a part of two
        Source.randbytes(2 * MIB),
        bytes(9 * MIB),
        Source.randbytes(MIB + 512),
    )
)


class Listener:
    def __init__(self, target):
        self.found = target.found.append
        self.target = target
        self.handed = []
        self.then = None

    def filled(self, slots):
        self.target.progress(slots)
        if self.then is not None:
            then, self.then = self.then, None
            then()

    def early(self, offset, data):
        self.handed.append((offset, data))


@asynccontextmanager
async def transport(settings=SETTINGS):
    made = make_transport("rbd", settings)
    try:
        yield made
    finally:
        await made.aclose()


def asked_of(ceph, name, target, *ranges, expected=None, wanted=None, **door):
    """A request for `ranges` of slots (first, beyond the last); for all of it without any."""
    size = len(target.content)
    spans = [(a * SLOT, min(b * SLOT, size)) for a, b in ranges] or [(0, size)]
    locator = Locator("rbd", f"rbd://{ceph.fsid}/{name}", tuple(ceph.door(**door).items()))
    return FetchRequest(locator, tuple(spans), expected, SLOT, 2**64 - 2, wanted)


def fetch(request, target, settings=SETTINGS):
    async def run():
        async with transport(settings) as rbd:
            return await rbd.fetch(request, target.fd, Listener(target))

    return asyncio.run(run())


async def look(rbd, names, door, pool="one", snapshots=()):
    body = json.dumps({"door": door, "images": names, "snapshots": snapshots}).encode()
    request = CallRequest("LOOK", f"rbd://ceph/{pool}", body=body, transport="rbd")
    return json.loads((await rbd.call(request)).body)


def looked(names, door, pool="one", settings=SETTINGS):
    async def run():
        async with transport(settings) as rbd:
            return await look(rbd, names, door, pool)

    return asyncio.run(run())


@pytest.fixture(scope="module")
def images(ceph):
    """An image, a snapshot of it and its clone, and an image whose line was renamed."""
    ceph.put("one-1", DATA)
    ceph.rbd("snap", "create", "--no-progress", "one/one-1@snap")
    ceph.rbd("snap", "protect", "one/one-1@snap")
    ceph.rbd("clone", "one/one-1@snap", "one/one-2")
    # A revert of image 3 to its snapshot 0.
    ceph.put("one-3", DATA[::-1])
    ceph.rbd("snap", "create", "--no-progress", "one/one-3@0")
    ceph.rbd("snap", "protect", "one/one-3@0")
    ceph.rbd("rename", "one/one-3", "one/one-3-0")
    ceph.rbd("clone", "one/one-3-0@0", "one/one-3")
    ceph.put("one-4", DATA, "--image-feature", "layering", "--object-size", "1M")
    return ceph


@pytest.fixture
def target(make_target):
    return make_target(DATA, SLOT)


def test_snapshots_are_found_also_where_a_revert_has_left_them(images, make_target):
    wanted = [("one-1", "snap"), ("one-3", "0"), ("one-3", "7"), ("one-9", "0")]

    async def run():
        async with transport() as rbd:
            return await look(rbd, ["one-3"], images.door(), snapshots=wanted)

    facts = asyncio.run(run())
    assert [image["name"] for image in facts["images"]] == ["one-3"]
    here, moved, *missing = facts["snapshots"]
    assert (here["name"], moved["name"]) == ("one-1", "one-3-0")
    assert [one["errno"] for one in missing] == [errno.ENOENT] * 2
    for name, one in (("one-1@snap", here), ("one-3-0@0", moved)):
        expected = Revision(one["size"], one["id"], str(one["modified"] * 10**9))
        target = make_target(images.exported(name), SLOT)
        asked = asked_of(images, f"one/{name}", target, expected=expected)
        assert fetch(asked, target) == expected
        target.check()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("one-3-0", True),
        ("one-3-1:0", True),
        ("one-3-0:1", True),
        ("one-3-2:0:1", True),
        ("one-3-10", False),
        ("one-3-1:10", False),
        ("one-33-0", False),
        ("one-3", False),
        ("one-3-0-7", False),
        ("one-3-x:0", False),
    ],
)
def test_the_names_of_images_that_a_revert_has_left(name, found):
    snapshot = Place("", "one", "one-3", "0")
    assert (_moved(snapshot, ["one-4", name]) is not None) == found


@pytest.mark.parametrize("name", ["one-1", "one-1@snap", "one-2", "one-3", "one-3-0@0", "one-4"])
def test_every_byte_is_what_ceph_itself_exports(images, make_target, name):
    target = make_target(images.exported(name), SLOT)
    revision = fetch(asked_of(images, f"one/{name}", target), target)
    assert revision.size == len(DATA)
    assert target.found == [revision]
    target.check()


@pytest.mark.parametrize("name", ["one-1", "one-2", "one-3", "one-4"])
def test_what_a_listing_says_is_the_version_that_is_fetched(images, make_target, name):
    (facts,) = looked([name], images.door())["images"]
    expected = Revision(facts["size"], facts["id"], str(facts["modified"] * 10**9))
    target = make_target(images.exported(name), SLOT)
    assert fetch(asked_of(images, f"one/{name}", target, expected=expected), target) == expected
    target.check()


def test_a_read_in_the_middle_brings_one_slot(images, target):
    fetch(asked_of(images, "one/one-1", target, (7, 8)), target)
    assert target.slots == {7}
    target.check()


def test_several_ranges_are_brought_in_one_request(images, target):
    fetch(asked_of(images, "one/one-2", target, (1, 2), (5, 30), (170, 190)), target)
    assert target.slots == {1, *range(5, 30), *range(170, 190 - 5)}
    target.check()


@pytest.mark.parametrize("name", ["one-1", "one-2", "one-4"])
def test_holes_are_not_read(images, target, name, monkeypatch):
    read = []
    original = rbd_images.OpenImage.read

    async def noted(self, start, stop):
        read.append((start, stop))
        return await original(self, start, stop)

    monkeypatch.setattr(rbd_images.OpenImage, "read", noted)
    fetch(asked_of(images, f"one/{name}", target), target)
    target.check()
    # An object of 4 MiB counts as data from its start to the last byte that was written.
    assert sum(stop - start for start, stop in read) <= 13 * MIB + 512
    assert not any(start < 20 * MIB and stop > 13 * MIB for start, stop in read)


def test_a_huge_empty_image_costs_next_to_nothing(images, make_target):
    images.rbd("create", "--size", "1G", "one/one-empty")
    target = make_target(bytes(256 * MIB), SLOT)
    fetch(asked_of(images, "one/one-empty", target), target)
    assert len(target.slots) == 2048
    assert all(filled.zero for filled in target.filled)


def test_what_somebody_waits_for_is_handed_over_by_itself(images, target):
    async def run():
        async with transport() as rbd:
            listener = Listener(target)
            wanted = (2 * MIB + 100, 2 * MIB + 4196)
            request = asked_of(images, "one/one-1", target, (0, 32), wanted=wanted)
            await rbd.fetch(request, target.fd, listener)
            return listener.handed

    handed = asyncio.run(run())
    assert handed
    assert all(data == DATA[offset : offset + 4096] for offset, data in handed)
    target.check()


def test_a_probe_of_a_short_image_takes_what_is_there(images, make_target):
    images.put("one-short", b"x" * 512)
    target = make_target(b"x" * 512, SLOT)
    request = asked_of(images, "one/one-short", target)
    longer = FetchRequest(request.locator, ((0, SLOT),), None, SLOT, 2**64 - 2)
    assert fetch(longer, target).size == 512
    target.check()


def test_another_version_than_the_expected_is_changed_and_writes_nothing(images, target):
    other = Revision(len(DATA), "0123", "1")
    with pytest.raises(Changed):
        fetch(asked_of(images, "one/one-1", target, expected=other), target)
    target.check_untouched()


def test_a_new_snapshot_and_a_new_clone_do_not_make_another_version(images, make_target):
    images.put("one-5", DATA)

    async def run():
        async with transport() as rbd:
            first, second = make_target(DATA, SLOT), make_target(DATA, SLOT)
            got = await rbd.fetch(
                asked_of(images, "one/one-5", first, (0, 1)), first.fd, Listener(first)
            )
            await asyncio.to_thread(images.rbd, "snap", "create", "--no-progress", "one/one-5@s")
            again = asked_of(images, "one/one-5", second, expected=got)
            assert await rbd.fetch(again, second.fd, Listener(second)) == got
            second.check()

    asyncio.run(run())


def change_by_removing(ceph, name):
    ceph.rbd("rm", "--no-progress", f"one/{name}")


def change_by_renaming(ceph, name):
    ceph.rbd("rename", f"one/{name}", f"one/{name}-0")
    ceph.put(name, DATA)


def change_by_resizing(ceph, name):
    ceph.rbd("resize", "--no-progress", "--allow-shrink", "--size", "8M", f"one/{name}")


def change_by_writing(ceph, name):
    image = ("--io-size", "4K", "--io-total", "4K", "--io-pattern", "seq", f"one/{name}")
    before = ceph.rbd("info", f"one/{name}")
    end = time.monotonic() + 10
    while ceph.rbd("info", f"one/{name}") == before:  # a cluster notes times by the second
        ceph.rbd("bench", "--io-type", "write", *image)
        assert time.monotonic() < end


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (change_by_removing, Missing),
        (change_by_renaming, Changed),
        (change_by_resizing, Changed),
        (change_by_writing, Changed),
    ],
)
def test_an_image_that_changes_while_it_is_open_gives_no_more_bytes(
    images, make_target, change, kind
):
    name = f"one-{change.__name__}"
    images.put(name, DATA)

    async def run():
        async with transport() as rbd:
            first, second = make_target(DATA, SLOT), make_target(DATA, SLOT)
            got = await rbd.fetch(
                asked_of(images, f"one/{name}", first, (0, 1)), first.fd, Listener(first)
            )
            await asyncio.to_thread(change, images, name)
            with pytest.raises(kind):
                await rbd.fetch(
                    asked_of(images, f"one/{name}", second, (0, 180), expected=got),
                    second.fd,
                    Listener(second),
                )
            second.check_untouched()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("place", "kind", "words"),
    [
        ("one/nothing", Missing, "no such image"),
        ("one/one-1@nothing", Missing, "no such image"),
        ("nothing/one-1", Missing, "no such pool"),
        ("one", Unsupported, "no image"),
        ("one/space/one-1", Unsupported, "no address"),
    ],
)
def test_what_is_not_there_is_said_to_be_missing(images, target, place, kind, words):
    with pytest.raises(kind, match=words):
        fetch(asked_of(images, place, target), target)
    target.check_untouched()


# A key is its kind, when it was made, its length, and 16 bytes.
WRONG_KEY = base64.b64encode(struct.pack("<HIIH16s", 1, 0, 0, 16, b"canary" * 3)).decode()


@pytest.mark.parametrize("canary", [WRONG_KEY, "canary==", "", "canary\n[x]\nuser"])
def test_a_wrong_key_is_refused_in_words_that_do_not_show_it(
    images, target, tmp_path, capfd, canary
):
    keyring = tmp_path / "keyring"
    keyring.write_text(f"[client.nebfs]\n\tkey = {canary}\n")
    with pytest.raises(Refused) as caught:
        fetch(asked_of(images, "one/one-1", target, keyring=str(keyring)), target)
    text = f"{caught.value!r} {caught.value} {capfd.readouterr()}"
    assert "client.nebfs" in str(caught.value)
    assert "canary" not in text
    assert WRONG_KEY not in text
    assert "auth" not in text  # librados writes nothing


def test_a_file_with_nothing_but_the_key_is_one_too(images, target, tmp_path):
    path = tmp_path / "key"
    path.write_text(images.ceph("auth", "get-key", "client.nebfs"))
    fetch(asked_of(images, "one/one-1", target, (0, 1), keyring=str(path)), target)
    assert target.slots == {0}


def test_a_user_whom_the_cluster_does_not_know_is_refused(images, target):
    with pytest.raises(Refused, match=r"client\.nobody"):
        fetch(asked_of(images, "one/one-1", target, user="nobody"), target)


def test_a_keyring_that_is_not_there_is_named(images, target):
    with pytest.raises(Refused, match="/none/keyring"):
        fetch(asked_of(images, "one/one-1", target, keyring="/none/keyring"), target)


def test_a_user_who_may_not_read_the_pool_is_told_what_it_takes(images, target):
    keyring = images.user("outsider", "mon", "profile rbd-read-only")
    door = {"user": "outsider", "keyring": str(keyring)}
    words = r"profile rbd-read-only pool=one"
    with pytest.raises(Refused, match=words):
        fetch(asked_of(images, "one/one-1", target, **door), target)
    with pytest.raises(Refused, match=words):
        looked(["one-1", "one-2"], images.door(**door))
    target.check_untouched()


def test_monitors_are_enough_to_find_the_cluster(images, target):
    door = {"conf": "", "monitors": f"v2:{images.monitor}"}
    fetch(asked_of(images, "one/one-1", target, (0, 1), **door), target)
    assert target.slots == {0}


def test_a_ceph_conf_that_is_not_there_is_named(images, target):
    with pytest.raises(Unsupported, match=r"/none/ceph\.conf"):
        fetch(asked_of(images, "one/one-1", target, conf="/none/ceph.conf"), target)


def test_another_cluster_at_the_same_address_is_not_the_one_that_was_meant(images, target):
    request = asked_of(images, "one/one-1", target)
    other = request.locator.address.replace(images.fsid, "0" * 8 + images.fsid[8:])
    locator = Locator("rbd", other, request.locator.options)
    moved = FetchRequest(locator, request.ranges, None, SLOT)
    with pytest.raises(Unreachable, match="another cluster"):
        fetch(moved, target)


def test_a_listing_asks_for_many_images_at_once(images):
    answer = looked(["one-1", "nothing", *["one-2"] * 30, "one-1"], images.door())
    assert answer["cluster"] == images.fsid
    first, missing, *clones, last = answer["images"]
    assert first == last
    assert (first["size"], missing["errno"]) == (len(DATA), errno.ENOENT)
    assert first["created"] > 0
    assert len(clones) == 30
    assert all(clone == clones[0] for clone in clones)
    assert clones[0]["id"] != first["id"]


def test_a_pool_that_is_not_there_is_missing(images):
    with pytest.raises(Missing, match="no such pool"):
        looked(["one-1"], images.door(), pool="nothing")


def test_monitors_that_do_not_answer_are_unreachable_in_time(images, target):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        door = {"conf": "", "monitors": f"v2:127.0.0.1:{silent.getsockname()[1]}"}
        begun = time.monotonic()
        with pytest.raises(Unreachable, match="no monitor"):
            fetch(asked_of(images, "one/one-1", target, **door), target, HASTY)
    assert time.monotonic() - begun < 8


def test_a_disk_that_falls_silent_ends_the_read_in_time_and_is_read_again(images, make_target):
    async def run():
        async with transport(HASTY) as rbd:
            first, second = make_target(DATA, SLOT), make_target(DATA, SLOT)
            listener = Listener(first)
            listener.then = lambda: images.osd.send_signal(signal.SIGSTOP)
            begun = time.monotonic()
            try:
                with pytest.raises(Unreachable, match="silent"):
                    await rbd.fetch(asked_of(images, "one/one-1", first), first.fd, listener)
            finally:
                images.osd.send_signal(signal.SIGCONT)
            assert time.monotonic() - begun < 8
            first.check()  # what came before was good
            await rbd.fetch(asked_of(images, "one/one-1", second), second.fd, Listener(second))
            second.check()

    asyncio.run(run())


def test_a_cluster_that_is_killed_in_the_middle_of_a_read_ends_it_in_time(make_target):
    with running() as cluster:
        cluster.put("one-1", DATA)
        target = make_target(DATA, SLOT)
        listener = Listener(target)

        def kill():
            for process in (cluster.osd, cluster.mon):
                os.kill(process.pid, signal.SIGKILL)

        async def run():
            async with transport(HASTY) as rbd:
                listener.then = kill
                with pytest.raises(Unreachable):
                    await rbd.fetch(asked_of(cluster, "one/one-1", target), target.fd, listener)
                with pytest.raises(Unreachable):
                    await look(rbd, ["one-1"], cluster.door())

        begun = time.monotonic()
        asyncio.run(run())
        assert time.monotonic() - begun < 20
        target.check()


def test_a_client_that_was_shut_out_enters_anew(images, make_target):
    async def run():
        async with transport() as rbd:
            first, second, third = (make_target(DATA, SLOT) for _ in range(3))
            await rbd.fetch(asked_of(images, "one/one-1", first, (0, 1)), first.fd, Listener(first))
            (entered,) = rbd._clusters._entered.values()
            shut = [
                b.removeprefix("v2:") for b in entered._client.get_addrs().strip("[]").split(",")
            ]
            for address in shut:
                await asyncio.to_thread(images.ceph, "osd", "blocklist", "add", address)
            with pytest.raises(Unreachable, match="shut this client out"):
                await rbd.fetch(asked_of(images, "one/one-1", second), second.fd, Listener(second))
            await rbd.fetch(asked_of(images, "one/one-1", third), third.fd, Listener(third))
            third.check()

    asyncio.run(run())


def test_a_fetch_that_is_given_up_writes_nothing_more(images, target):
    async def run():
        async with transport() as rbd:
            listener = Listener(target)
            task = asyncio.create_task(
                rbd.fetch(asked_of(images, "one/one-1", target), target.fd, listener)
            )
            listener.then = task.cancel
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled()
            told = len(target.filled)
            await rbd.fetch(asked_of(images, "one/one-1", target, (0, 0)), target.fd, listener)
            assert len(target.filled) == told
            target.check()

    asyncio.run(run())


def test_modules_that_are_missing_are_named_with_the_remedy(tmp_path, monkeypatch):
    for name in ("rados", "rbd"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(Unsupported, match="install python3-rados and python3-rbd"):
        rbd_binding.load([str(tmp_path)])
    (tmp_path / "rados.cpython-27-x86_64-linux-gnu.so").write_bytes(b"")
    with pytest.raises(Unsupported, match="for another Python"):
        rbd_binding.load([str(tmp_path)])


def test_nothing_else_of_the_distributions_directory_can_be_imported():
    rbd_binding.load()
    assert not set(rbd_binding.DIRECTORIES) & set(sys.path)


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("rbd://c/p/i", Place("c", "p", "i")),
        ("rbd://c/my%20p/a%40b%2Fc@d%40", Place("c", "my p", "a@b/c", "d@")),
        ("rbd://c/p", Place("c", "p")),
    ],
)
def test_an_address_is_taken_apart_where_it_is_joined(address, place):
    assert Place.at(address) == place


def test_many_readers_who_come_and_go_get_the_right_bytes(images, make_target):
    source = random.Random(3)

    async def read(rbd):
        target = make_target(DATA, SLOT)
        start = source.randrange(170)
        asked = (start, min(start + source.choice((1, 2, 16, 40)), 185))
        name = source.choice(("one-1", "one-1@snap", "one-2"))
        request = asked_of(
            images, f"one/{name}", target, asked, wanted=(start * SLOT, start * SLOT + 9)
        )
        task = asyncio.create_task(rbd.fetch(request, target.fd, Listener(target)))
        if source.random() < 0.4:
            await asyncio.sleep(source.random() / 50)
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if task.cancelled():
            assert target.slots <= set(range(*asked))
        else:
            task.result()
            assert target.slots == set(range(*asked))
        target.check()

    async def run():
        async with transport() as rbd:
            for _ in range(5):
                await asyncio.gather(*(read(rbd) for _ in range(12)))

    asyncio.run(run())
