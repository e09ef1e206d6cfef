"""Promise 10: what is listed and opened is what OpenNebula lets the session use, and no more.

A real oned's answers to three of its users (tests/fixtures/oned/README.md) are given to a real
mount for each; what it then shows is held against the objects' numbers in those answers.
"""

from __future__ import annotations

import re
import threading
import xmlrpc.client
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.mounted.conftest import everything_shown, wait_until

pytestmark = pytest.mark.mounted

ONED = Path(__file__).parents[1] / "fixtures" / "oned"
USERS = ("oneadmin", "alice", "carol")
DELETED = "7"
"""The STATE of an image that is being deleted, which is not shown to anybody."""

NAMES = {
    "one.system.version": "system.version",
    "one.zonepool.info": "zonepool.info",
    "one.zone.info": "zone.info-0",
    "one.marketpool.info": "marketpool.info",
    "one.marketapppool.info": "marketapppool.info",
    "one.datastorepool.info": "datastorepool.info",
    "one.imagepool.info": "imagepool.info",
    "one.user.info": "user.info-self",
    "one.vmpool.infoextended": "vmpool.info",
}


def recorded(name, who):
    return (ONED / f"{name}-{who}.response.xml").read_bytes()


def document(name, who):
    ((_, text, _),), _ = xmlrpc.client.loads(recorded(name, who))
    return text


def records(pool, element, who):
    """Return a user's objects by id, as text: without the project's own decoder."""
    found = re.findall(rf"<{element}>(.*?)</{element}>", document(pool, who), re.DOTALL)
    return {re.search(r"<ID>(\d+)</ID>", one)[1]: one for one in found}


def images_of(who):
    found = records("imagepool.info", "IMAGE", who)
    return {number for number, one in found.items() if f"<STATE>{DELETED}</STATE>" not in one}


def apps_of(who, *markets):
    """Return a user's apps in these marketplaces; in all if none is named."""
    found = records("marketapppool.info", "MARKETPLACEAPP", who)
    return {
        number
        for number, one in found.items()
        if not markets or re.search(r"<MARKETPLACE_ID>(\d+)<", one)[1] in markets
    }


class Replayed(BaseHTTPRequestHandler):
    """Answers each method as oned did to the user whose turn it is."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        parameters, method = xmlrpc.client.loads(body)
        name = NAMES.get(method)
        page = int(parameters[2]) if name == "marketapppool.info" and len(parameters) > 3 else 0
        if name is None or page > 0:
            answer = xmlrpc.client.dumps(((True, "<POOL></POOL>", 0),), methodresponse=True)
        else:
            answer = recorded(name, self.server.who).decode()
        self.send_response(200)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(answer.encode())))
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *_):
        """Say nothing."""


@contextmanager
def replayed(who):
    with ThreadingHTTPServer(("127.0.0.1", 0), Replayed) as server:
        server.who = who
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def away(monkeypatch):
    """The recorded marketplaces are on the internet, where a test has no business."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")


def shown(mount, kind):
    return {path.name for path in (mount.path / ".nebfs/by-id" / kind).iterdir()}


@pytest.mark.parametrize("who", USERS)
def test_each_user_sees_what_oned_told_him_of_and_nothing_else(who, make_mount, away):
    with replayed(who) as server:
        mount = make_mount(f"http://127.0.0.1:{server.server_port}/RPC2", auth=f"{who}:{who}pass")
        mount.start()
        # The others do not answer, and of what was never listed nothing is shown.
        assert apps_of(who, "100") <= shown(mount, "apps") <= apps_of(who)
        assert shown(mount, "images") == images_of(who)
        theirs = set().union(*map(images_of, USERS)) - images_of(who)
        assert bool(theirs) == (who != "oneadmin")
        for number in theirs:
            with pytest.raises(FileNotFoundError):
                (mount.path / ".nebfs/by-id/images" / number).stat()
        seen = everything_shown(mount.path)
    for number, record in records("imagepool.info", "IMAGE", "oneadmin").items():
        if number in theirs:
            source = re.search(r"<SOURCE>(?:<!\[CDATA\[)?(.*?)(?:\]\]>)?</SOURCE>", record)
            assert not source or not source[1] or source[1] not in seen


def test_a_right_that_is_lost_counts_from_the_next_refresh_on(make_mount, away):
    with replayed("alice") as server:
        mount = make_mount(f"http://127.0.0.1:{server.server_port}/RPC2", auth="alice:alicepass")
        mount.start()
        lost = shown(mount, "images") - images_of("carol")
        assert lost
        paths = [mount.path / ".nebfs/by-id/images" / number for number in lost]
        names = [path.resolve() for path in paths]
        assert all(path.exists() for path in names)
        server.who = "carol"  # as if she had been taken out of her group
        mount.refresh()
        assert shown(mount, "images") == images_of("carol")
        # What the kernel knows of them is taken back in a thread, a moment later.
        for path in (*paths, *names):
            wait_until(lambda path=path: not path.exists())
        server.who = "alice"
        mount.refresh()
        assert all(path.exists() for path in names)


def test_a_session_that_is_refused_opens_nothing_any_more(mount, cloud):
    from nebfs.daemon.control import ask

    image = mount.image("tiny raw.raw")
    assert image.read_bytes()
    cloud.set_password("oneadmin", "another")
    ask(next(mount.run_dir.glob("*.sock")), "POST", "/v1/refresh", timeout=30)
    with pytest.raises(PermissionError):
        image.read_bytes()
    cloud.set_password("oneadmin", "opennebula")
    mount.refresh()
    assert image.read_bytes()


def test_an_image_that_may_not_be_used_any_more_is_gone_at_the_next_refresh(mount, cloud):
    image = mount.image("tiny raw.raw")
    with image.open("rb") as held:
        assert held.read(1)
        number = next(n for n, one in cloud.images.items() if one.name == "tiny raw")
        del cloud.images[number]
        mount.refresh()
        with pytest.raises(FileNotFoundError):
            image.open("rb")
        assert image.name not in {path.name for path in image.parent.iterdir()}
