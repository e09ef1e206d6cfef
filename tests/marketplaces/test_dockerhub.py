"""Docker Hub's list, page by page, and where its bytes are looked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from nebfs.errors import BadAnswer, Missing, Refused, Unreachable, Unsupported
from nebfs.fetcher.messages import CallAnswer, CallRequest
from nebfs.marketplaces.dockerhub import DockerHubMarketplace
from nebfs.model import Marketplace, Template

FIXTURES = Path(__file__).parents[1] / "fixtures" / "marketplaces" / "docker"
HUB = "https://hub.docker.com"
FIRST = "/v2/repositories/library/?page_size=100"
ORIGIN = b"http://127.0.0.1:18091"


class Hub:
    """Answers by address."""

    def __init__(self, **pages: bytes) -> None:
        self.pages: dict[str, bytes] = dict(pages)
        self.requests: list[CallRequest] = []

    async def __call__(self, request: CallRequest) -> CallAnswer:
        await trio.lowlevel.checkpoint()
        self.requests.append(request)
        body = self.pages.get(request.url)
        return CallAnswer(200 if body is not None else 404, (), body or b"")


def hub_at(origin: str = HUB) -> Hub:
    """Return one with the two sample pages, as the service at `origin` would write them."""
    one, two = (
        (FIXTURES / f"dockerhub-page{n}.json").read_bytes().replace(ORIGIN, origin.encode())
        for n in (1, 2)
    )
    hub = Hub()
    hub.pages[origin + FIRST] = one
    hub.pages[f"{origin}/v2/repositories/library/?page=2&page_size=1"] = two
    return hub


def place(endpoint: str | None = None) -> Marketplace:
    attributes = (("ENDPOINT", endpoint),) if endpoint is not None else ()
    return Marketplace(3, "Docker Hub", driver="dockerhub", template=Template(attributes))


def driver_of(call) -> DockerHubMarketplace:
    return DockerHubMarketplace(call=call, version="7.4.0", platform="linux/amd64")


async def test_every_page_of_the_list_becomes_apps():
    hub = hub_at()
    offers = {o.app.name: o for o in await driver_of(hub).offers(place(), None)}
    assert set(offers) == {"tiny", "nodate"}
    tiny = offers["tiny"]
    assert tiny.deferred
    assert tiny.app.source == "docker://tiny?size=2048&filesystem=ext4&format=raw"
    assert tiny.app.description == 'A tiny "demo" image'
    assert tiny.app.regtime == 1795165143
    assert (offers["nodate"].app.regtime, offers["nodate"].app.description) == (0, "")
    assert json.loads(tiny.published)["pull_count"] == 42
    assert tiny.app.template.get("PUBLISHER") == "hub.docker.com"
    assert [r.transport for r in hub.requests] == ["http", "http"]


async def test_the_bytes_are_at_the_hubs_registry():
    hub = hub_at()
    driver = driver_of(hub)
    offers = await driver.offers(place(), None)
    with pytest.raises(Missing):
        await driver.contents(place(), offers[0].app)
    request = hub.requests[-1]
    name = offers[0].app.name
    assert request.url == f"https://registry-1.docker.io/v2/library/{name}/manifests/latest"
    assert request.transport == "oci"


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:5000", "http://127.0.0.1:5000/"])
async def test_another_endpoint_has_its_registry_at_the_same_address(endpoint, app):
    origin = endpoint.rstrip("/")
    hub = hub_at(origin)
    driver = driver_of(hub)
    assert len(await driver.offers(place(endpoint), None)) == 2
    with pytest.raises(Missing):
        await driver.contents(place(endpoint), app(1, source="docker://tiny"))
    assert hub.requests[-1].url == f"{origin}/v2/library/tiny/manifests/latest"


async def test_a_proxy_that_speaks_tls_for_the_service_may_write_http():
    hub = hub_at()
    hub.pages[HUB + FIRST] = hub.pages[HUB + FIRST].replace(b"https://", b"http://")
    assert len(await driver_of(hub).offers(place(), None)) == 2
    assert all(r.url.startswith(HUB) for r in hub.requests)


@pytest.mark.parametrize(
    "following",
    [
        "https://evil.example.org/v2/repositories/library/?page=2",
        "https://hub.docker.com:444/v2/repositories/library/?page=2",
        "https://user@hub.docker.com/v2/repositories/library/?page=2",
        "https://hub.docker.com/v2/users/",
        "file:///etc/passwd",
        "http://[::1",
        "https://hub.docker.com/v2/repositories/library/?page=\r\n2",
        7,
    ],
)
async def test_the_list_goes_on_nowhere_else(following):
    hub = hub_at()
    page = json.loads(hub.pages[HUB + FIRST])
    hub.pages[HUB + FIRST] = json.dumps({**page, "next": following}).encode()
    with pytest.raises(BadAnswer):
        await driver_of(hub).offers(place(), None)
    assert len(hub.requests) == 1


async def test_a_list_without_an_end_is_left():
    hub = hub_at()
    page = json.loads(hub.pages[HUB + FIRST])
    hub.pages[HUB + FIRST] = json.dumps({**page, "next": HUB + FIRST}).encode()
    with pytest.raises(BadAnswer, match="end"):
        await driver_of(hub).offers(place(), None)
    assert len(hub.requests) == 2


async def test_entries_that_cannot_be_images_are_left_out():
    names = ["ok", "../x", "a/b", "", None, 7, {"x": 1}, "A", "x" * 300]
    entries = [{"name": name, "last_updated": "0000-99-99T99:99:99"} for name in names]
    hub = Hub()
    hub.pages[HUB + FIRST] = json.dumps({"results": [*entries, None, "x"]}).encode()
    (offer,) = await driver_of(hub).offers(place(), None)
    assert (offer.app.name, offer.app.regtime) == ("ok", 0)


async def test_half_of_a_surrogate_pair_can_be_saved():
    hub = Hub()
    hub.pages[HUB + FIRST] = b'{"results": [{"name": "a", "description": "x\\ud800y"}]}'
    (offer,) = await driver_of(hub).offers(place(), None)
    (offer.app.description + offer.published).encode()


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"results": {}}', b"<html>", b"[" * 99_999])
async def test_what_is_no_list_is_a_failure_and_not_an_empty_list(body):
    hub = Hub()
    hub.pages[HUB + FIRST] = body
    with pytest.raises(BadAnswer):
        await driver_of(hub).offers(place(), None)


@pytest.mark.parametrize(
    ("status", "kind"), [(403, Refused), (404, Missing), (429, Unreachable), (500, Unreachable)]
)
async def test_a_status_means_what_it_says(service, status, kind):
    with pytest.raises(kind):
        await driver_of(service({}, status)).offers(place(), None)


@pytest.mark.parametrize("endpoint", ["ftp://x/", "x", "http://", "http://h/sub/dir"])
async def test_an_endpoint_that_is_no_address_is_refused(endpoint, app):
    with pytest.raises(Unsupported, match="ENDPOINT"):
        await driver_of(Hub()).offers(place(endpoint), [app(1)])


async def test_with_a_front_end_nothing_is_asked_for_the_list(app):
    hub = Hub()
    apps = [app(2, source="docker://alpine?size=1"), app(1, source="docker://a/../b")]
    bad, good = await driver_of(hub).offers(place(), apps)
    assert (good.deferred, good.trouble) == (True, None)
    assert "not the name of an image" in bad.trouble.reason
    assert hub.requests == []
