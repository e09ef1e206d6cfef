"""The catalogue of a registry, and what its images consist of, by a scripted registry."""

from __future__ import annotations

import errno
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from nebfs.errors import BadAnswer, Missing, Refused, Unreachable, Unsupported
from nebfs.fetcher.messages import CallAnswer, CallRequest
from nebfs.marketplaces import DeferringDriver
from nebfs.marketplaces.docker_registry import DockerRegistryMarketplace
from nebfs.model import AppState, AppType, Checksum, Marketplace, Template

FIXTURES = Path(__file__).parents[1] / "fixtures" / "marketplaces" / "docker"
BASE = "http://registry.example.org:5000"
CATALOGUE = (FIXTURES / "registry-catalog.json").read_bytes()
MANIFEST = (FIXTURES / "manifest.json").read_bytes()
INDEX = (FIXTURES / "image-index.json").read_bytes()
CONFIG = "3e50d368115bf514561689ebfe59bbe646fef5ef10cc526aa5cd449a805f7269"
LAYER = "d021c7d714bb429d3c6584df52fd280564003516f8c4a9bc97b69d3df377f086"


def digest(body: bytes) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()


@dataclass
class Registry:
    """Answers by address, with the status, headers and body that a test put there."""

    answers: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    requests: list[CallRequest] = field(default_factory=list)

    def put(self, path: str, body: bytes, status: int = 200, **headers: str) -> None:
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        self.answers[BASE + path] = status, named, body

    async def __call__(self, request: CallRequest) -> CallAnswer:
        await trio.lowlevel.checkpoint()
        self.requests.append(request)
        status, headers, body = self.answers.get(request.url, (404, {}, b"{}"))
        return CallAnswer(status, tuple(headers.items()), body)


@pytest.fixture
def registry():
    return Registry()


@pytest.fixture
def driver(registry):
    return DockerRegistryMarketplace(call=registry, version="7.4.0", platform="linux/amd64")


def place(base: str = BASE, **more: str) -> Marketplace:
    attributes = (("BASE_URL", base), *more.items())
    return Marketplace(7, "Registry", driver="docker_registry", template=Template(attributes))


@pytest.fixture
def tiny(app):
    return app(1, source="docker://registry.example.org:5000/tiny?size=2048", format="raw")


# --- the list ---


async def test_the_catalogue_becomes_apps(driver, registry):
    registry.put("/v2/_catalog", CATALOGUE)
    offers = await driver.offers(place(IMAGE_SIZE_MB="100"), None)
    assert {o.app.name for o in offers} == {"demo/app", "tiny"}
    assert [o.app.id for o in offers] == sorted(o.app.id for o in offers)
    assert all(o.deferred and not o.contents and o.trouble is None for o in offers)
    app = next(o.app for o in offers if o.app.name == "tiny")
    assert (app.type, app.state) == (AppType.IMAGE, AppState.READY)
    assert app.source == (
        "docker://registry.example.org:5000/tiny?size=100&filesystem=ext4&format=raw"
    )
    assert (app.size_mb, app.marketplace_id, app.marketplace) == (100, 7, "Registry")
    (request,) = registry.requests
    assert (request.method, request.transport) == ("GET", "oci")
    registry.put("/v2/tiny/manifests/latest", MANIFEST)
    assert len(await driver.contents(place(), app)) == 3


async def test_the_catalogue_is_followed_page_by_page_on_its_own_host(driver, registry):
    registry.put(
        "/v2/_catalog", b'{"repositories": ["a"]}', Link='</v2/_catalog?n=1&last=a>; rel="next"'
    )
    registry.put(
        "/v2/_catalog?n=1&last=a",
        b'{"repositories": ["b", "b"]}',
        Link='<https://other.example.org/v2/_catalog?last=b>; title="x"; rel=next',
    )
    registry.put("/v2/_catalog?last=b", b'{"repositories": ["c"]}', Link='</x>; rel="prev"')
    offers = await driver.offers(place(), None)
    assert {o.app.name for o in offers} == {"a", "b", "c"}
    assert all(r.url.startswith(BASE) for r in registry.requests)


@pytest.mark.parametrize("link", ["</v2/_catalog>", "</elsewhere?x>", "<http://[::1>", "<?\t>"])
async def test_a_catalogue_that_does_not_go_on_is_no_catalogue(driver, registry, link):
    registry.put("/v2/_catalog", b'{"repositories": ["a"]}', Link=f'{link}; rel="next"')
    with pytest.raises(BadAnswer):
        await driver.offers(place(), None)
    assert len(registry.requests) <= 2


async def test_an_empty_catalogue_is_empty(driver, registry):
    for body in (b'{"repositories": []}', b'{"repositories": null}'):
        registry.put("/v2/_catalog", body)
        assert await driver.offers(place(), None) == ()


async def test_names_that_cannot_be_are_left_out(driver, registry):
    names = ["ok", "../../x", "A", "", 7, None, "a" * 300, "x?y", "x\n"]
    registry.put("/v2/_catalog", json.dumps({"repositories": names}).encode())
    assert [o.app.name for o in await driver.offers(place(), None)] == ["ok"]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"repositories": {}}', b'{"errors": []}', b"[" * 100_000]
)
async def test_what_is_no_catalogue_is_a_failure_and_not_an_empty_list(driver, registry, body):
    registry.put("/v2/_catalog", body)
    with pytest.raises(BadAnswer):
        await driver.offers(place(), None)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, Refused), (403, Refused), (404, Missing), (429, Unreachable), (503, Unreachable)],
)
async def test_a_status_means_what_it_says(driver, registry, tiny, status, kind):
    registry.put("/v2/_catalog", b"canary", status, Retry_After="7")
    registry.put("/v2/tiny/manifests/latest", b"canary", status, Retry_After="7")
    for ask in (driver.offers(place(), None), driver.contents(place(), tiny)):
        with pytest.raises(kind, match="registry") as caught:
            await ask
        assert "canary" not in str(caught.value)
        assert caught.value.retry_after == (7.0 if kind is Unreachable else None)


async def test_with_a_front_end_nothing_is_asked_for_the_list(driver, registry, app):
    apps = [
        app(3, source="docker://quay.io/a/b"),
        app(2, source="docker://../x"),
        app(1, source="dockerfile:///tmp/x", format="raw"),
        app(4, source="", type=AppType.VMTEMPLATE),
    ]
    one, two, three, four = await driver.offers(place(), apps)
    assert (one.trouble.errno, two.trouble.errno) == (errno.EOPNOTSUPP, errno.EIO)
    assert "not the name of an image" in two.trouble.reason
    assert three.deferred
    assert (four.deferred, four.trouble) == (False, None)
    assert registry.requests == []


@pytest.mark.parametrize("base", ["", "registry:5000", "ftp://x", "http://h/path"])
async def test_a_base_url_that_is_no_registrys_is_refused(driver, tiny, base):
    for ask in (driver.offers(place(base), [tiny]), driver.contents(place(base), tiny)):
        with pytest.raises(Unsupported, match="BASE_URL"):
            await ask


# --- an image ---


async def test_an_image_is_its_manifest_its_config_and_its_layers(driver, registry, tiny):
    assert isinstance(driver, DeferringDriver)
    registry.put("/v2/tiny/manifests/latest", MANIFEST)
    manifest, config, layer = await driver.contents(place(), tiny)
    assert [c.label for c in (manifest, config, layer)] == ["manifest", "config", "layer-00"]
    assert [c.format for c in (manifest, config, layer)] == ["json", "json", "tar"]
    assert manifest.version == digest(MANIFEST)
    for blob in (config, layer):  # the same in every version of the image, and kept for all
        assert blob.locator.address.endswith(blob.version)
    assert {c.locator.transport for c in (manifest, config, layer)} == {"oci"}
    assert manifest.locator.address == f"{BASE}/v2/tiny/manifests/{digest(MANIFEST)}"
    assert manifest.checksums == (Checksum("sha256", digest(MANIFEST)[7:]),)
    ((name, accept),) = manifest.locator.options
    assert name == "header:Accept"
    assert "manifest.v2+json" in accept
    assert config.locator.address == f"{BASE}/v2/tiny/blobs/sha256:{CONFIG}"
    assert layer.locator.address == f"{BASE}/v2/tiny/blobs/sha256:{LAYER}"
    assert layer.checksums == (Checksum("sha256", LAYER),)
    (request,) = registry.requests
    assert (request.transport, dict(request.headers)["Accept"]) == ("oci", accept)


async def test_of_an_index_the_platforms_manifest_is_asked_by_digest(driver, registry, tiny):
    body = INDEX.replace(
        b"sha256:17b572bc1da4979bc0703004c5fc1c4821684ffc79bf323bbcd56961cd143ab9",
        digest(MANIFEST).encode(),
    )
    registry.put("/v2/tiny/manifests/latest", body, Docker_Content_Digest=digest(body))
    registry.put(f"/v2/tiny/manifests/{digest(MANIFEST)}", MANIFEST)
    found = await driver.contents(place(), tiny)
    assert found[0].version == digest(MANIFEST)
    arm = DockerRegistryMarketplace(call=registry, version="", platform="linux/arm64")
    with pytest.raises(Missing, match="linux/amd64"):
        await arm.contents(place(), tiny)
    # Another manifest under the digest of the index's is nobody's image.
    registry.put(f"/v2/tiny/manifests/{digest(MANIFEST)}", MANIFEST + b" ")
    with pytest.raises(BadAnswer, match="digest"):
        await driver.contents(place(), tiny)


async def test_a_manifest_that_differs_from_the_announced_digest_is_refused(driver, registry, tiny):
    registry.put("/v2/tiny/manifests/latest", MANIFEST, Docker_Content_Digest=digest(b"x"))
    with pytest.raises(BadAnswer, match="digest"):
        await driver.contents(place(), tiny)


async def test_a_registry_that_counts_in_sha512(driver, registry, tiny):
    name = "sha512:" + hashlib.sha512(MANIFEST).hexdigest()
    registry.put("/v2/tiny/manifests/latest", MANIFEST, docker_content_digest=name)
    found = await driver.contents(place(), tiny)
    assert found[0].checksums[0].algorithm == "sha512"
    assert found[0].locator.address.endswith(name)


async def test_indexes_without_an_end_are_left(driver, registry, tiny):
    inner = b'{"manifests": []}'
    for _ in range(4):
        body = json.dumps({"manifests": [{"digest": digest(inner)}]}).encode()
        registry.put(f"/v2/tiny/manifests/{digest(body)}", body)
        inner = body
    registry.put("/v2/tiny/manifests/latest", inner)
    with pytest.raises(BadAnswer, match="index"):
        await driver.contents(place(), tiny)
    assert len(registry.requests) == 3


async def test_the_tag_in_source_is_asked_for(driver, registry, app):
    tagged = app(1, source="docker://registry.example.org:5000/tiny?size=1&tag=1.0")
    registry.put("/v2/tiny/manifests/1.0", MANIFEST)
    assert len(await driver.contents(place(), tagged)) == 3


async def test_many_layers_sort_by_their_names(driver, registry, tiny):
    document = json.loads(MANIFEST)
    document["layers"] = [{"digest": digest(str(n).encode())} for n in range(120)]
    registry.put("/v2/tiny/manifests/latest", json.dumps(document).encode())
    labels = [c.label for c in await driver.contents(place(), tiny)][2:]
    assert (labels[0], labels[119]) == ("layer-000", "layer-119")
    assert labels == sorted(labels)


async def test_another_registry_in_source_is_asked_by_https_and_without_our_user(app):
    asked = Registry()
    driver = DockerRegistryMarketplace(call=asked, version="", platform="")
    with pytest.raises(Missing):
        await driver.contents(
            place("http://bob:canary@registry.example.org:5000"),
            app(1, source="docker://quay.io/a/b"),
        )
    assert asked.requests[0].url == "https://quay.io/v2/a/b/manifests/latest"


async def test_a_user_in_base_url_is_shown_nowhere(registry):
    """It goes to the transport, which shows it to the registry and to nobody else."""
    asked = Registry()
    driver = DockerRegistryMarketplace(call=asked, version="", platform="")
    base = "http://bob:canary@registry.example.org:5000"
    asked.answers[f"{base}/v2/_catalog"] = 200, {}, CATALOGUE
    asked.answers[f"{base}/v2/tiny/manifests/latest"] = 200, {}, MANIFEST
    offers = await driver.offers(place(base), None)
    tiny = next(o.app for o in offers if o.app.name == "tiny")
    assert "canary" not in repr(offers)
    files = await driver.contents(place(base), tiny)
    assert "canary" not in repr(files)
    assert "canary" not in "".join(f.locator.shown for f in files)
    assert "canary" in files[0].locator.address
    asked.answers.clear()
    for ask in (driver.offers(place(base), None), driver.contents(place(base), tiny)):
        with pytest.raises(Missing) as caught:
            await ask
        assert "canary" not in str(caught.value)
    assert "canary" not in repr(asked.requests)
