"""Apps and marketplaces to be judged, and services that answer for a marketplace."""

from __future__ import annotations

import functools
import http.client
import json
import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio

from nebfs.fetcher.messages import CallAnswer, CallRequest
from nebfs.model import App, AppState, AppType, Marketplace, Template

FIXTURES = Path(__file__).parents[1] / "fixtures" / "marketplaces"
ENDPOINT = "http://market.example.org"


def make_app(number: int = 1, **changes: object) -> App:
    facts: dict[str, object] = {
        "marketplace_id": 0,
        "marketplace": "Public",
        "state": AppState.READY,
        "type": AppType.IMAGE,
        "source": f"{ENDPOINT}/appliance/app{number}/download/0",
        "md5": "0123456789abcdef0123456789abcdef",
        "size_mb": 8,
        "format": "qcow2",
        "version": "1.0",
    }
    return App(number, f"app {number}", **{**facts, **changes})


def make_marketplace(endpoint: str = ENDPOINT, driver: str = "one") -> Marketplace:
    return Marketplace(
        0,
        "Public",
        driver=driver,
        template=Template((("BASE_URL", endpoint), ("ENDPOINT", endpoint + "/"))),
    )


def make_appliance(number: int = 1, **changes: object) -> dict[str, object]:
    facts: dict[str, object] = {
        "_id": {"$oid": f"app{number}"},
        "name": f"app {number}",
        "version": "1.0",
        "files": [
            {
                "name": "disk",
                "url": "http://files.example.org/disk",
                "size": 8388608,
                "checksum": {"md5": "f" * 32, "sha256": "a" * 64},
            }
        ],
    }
    return {**facts, **changes}


class Service:
    """Answers every call with `body` and `status`, and keeps the requests."""

    def __init__(self, body: object = None, status: int = 200, **headers: str) -> None:
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.status = status
        self.headers = tuple(headers.items())
        self.requests: list[CallRequest] = []

    @classmethod
    def of(cls, *appliances: object) -> Service:
        return cls({"sEcho": 1, "appliances": list(appliances)})

    async def __call__(self, request: CallRequest) -> CallAnswer:
        await trio.lowlevel.checkpoint()
        self.requests.append(request)
        return CallAnswer(self.status, self.headers, self.body)


class Pages(Service):
    """Answers a call with the page that its address ends with, and 404 where there is none."""

    def __init__(self, pages: Mapping[str, bytes]) -> None:
        super().__init__()
        self.pages = dict(pages)

    async def __call__(self, request: CallRequest) -> CallAnswer:
        await trio.lowlevel.checkpoint()
        self.requests.append(request)
        for end, body in self.pages.items():
            if request.url.endswith(end):
                return CallAnswer(200, (), body)
        return CallAnswer(404, (), b"")


class _Handler(BaseHTTPRequestHandler):
    """The appliance service's rules: the User-Agent decides, downloads are redirects."""

    def __init__(self, *args: object, catalogue: list[dict]) -> None:
        self.catalogue = catalogue
        super().__init__(*args)

    def do_GET(self) -> None:
        path = re.sub(r"^/+", "/", self.path)
        if path.startswith("/files/"):
            return self.answer(200, (FIXTURES / path.lstrip("/")).read_bytes())
        if path == "/appliance":
            version = re.match(r"OpenNebula (\d+\.\d+)", self.headers.get("User-Agent", ""))
            wanted = version[1] if version else "7.4"
            shown = [a for a in self.catalogue if wanted in a["opennebula_version"].split(", ")]
            body = json.dumps({"sEcho": 1, "appliances": shown}).encode()
            return self.answer(200, body)
        found = re.fullmatch(r"/appliance/([^/]+)/download/(\d+)", path)
        app = next((a for a in self.catalogue if found and a["_id"]["$oid"] == found[1]), None)
        if app is None:
            return self.answer(404)
        if "files" not in app:
            return self.answer(500)
        file = app["files"][int(found[2])] if int(found[2]) < len(app["files"]) else {}
        if not file.get("url") or not file.get("size"):
            return self.answer(404)
        return self.answer(302, location=urlsplit(file["url"]).path)

    def answer(self, status: int, body: bytes = b"", location: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _exchange(url: str, headers: dict[str, str]) -> CallAnswer:
    for _ in range(3):
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=10)
        try:
            connection.request("GET", parts.path, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status != 302:
            return CallAnswer(answer.status, tuple(answer.getheaders()), body)
        url = f"http://{parts.netloc}{answer.headers['Location']}"
    raise AssertionError("too many redirects")


async def call_really(request: CallRequest) -> CallAnswer:
    """Send `request` over loopback, following redirects."""
    return await trio.to_thread.run_sync(_exchange, request.url, dict(request.headers))


@pytest.fixture
def catalogue() -> list[dict]:
    return json.loads((FIXTURES / "appliance-list.json").read_bytes())["appliances"]


@pytest.fixture
def real_service(catalogue):
    """The address of a loopback server that answers as the appliance service does."""
    handler = functools.partial(_Handler, catalogue=catalogue)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def call():
    return call_really


@pytest.fixture
def app():
    return make_app


@pytest.fixture
def appliance():
    return make_appliance


@pytest.fixture
def marketplace():
    return make_marketplace


@pytest.fixture
def service():
    return Service


@pytest.fixture
def pages():
    return Pages
