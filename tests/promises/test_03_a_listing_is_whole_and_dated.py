"""Promise 3: a listing is whole and dated, or an error. Unreachable is not deleted.

Every answer that a list is made of is spoiled, one after the other, in every way that half an
answer can be spoiled: what was listed before keeps being shown, or there is an error.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from nebfs import marketplaces
from nebfs.catalog import Catalog, Surveyor
from nebfs.catalog.homes import marketplaces_at
from nebfs.daemon.control import ask
from nebfs.datastores import DatastoreDrivers
from nebfs.demo.demonstration import PASSWORD
from nebfs.demo.frontend import FrontEnd as Oned
from nebfs.demo.listening import Handler
from nebfs.errors import NebfsError, Unreachable
from nebfs.fetcher.client import open_fetcher
from nebfs.fetcher.messages import CallAnswer
from nebfs.model import Datastore, Image, ImageState, Template
from nebfs.opennebula import Caller, FrontEnd, rpc, session
from tests.mounted.conftest import run, xattr


def _half(body):
    return body[: len(body) // 2]


def _unreachable(body):
    raise Unreachable("the answer broke off half-way")


SPOILED = {
    "half of it": _half,
    "nothing": lambda body: b"",
    "all but the end": lambda body: body[:-30],
    "a page for people": lambda body: b"<html><body>Please log in</body></html>",
    "an empty object": lambda body: b"{}",
    "an empty list": lambda body: b"[]",
    "null": lambda body: b"null",
    "bytes of something else": lambda body: bytes(range(256)) * 4,
    "it breaks off": _unreachable,
}


# --- the front-end ------------------------------------------------------------------------------


def _tail(body, at):
    return body[body.index(b"</string>", at) :]


def _cut_short(body):
    at = body.index(b"&lt;/")
    return body[:at] + _tail(body, at)


def _without_end(body):
    at = body.index(b"</string>")
    return body[: body.rindex(b"&lt;", 0, at)] + body[at:]


def _no_document(body):
    at = body.index(b"<string>") + len(b"<string>")
    return body[:at] + _tail(body, at)


def _number(body):
    start, stop = body.index(b"<string>"), body.index(b"</string>") + len(b"</string>")
    return body[:start] + b"<i4>7</i4>" + body[stop:]


IN_TEXT = {
    "a document cut short": _cut_short,
    "a document without an end": _without_end,
    "no document": _no_document,
    "a number for a text": _number,
    "no success": lambda body: body.replace(b"<boolean>1<", b"<boolean>0<"),
}
"""What is whole as an answer, and half as what it says."""

STATUSES = {"503": 503, "500": 500, "404": 404, "429": 429, "redirected": 302}


class World:
    """A catalogue of the demonstration, whose every answer passes through this process."""

    def __init__(self, cloud):
        self.oned = Oned(cloud)
        self.asked = []
        self.spoil = None
        """(part of the question, what is done to its answer or its status)"""
        caller = Caller(self._call, "http://one/RPC2", session.Session("oneadmin", PASSWORD))
        surveyor = Surveyor(
            marketplace_driver=lambda name, version: marketplaces.driver_for(
                "http", call=self._call, version=version
            ),
            datastore_driver=DatastoreDrivers(call=self._call),
            place_timeout=20.0,
            now=lambda: 1000.0,
        )
        front_end = FrontEnd(caller)

        async def survey(previous, only=None, *, patience):
            return await surveyor.cloud(front_end, "http://one/RPC2", previous)

        self.catalog = Catalog(survey, self, interval=300, deadline=60)

    async def _call(self, request):
        await trio.lowlevel.checkpoint()
        method = request.body.partition(b"<methodName>")[2].partition(b"<")[0].decode()
        self.asked.append(method)
        body = self.oned.answer(request.body)
        if self.spoil is not None and self.spoil[0] == method:
            if isinstance(self.spoil[1], int):
                return CallAnswer(self.spoil[1], (), b"")
            body = self.spoil[1](body)
        return CallAnswer(200, (), body)

    async def load(self, name):
        return None

    async def save(self, name, data):
        self.saved = data


async def test_half_answers_of_the_front_end_take_nothing_away(cloud, monkeypatch):
    monkeypatch.setattr(rpc, "FIRST_PAUSE", 0.0)
    world = World(cloud)
    await world.catalog.start()
    before, saved = world.catalog.current, world.saved
    assert before.marketplaces
    assert sum(len(d.holdings) for d in before.datastores) > 10
    lists = sorted(set(world.asked))
    assert {"one.imagepool.info", "one.marketapppool.info", "one.datastorepool.info"} <= set(lists)
    for method in lists:
        for name, how in {**SPOILED, **IN_TEXT, **STATUSES}.items():
            if method == "one.system.version" and name in IN_TEXT and name != "no success":
                continue  # it is one word
            world.spoil = method, how
            failure = await world.catalog.refresh()
            now = world.catalog.current
            assert failure is not None, f"{name} of {method} was taken for a list"
            assert now == replace(before, trouble=str(failure)), f"{name} of {method}"
            assert now.taken == before.taken, "the age of what is shown is not told"
            assert world.saved is saved, "an outage is not what is kept for the next start"
    world.spoil = None
    assert await world.catalog.refresh() is None
    assert world.catalog.current.trouble == ""


async def test_one_object_that_cannot_be_read_is_shown_as_that(cloud, monkeypatch):
    """The front-end cannot send it, whatever is asked: the others are whole all the same."""
    world = World(cloud)
    await world.catalog.start()
    before = {o.app.id for m in world.catalog.current.marketplaces for o in m.offers}
    cloud.poison_app(20)
    assert await world.catalog.refresh() is None
    offers = [o for m in world.catalog.current.marketplaces for o in m.offers]
    assert {o.app.id for o in offers} == before
    assert [o.app.id for o in offers if o.app.unreadable] == [20]


# --- marketplaces that tell their lists themselves ----------------------------------------------

OWN_LISTS = {
    "one": "appliance_url",
    "linuxcontainers": "files_url",
    "turnkeylinux": "files_url",
    "dockerhub": "registry_url",
    "docker_registry": "registry_url",
}
FRONT_ENDS_LIST = {"http", "s3"}

UNSEEN = {("turnkeylinux", "half of it"), ("turnkeylinux", "all but the end")}
"""Half a page is a page, in HTML. That it is half is known by its length, which the fetcher holds
it to; so it is below, over a real connection."""


def test_every_marketplace_is_looked_at():
    assert set(OWN_LISTS) | FRONT_ENDS_LIST == set(marketplaces.DRIVERS)


async def listed(call, kind, url):
    driver = marketplaces.driver_for(kind, call=call, version="", platform="linux/amd64")
    (place,) = marketplaces_at([f"{kind.replace('_', '-')}+{url}"])
    return [offer.app.name for offer in await driver.offers(place, None)]


@pytest.mark.parametrize("kind", sorted(OWN_LISTS))
async def test_half_answers_of_a_marketplace_are_no_list(kind, servers):
    url = getattr(servers, OWN_LISTS[kind])
    servers.registry.page = 1  # of names: its lists have several
    count, spoil = 0, (0, None)

    async with open_fetcher() as fetcher:

        async def call(request):
            nonlocal count
            count += 1
            answer = await fetcher.call(request)
            if count != spoil[0]:
                return answer
            if isinstance(spoil[1], int):
                return CallAnswer(spoil[1], (), b"")
            return replace(answer, body=spoil[1](answer.body))

        whole = await listed(call, kind, url)
        answers = count
        assert len(whole) >= 2
        if kind in {"dockerhub", "docker_registry"}:
            assert answers >= 2, "its list has one page: this test shows nothing"
        for number in range(1, answers + 1):
            for name, how in {**SPOILED, **STATUSES}.items():
                if (kind, name) in UNSEEN:
                    continue
                count, spoil = 0, (number, how)
                try:
                    found = await listed(call, kind, url)
                except NebfsError:
                    continue
                # Without an index there is the list at its usual place.
                assert found == whole, f"{name} of answer {number} was taken for a list"
        count, spoil = 0, (0, None)
        assert await listed(call, kind, url) == whole


# --- a datastore's host -------------------------------------------------------------------------


def far_images():
    return [
        Image(n, f"image {n}", datastore_id=1, state=ImageState.READY, source=f"/far/1/{n:032x}")
        for n in range(5)
    ]


async def test_half_answers_of_a_datastores_host_are_no_list():
    store = Datastore(
        1,
        "far",
        driver="fs",
        transfer="ssh",
        base_path="/far/1",
        template=Template((("BRIDGE_LIST", "host.example"),)),
    )
    spoil = None

    async def call(request):
        await trio.lowlevel.checkpoint()
        paths = json.loads(request.body)["paths"]
        facts = [[0, "file", False, False, 4096, 1, path] for path in paths]
        body = json.dumps(facts).encode()
        return CallAnswer(200, (), body if spoil is None else spoil(body))

    driver = DatastoreDrivers(call=call)("fs")
    whole = await driver.holdings(store, far_images())
    assert all(holding.content is not None for holding in whole)
    fewer = {
        "four of five": lambda body: json.dumps(json.loads(body)[:4]).encode(),
        "six of five": lambda body: json.dumps([*json.loads(body), json.loads(body)[0]]).encode(),
        "an entry cut short": lambda body: json.dumps([e[:3] for e in json.loads(body)]).encode(),
        "a length below zero": lambda body: body.replace(b"4096", b"-1"),
    }
    for name, how in {**SPOILED, **fewer}.items():
        spoil = how
        with pytest.raises(NebfsError):
            await driver.holdings(store, far_images())
            raise AssertionError(name)
    spoil = None
    assert await driver.holdings(store, far_images()) == whole


# --- a real mount, and rsync --delete -----------------------------------------------------------

PUBLIC, PRIVATE = "marketplaces/OpenNebula Public", "marketplaces/Private HTTP"
STORE = "datastores/default"


class Truncated(bytes):
    """Bytes that are announced as twice as many."""

    def __len__(self):
        return 2 * super().__len__()


def only_good_ones(cloud):
    """Leave out what cannot be read: after an error of a file, rsync deletes nothing anyway."""
    for number in (22, 23, 24):
        cloud.remove_app(number)
    for number in (4, 5):
        cloud.remove_image(number)


def rsync(source: Path, target: Path, check=True):
    """Make `target` as `source` is, but for the bytes of large files."""
    words = ("rsync", "-a", "--delete", "--max-size=300k", "--modify-window=1")
    return run(*words, f"{source}/", f"{target}/", check=check)


def names(root: Path):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def refreshed(mount):
    """Ask for new lists, and return whether there are any."""
    socket = next(mount.run_dir.glob("*.sock"))
    return ask(socket, "POST", "/v1/refresh", timeout=60).get("refreshed")


@pytest.mark.mounted
def test_rsync_delete_deletes_nothing_while_a_place_is_down(
    make_mount, servers, cloud, tmp_path, monkeypatch
):
    only_good_ones(cloud)
    mount = make_mount(servers.frontend_url)
    mount.start()
    copies = {place: tmp_path / place.replace("/", "-") for place in (PUBLIC, PRIVATE, STORE)}
    for place, copy in copies.items():
        copy.mkdir()
        rsync(mount.path / place, copy)
        for name in set(names(mount.path / place)) - set(names(copy)):
            (copy / name).touch()  # what is too large to be copied here: its name is enough
    whole = {place: names(copy) for place, copy in copies.items()}
    as_of = {place: xattr(mount.path / place, "user.nebfs.as-of") for place in copies}

    def nothing_is_deleted(what):
        for place, copy in copies.items():
            done = rsync(mount.path / place, copy, check=False)
            assert names(copy) == whole[place], f"{what}: {done.stderr}"

    def age(name):
        return next(p for p in mount.status()["places"] if p["name"] == name)["age"]

    # The front-end: away, and then breaking off in the middle of an answer.
    servers.front_end.fail_next = 1 << 30
    refreshed(mount)
    assert "503" in mount.status()["trouble"]
    nothing_is_deleted("the front-end is down")
    servers.front_end.fail_next = 0
    answer = servers.front_end.answer
    servers.front_end.answer = lambda body: Truncated(answer(body))
    refreshed(mount)
    assert mount.status()["trouble"]
    nothing_is_deleted("the front-end breaks off")
    for place in copies:
        assert xattr(mount.path / place, "user.nebfs.as-of") == as_of[place]
    servers.front_end.answer = answer
    assert refreshed(mount)

    # A marketplace: away, and then with half a catalogue.
    servers.appliances.fail_next = 1 << 30
    before = age("OpenNebula Public")
    assert refreshed(mount)
    assert "cannot answer now" in xattr(mount.path / PUBLIC, "user.nebfs.trouble")
    assert age("OpenNebula Public") > before, "an age that does not grow is none"
    assert age("Private HTTP") < age("OpenNebula Public")
    nothing_is_deleted("the marketplace is down")
    servers.appliances.fail_next = 0
    reply = Handler.reply

    def half(self, status, body, headers):
        if self.path.endswith("/appliance"):
            body = Truncated(_half(body))
        reply(self, status, body, headers)

    monkeypatch.setattr(Handler, "reply", half)
    assert refreshed(mount)
    assert xattr(mount.path / PUBLIC, "user.nebfs.trouble")
    nothing_is_deleted("the marketplace breaks off")
    monkeypatch.setattr(Handler, "reply", reply)

    # A datastore whose disk is not there: a file system that is not mounted is an empty directory.
    base = Path(cloud.datastores[1].base_path)
    away = base.with_name("away")
    os.rename(base, away)
    base.mkdir()
    try:
        assert refreshed(mount)
        nothing_is_deleted("the datastore's directory is empty")
        base.rmdir()
        assert refreshed(mount)
        nothing_is_deleted("the datastore's directory is gone")
    finally:
        shutil.rmtree(base, ignore_errors=True)
        os.rename(away, base)

    # And what is deleted is deleted: else none of the above would show anything.
    assert refreshed(mount)
    assert mount.status()["healthy"]
    cloud.remove_app(20)
    cloud.remove_image(0)
    assert refreshed(mount)
    for place, copy in copies.items():
        rsync(mount.path / place, copy)
        gone = set(whole[place]) - set(names(copy))
        assert bool(gone) == (place != PUBLIC), place
        assert not any("twin" in name for name in gone)


@pytest.mark.mounted
def test_a_first_listing_that_cannot_be_made_is_an_error_in_that_directory_only(
    make_mount, servers, tmp_path
):
    servers.appliances.fail_next = 1 << 30
    mount = make_mount(servers.frontend_url)
    mount.start()
    for face in (mount.path, mount.path / "raw"):
        with pytest.raises(OSError, match="Input/output") as caught:
            os.listdir(face / PUBLIC)
        assert caught.value.errno == errno.EIO
    assert xattr(mount.path / PUBLIC, "user.nebfs.as-of") == "never"
    assert "cannot answer now" in xattr(mount.path / PUBLIC, "user.nebfs.trouble")
    assert os.listdir(mount.path / PRIVATE)
    assert os.listdir(mount.path / STORE)
    assert "OpenNebula Public" in os.listdir(mount.path / "marketplaces")

    copy = tmp_path / "copy"
    (copy / "Debian 12").mkdir(parents=True)
    (copy / "Debian 12/app.json").write_text("of yesterday")
    words = ("rsync", "-a", "--delete", f"{mount.path / PUBLIC}/", f"{copy}/")
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 23, done.stderr
    assert names(copy) == ["Debian 12", "Debian 12/app.json"]

    servers.appliances.fail_next = 0
    assert refreshed(mount)
    assert "Debian 12" in os.listdir(mount.path / PUBLIC)
    assert xattr(mount.path / PUBLIC, "user.nebfs.as-of") > "2026"
