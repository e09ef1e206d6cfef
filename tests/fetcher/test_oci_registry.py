"""The oci transport and the driver against a real registry, with every way of letting in."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import os
from pathlib import Path

import pytest
import trio
import xxhash

from nebfs.errors import Missing, Refused
from nebfs.fetcher.messages import CallRequest, FetchRequest
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports.oci import Oci
from nebfs.marketplaces.docker_registry import DockerRegistryMarketplace
from nebfs.marketplaces.oci import ACCEPTED
from nebfs.model import App, AppState, AppType, Marketplace, Template
from tests.fetcher.registry import DOCKER, OCI, PASSWORD, USER, Registry, digest, make_layer

PLAIN = FetcherSettings(connect_timeout=10, stall_timeout=20, trust_env=False)
SLOT = 128 << 10
SIZE = 3 << 20
LAYERS = [make_layer(1, SIZE), make_layer(2, 1000), make_layer(2, 1000)]


@pytest.fixture(scope="module", params=["", "htpasswd", "token"])
def registry(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("registry")
    with Registry(root, request.param).running() as made:
        made.image = made.push("demo/app", "latest", LAYERS)
        made.docker = made.push("demo/docker", "1.0", LAYERS[1:], DOCKER)
        entries = []
        for number, name in enumerate(("amd64", "arm64")):
            one = made.push("demo/many", name, [make_layer(3 + number, 100)])
            entries.append(
                {
                    "mediaType": OCI + "manifest.v1+json",
                    "digest": one,
                    "size": made.sizes[one],
                    "platform": {"os": "linux", "architecture": name},
                }
            )
        index = {"schemaVersion": 2, "mediaType": OCI + "index.v1+json", "manifests": entries}
        made.push_manifest("demo/many", "latest", index)
        made.arm = entries[1]["digest"]
        yield made


@pytest.fixture
def settings(registry, tmp_path) -> FetcherSettings:
    path = tmp_path / "credentials.toml"
    path.write_text(f'["{registry.url}"]\nuser = "{USER}"\npassword = "{PASSWORD}"\n')
    path.chmod(0o600)
    return dataclasses.replace(PLAIN, credentials_file=str(path))


class Listener:
    """Keeps what was reported."""

    def __init__(self):
        self.revisions = []
        self.slots = []
        self.found = self.revisions.append
        self.filled = self.slots.extend

    def early(self, offset, data):
        pass


@contextlib.asynccontextmanager
async def transport(settings):
    made = Oci(settings)
    try:
        yield made
    finally:
        await made.aclose()


def place(registry) -> Marketplace:
    return Marketplace(1, "Registry", template=Template((("BASE_URL", registry.url),)))


def app_of(registry, name, tag="latest") -> App:
    host = registry.url.partition("://")[2]
    source = f"docker://{host}/{name}?size=1&tag={tag}"
    return App(1, name, state=AppState.READY, type=AppType.IMAGE, source=source)


def driver_of(settings, platform="linux/amd64"):
    """Return the driver; its calls go out of a loop of asyncio in a thread."""

    async def call(request: CallRequest):
        async def ask():
            async with transport(settings) as made:
                return await made.call(request)

        return await trio.to_thread.run_sync(asyncio.run, ask())

    return DockerRegistryMarketplace(call=call, version="7.4.0", platform=platform)


def bring(settings, content, spans, path: Path, slot_size=SLOT):
    """Fetch `spans` of a content into `path`."""

    async def run():
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        listener = Listener()
        try:
            async with transport(settings) as made:
                probe = FetchRequest(content.locator, (), None, slot_size)
                revision = await made.fetch(probe, fd, Listener())
                os.truncate(fd, revision.size)
                stops = tuple((a, min(b, revision.size)) for a, b in spans)
                request = FetchRequest(content.locator, stops, revision, slot_size)
                await made.fetch(request, fd, listener)
        finally:
            os.close(fd)
        return revision, listener.slots

    return asyncio.run(run())


async def test_an_image_comes_whole_and_its_digests_are_those_of_its_bytes(
    registry, settings, tmp_path
):
    driver = driver_of(settings)
    files = await driver.contents(place(registry), app_of(registry, "demo/app"))
    labels = ["manifest", "config", "layer-00", "layer-01", "layer-02"]
    assert [f.label for f in files] == labels
    assert files[0].version == registry.image
    # The same bytes twice are the same content.
    assert files[3].identity == files[4].identity
    for content in files:
        bring(settings, content, [(0, 1 << 30)], tmp_path / content.label)
        data = (tmp_path / content.label).read_bytes()
        assert hashlib.sha256(data).hexdigest() == content.checksums[0].digest
    assert (tmp_path / "layer-00").read_bytes() == LAYERS[0]


async def test_a_range_in_the_middle_fetches_that_range(registry, settings, tmp_path):
    driver = driver_of(settings)
    registry.push("demo/middle", "latest", LAYERS)
    files = await driver.contents(place(registry), app_of(registry, "demo/middle"))
    middle = 8 * SLOT
    revision, slots = bring(settings, files[2], [(middle, middle + SLOT)], tmp_path / "blob")
    assert (revision.size, revision.ranges) == (len(LAYERS[0]), True)
    assert [s.slot for s in slots] == [8]
    wanted = LAYERS[0][middle : middle + SLOT]
    assert slots[0].checksum == xxhash.xxh3_64_intdigest(wanted, 8)
    assert (tmp_path / "blob").read_bytes()[middle : middle + SLOT] == wanted
    sent = registry.sent(f"/v2/demo/middle/blobs/{digest(LAYERS[0])}", 2)
    assert sent == [(206, 1), (206, SLOT)]


async def test_dockers_own_manifests_and_tags(registry, settings):
    driver = driver_of(settings)
    files = await driver.contents(place(registry), app_of(registry, "demo/docker", "1.0"))
    assert [f.format for f in files] == ["json", "json", "tar", "tar"]
    assert files[0].version == registry.docker
    with pytest.raises(Missing):
        await driver.contents(place(registry), app_of(registry, "demo/docker", "latest"))
    with pytest.raises(Missing):
        await driver.contents(place(registry), app_of(registry, "demo/none"))


async def test_the_platforms_image_of_an_index(registry, settings):
    driver = driver_of(settings, "linux/arm64")
    files = await driver.contents(place(registry), app_of(registry, "demo/many"))
    assert files[0].version == registry.arm
    other = driver_of(settings, "linux/riscv64")
    with pytest.raises(Missing, match="linux/amd64 linux/arm64"):
        await other.contents(place(registry), app_of(registry, "demo/many"))


async def test_the_catalogue_is_the_list(registry, settings):
    driver = driver_of(settings)
    offers = await driver.offers(place(registry), None)
    assert {o.app.name for o in offers} >= {"demo/app", "demo/docker", "demo/many"}


async def test_without_a_user_nothing_is_shown(registry):
    driver = driver_of(PLAIN)
    if not registry.auth:
        assert await driver.contents(place(registry), app_of(registry, "demo/app"))
        return
    with pytest.raises(Refused):
        await driver.contents(place(registry), app_of(registry, "demo/app"))
    with pytest.raises(Refused):
        await driver.offers(place(registry), None)


@pytest.mark.parametrize("registry", ["token"], indirect=True, scope="module")
def test_a_token_that_has_ended_is_had_anew(registry, settings):
    url = f"{registry.url}/v2/demo/app/manifests/latest"
    before = len(registry.tokens.asked)

    async def run():
        async with transport(settings) as made:
            accept = (("Accept", ACCEPTED),)
            request = CallRequest("GET", url, accept, transport="oci")
            # It says 300 seconds, and lies: the registry takes it for one that has ended.
            registry.tokens.seconds, good = -300, registry.tokens.seconds
            assert (await made.call(request)).status == 401
            registry.tokens.seconds = good
            assert (await made.call(request)).status == 200
            assert (await made.call(request)).status == 200

    asyncio.run(run())
    asked = registry.tokens.asked[before:]
    assert len(asked) == 2
    assert asked[0] == {"service": ["test"], "scope": ["repository:demo/app:pull"]}
