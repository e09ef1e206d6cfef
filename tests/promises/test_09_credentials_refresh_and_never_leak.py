"""Promise 9: one refresh for all who wait, and no secret anywhere that anybody looks.

Each secret that nebfs can be given holds one word; then everything that can be seen of a mount that
logs every detail is searched for that word, as it is and in base64. What stays private by its mode
is not searched: the catalogue on disk (docs/security.md says what it holds).
Modes of directories, sockets and files: tests/test_private.py.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import json
import os
import signal
import socket
import tarfile
import threading
import urllib.request
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner

from nebfs.cli.main import nebfs_command
from nebfs.daemon.control import ask, follow
from nebfs.demo.server import serve
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports.http import Http
from nebfs.fetcher.transports.http_connections import first_target
from nebfs.fetcher.transports.http_redirects import Redirects
from nebfs.model import Locator
from tests.fetcher.conftest import Origin, ScriptedServer, Target, answer, make_content
from tests.mounted.conftest import everything_shown, wait_until
from tests.promises.canaries import (
    NOWHERE,
    cloud,
    credentials_file,
    plain,
    secret,
    seen_in,
    with_more,
)


@pytest.fixture(autouse=True)
def logs_as_they_were():
    yield
    structlog.reset_defaults()


READ = ("marketplaces/of http/app 1/app 1.raw", "marketplaces/of http/app 2/app 2.raw")


# --- the search for secrets ---


@pytest.fixture
def given(home, monkeypatch):
    """The servers of a cloud full of secrets, what a mount of it is started with, and where."""
    store = home / "store"
    store.mkdir()
    (store / "0").write_bytes(os.urandom(1 << 20))
    made = cloud(str(store))
    made.publish("/market/1.raw", store / "0")
    with serve(made) as servers:
        address = servers.files_url.replace("//", f"//{plain('u')}:{plain('source')}@")
        signed = f"X-Amz-Signature={plain('signature')}&token={plain('token')}"
        made.app(1).source = f"{address}/market/1.raw?{signed}"
        (home / "aws").write_text(
            f"[default]\naws_access_key_id = {plain('aws-id')}\n"
            f"aws_secret_access_key = {plain('aws-secret')}\n"
        )
        (home / "password").write_text(plain("password-file") + "\n")
        (home / "key.pem").write_text(f"-----BEGIN PRIVATE KEY-----\n{plain('client-key')}\n")
        credentials = home / "credentials.toml"
        credentials.write_text(credentials_file(servers.files_url, "key.pem"))
        for private in ("aws", "password", "key.pem", "credentials.toml"):
            (home / private).chmod(0o600)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(home / "aws"))
        monkeypatch.setenv("https_proxy", f"http://me:{plain('proxy')}@{NOWHERE}")
        monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
        monkeypatch.setenv("NEBFS_CREDENTIALS_FILE", str(credentials))
        yield servers
    assert servers.failures() == []


@pytest.fixture
def started(given, make_mount, home):
    """Start a mount that logs every detail in a given form, and look at all that can be seen."""

    def start(form):
        source = given.frontend_url.replace("//", f"//u:{plain('front-end')}@")
        options = f"log-level=debug,log-format={form}"
        mount = make_mount(source, "-o", options, auth=f"oneadmin:{secret('session')}")
        mount.start()
        assert (mount.path / READ[0]).read_bytes() == (home / "store/0").read_bytes()
        for path in _walked(mount.path):
            with contextlib.suppress(OSError), path.open("rb") as file:
                file.read(4096)
        with pytest.raises(OSError) as caught:
            (mount.path / READ[1]).read_bytes()
        assert caught.value.errno in {errno.EIO, errno.EACCES}
        mount.refresh()
        return mount, source

    return start


def _walked(root):
    return [Path(top) / name for top, _, names in os.walk(root) for name in names]


def said_by(mount, source, home):
    """Run the commands that tell something; yield what each said, also of what fails."""
    bundle = home / "bundle.tar.gz"
    environment = {
        "NEBFS_RUN_DIR": str(mount.run_dir),
        "NEBFS_AUTH_FILE": str(mount.path.parent / "auth"),
        "NEBFS_CACHE_DIR": str(mount.cache),
        "NEBFS_SOURCE": source,
    }
    wrong = f"http://u:{plain('wrong')}@[bad/"
    commands = (
        ["status", "-l"],
        ["status", "--json"],
        ["config", "show"],
        ["doctor"],
        ["ls", "-l", mount.path / "marketplaces/of http"],
        ["explain", mount.path / READ[0]],
        ["explain", mount.path / READ[1]],
        ["mount", wrong, home / "elsewhere"],
        ["support-bundle", "-o", bundle],
    )

    for words in commands:
        done = CliRunner().invoke(nebfs_command, list(map(str, words)), "nebfs", env=environment)
        assert done.exception is None or isinstance(done.exception, SystemExit), (words, done)
        assert "Traceback" not in done.output
        assert done.output, words
        yield words[0], done.output
    with tarfile.open(bundle) as parts:
        for one in parts:
            yield f"bundle {one.name}", parts.extractfile(one).read()


def answered_by(mount):
    """What the control socket, the metrics, the dashboard and a dump of the state say."""
    control = next(mount.run_dir.glob("*.sock"))
    for path in ("/v1/status", "/v1/cache", "/v1/pins", "/v1/history"):
        yield path, json.dumps(ask(control, "GET", path, timeout=20), ensure_ascii=False)
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(control))
        line.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        metrics = line.makefile("rb").read()
    assert b"nebfs_" in metrics
    yield "metrics", metrics
    lines = follow(control, "POST", "/v1/dashboard", body={}, silence=20)
    address = next(line["url"] for line in lines if "url" in line)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for name in ("", "data"):
        with opener.open(address + name, timeout=20) as page:
            yield f"dashboard {name}", page.read()
    lines.close()
    os.kill(mount.pid, signal.SIGUSR1)
    wait_until(lambda: "dump.written" in mount.log)


def shown_of_processes(mount):
    """Command lines of the daemon and its children, and what these are told besides."""
    ours = set(Path(f"/proc/{mount.pid}/environ").read_bytes().split(b"\0"))
    children = Path(f"/proc/{mount.pid}/task/{mount.pid}/children").read_text().split()
    assert children, "where is the fetcher?"
    for pid in children:
        yield "command line", Path(f"/proc/{pid}/cmdline").read_bytes()
        yield (
            "environment",
            b" ".join(set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")) - ours),
        )


@pytest.mark.mounted
def test_no_secret_is_seen_anywhere(started, home):
    mount, source = started("text")
    seen = [
        ("tree, attributes, documents, status, log", everything_shown(mount.path)),
        *said_by(mount, source, home),
        *answered_by(mount),
        *shown_of_processes(mount),
    ]
    # What was written in the meantime: log, dump, what is registered.
    seen += [(p.name, p.read_bytes()) for p in mount.run_dir.iterdir() if p.is_file()]
    assert any(name.endswith(".dump") for name, _ in seen)
    assert [(what, found) for what, text in seen for found in seen_in(text)] == []


@pytest.mark.mounted
def test_no_secret_is_in_a_log_of_json_and_templates_are_shown_as_opennebula_does(started, given):
    own = 'CONTEXT = [ PASSWORD = "its own" ]'
    app = given.cloud.app(1)
    app.template = with_more(app.template, NOTE="the note")
    app.app_template64 = base64.b64encode(own.encode()).decode()
    mount, _ = started("json")
    assert '"level": "debug"' in mount.log
    assert seen_in(mount.log) == []
    directory = mount.path / "marketplaces/of http/app 1"
    template = json.loads((directory / "app.json").read_text())["template"]
    assert template["NOTE"] == "the note"
    assert not {"PASSWORD", "API_TOKEN", "SSH_PRIVATE_KEY"} & template.keys()
    assert (directory / "image.tmpl").read_text() == own + "\n"


def test_the_search_finds_the_word_in_every_form():
    for before in range(3):
        for after in range(3):
            whole = base64.b64encode(b"x" * before + b"canary" + b"y" * after).decode()
            assert seen_in(whole), (before, after)
    assert seen_in("Canary")
    assert seen_in(b"\xff canary")
    assert not seen_in("a bird")


# --- one refresh for all ---


class Signed:
    """A place that redirects to signed addresses, which expire all at once."""

    def __init__(self, readers: int):
        self.origin = Origin(make_content())
        self.signature = 0
        self.noticing: threading.Barrier | None = None
        self._readers = readers
        self.store = ScriptedServer(self._bytes)
        self.place = ScriptedServer(self._redirect)

    def expire(self):
        """Let the signature expire; all readers notice it at the same time."""
        self.signature += 1
        self.noticing = threading.Barrier(self._readers, timeout=20)

    def _redirect(self, request):
        return answer(302, location=f"{self.store.url}/d?signature={self.signature}")

    def _bytes(self, request):
        if request.target.endswith(f"={self.signature}"):
            return self.origin(request)
        self.noticing.wait()
        return answer(403)


READERS = 6


@pytest.fixture
def signed():
    made = Signed(READERS)
    yield made
    made.store.close()
    made.place.close()


async def _read_at_once(http, signed, targets):
    address = signed.place.url + "/d"
    expected = signed.origin.revision
    async with asyncio.TaskGroup() as group:
        for n, target in enumerate(targets):
            request = target.request(address, (n, n + 1), expected=expected)
            group.create_task(http.fetch(request, target.fd, target.listener()))


@pytest.fixture
def targets(tmp_path, signed):
    made = [Target(tmp_path / f"t{n}", signed.origin.data) for n in range(READERS + 1)]
    yield made
    for one in made:
        os.close(one.fd)


@pytest.mark.parametrize("coded", [False, True], ids=["our own connections", "aiohttp"])
def test_a_signature_that_expires_is_renewed_once_for_all_who_read(signed, targets, coded):
    if coded:  # a body in chunks is left to aiohttp
        whole = signed.origin.part
        signed.origin.part = lambda a, b: whole(a, b, content_length="", connection="close")
    first, *others = targets

    async def run():
        http = Http(FetcherSettings(stall_timeout=20, connect_timeout=20, trust_env=False))
        try:
            await _read_at_once(http, signed, [first])
            asked = len(signed.place.requests)
            signed.expire()
            await _read_at_once(http, signed, others)
            return len(signed.place.requests) - asked
        finally:
            await http.aclose()

    assert asyncio.run(run()) == 1
    for target in targets:
        target.check()


@pytest.mark.parametrize("given_up", [True, False])
def test_whoever_asks_for_all_and_gives_up_hands_on_and_whoever_fails_lets_all_go(given_up):
    locator, stale, new = (Locator("http", f"http://h/{n}") for n in range(3))
    target = first_target(stale.address, ())

    async def run():
        redirects = Redirects()
        redirects.led(locator, target)
        known, turn = await redirects.again(locator, target)
        assert known is None
        waiting = [asyncio.create_task(redirects.again(locator, target)) for _ in range(2)]
        await asyncio.sleep(0)
        assert not any(one.done() for one in waiting)
        redirects.end(locator, turn, given_up=given_up)
        if not given_up:  # each finds out for itself why
            assert await asyncio.gather(*waiting) == [(None, None)] * 2
            return
        done, others = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        (one,), (other,) = done, others
        known, turn = one.result()
        assert known is None
        there = first_target(new.address, ())
        redirects.led(locator, there, turn)
        assert await other == (there, None)
        assert redirects.known(locator) is there

    asyncio.run(run())
