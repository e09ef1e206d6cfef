"""Joining the apps of a front-end with what a server of container images lists."""

from __future__ import annotations

import errno
import json
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from nebfs.errors import BadAnswer, Missing, Refused, Unreachable, Unsupported
from nebfs.marketplaces.linuxcontainers import LinuxContainersMarketplace
from nebfs.model import Checksum, Marketplace, Template

HOST = "http://market.example.org"
DEBIAN = "images/debian/bookworm/amd64/default"
INDEX, IMAGES = "streams/v1/index.json", "streams/v1/images.json"


def item(kind: str, serial: str = "20261121_05:24", digest: str = "a", **more: object) -> dict:
    return {"ftype": kind, "path": f"{DEBIAN}/{serial}/{kind}", "sha256": digest * 64, **more}


def listing(versions: dict[str, list[dict]], **others: object) -> dict[str, bytes]:
    """Return the pages of a server that has one product, and `others`."""
    product = {
        "os": "Debian",
        "arch": "amd64",
        "release": "bookworm",
        "release_title": "Bookworm",
        "versions": {
            serial: {"items": {one["ftype"]: one for one in items}}
            for serial, items in versions.items()
        },
    }
    products = {"debian:bookworm:amd64:default": product, **others}
    return {IMAGES: json.dumps({"products": products}).encode()}


FULL = listing(
    {
        "20261121_05:24": [
            item("root.tar.xz", digest="1"),
            item("squashfs", digest="2"),
            item("incus.tar.xz", digest="3"),
            item("lxd.tar.xz", digest="3"),
            item("disk-kvm.img", digest="4"),
            item("disk1.img", digest="5"),
            item("uefi1.img", digest="6"),
            item("squashfs.20261120_05:24.vcdiff", digest="7", delta_base="20261120_05:24"),
            item("unknown", digest="8"),
        ],
        "20261120_05:24": [item("root.tar.xz", "20261120_05:24", "9")],
    }
)


@pytest.fixture
def driver(pages):
    def make(answers=FULL, platform="linux/amd64"):
        return LinuxContainersMarketplace(call=pages(answers), version="", platform=platform)

    return make


@pytest.fixture
def recorded(app):
    """An app whose SOURCE is what OpenNebula writes."""

    def make(path=f"{DEBIAN}/20261121_05:24/rootfs.tar.xz", base=f"{HOST}/"):
        source = f"lxd://{base}{path}?size=2048&filesystem=ext4&format=raw"
        return app(1, source=source, format="raw", version="1.0")

    return make


async def only(driver, marketplace, app):
    (offer,) = await driver.offers(marketplace, [app])
    return offer


async def test_every_file_of_the_image_has_its_own_checksum_and_a_name(
    driver, marketplace, recorded
):
    offer = await only(driver(), marketplace(), recorded())
    found = [(c.label, c.format, c.checksums[0].digest[0]) for c in offer.contents]
    assert found == [
        ("rootfs", "tar", "1"),
        ("rootfs", "squashfs", "2"),
        ("metadata", "tar", "3"),
        ("disk", "qcow2", "4"),
        ("disk1", "qcow2", "5"),
        ("uefi1", "qcow2", "6"),
    ]
    assert {c.version for c in offer.contents} == {"20261121_05:24"}
    assert all(c.checksums == (Checksum("sha256", c.checksums[0].digest),) for c in offer.contents)
    place = f"{HOST}/{DEBIAN}/20261121_05%3A24"
    assert offer.contents[0].locator.address == f"{place}/root.tar.xz"


async def test_what_the_index_says_of_the_image_is_published(driver, marketplace, recorded):
    offer = await only(driver(), marketplace(), recorded())
    published = json.loads(offer.published)
    assert published["product"] == "debian:bookworm:amd64:default"
    assert published["serial"] == "20261121_05:24"
    assert published["items"][0]["sha256"] == "1" * 64


async def test_a_recorded_build_is_given_while_it_is_there(driver, marketplace, recorded):
    old = recorded(f"{DEBIAN}/20261120_05:24/rootfs.tar.xz")
    (content,) = (await only(driver(), marketplace(), old)).contents
    assert (content.version, content.checksums[0].digest[0]) == ("20261120_05:24", "9")


async def test_a_build_that_expired_stands_for_the_newest_of_the_same_image(
    driver, marketplace, recorded
):
    gone = recorded(f"{DEBIAN}/20250101_05:24/rootfs.tar.xz")
    offer = await only(driver(), marketplace(), gone)
    assert offer.contents[0].version == "20261121_05:24"


@pytest.mark.parametrize(
    ("endpoint", "base"),
    [
        (HOST, f"{HOST}/"),
        # OpenNebula joins an ENDPOINT without its slash and the path into one word.
        (HOST, HOST),
        ("http://127.0.0.1:18091", "http://127.0.0.1:18091"),
        (f"{HOST}/lxc-images", f"{HOST}/lxc-images"),
        (f"{HOST}/lxc/mirror", f"{HOST}/lxc/mirror//"),
        # A server that had been left by a redirect, or that was replaced since.
        (HOST, "https://us.images.example.org/"),
        (HOST, "https://us.images.example.org"),
    ],
)
async def test_the_image_is_found_however_opennebula_joined_address_and_path(
    driver, marketplace, recorded, endpoint, base
):
    offer = await only(driver(), marketplace(endpoint), recorded(base=base))
    address = offer.contents[0].locator.address
    assert address == f"{endpoint}/{DEBIAN}/20261121_05%3A24/root.tar.xz"


@pytest.mark.parametrize(
    "path",
    [
        "images/debian/bookworm/amd64/cloud/20261121_05:24/rootfs.tar.xz",
        "images/debian/bookworm/amd64/default/rootfs.tar.xz",
        "rootfs.tar.xz",
        "",
        "/".join("x" * 5000),
    ],
)
async def test_an_image_that_is_gone_is_listed_with_the_reason(driver, marketplace, recorded, path):
    offer = await only(driver(), marketplace(), recorded(path))
    assert offer.contents == ()
    assert offer.trouble.errno == errno.EIO
    assert "any more" in offer.trouble.reason


async def test_an_image_of_unknown_files_only_says_so(driver, marketplace, recorded):
    pages = listing({"20261121_05:24": [item("vagrant.box")]})
    offer = await only(driver(pages), marketplace(), recorded())
    assert offer.trouble.errno == errno.EIO
    assert "no file" in offer.trouble.reason


async def test_the_index_leads_to_the_lists(driver, marketplace, recorded):
    index = {"index": {"x": {"datatype": "image-downloads", "path": "streams/v1/a:b.json"}}}
    answers = {INDEX: json.dumps(index).encode(), "/streams/v1/a%3Ab.json": FULL[IMAGES]}
    place = driver(answers)
    offer = await only(place, marketplace(), recorded())
    assert len(offer.contents) == 6
    assert [r.url for r in place._call.requests] == [
        f"{HOST}/{INDEX}",
        f"{HOST}/streams/v1/a%3Ab.json",
    ]


async def test_the_images_of_all_lists_are_known(driver, marketplace):
    entry = {"datatype": "image-downloads"}
    index = {"index": {"a": {**entry, "path": "a.json"}, "b": {**entry, "path": "b.json"}}}
    other = {"versions": {"1": {"items": {"x": item("squashfs")}}}}
    answers = {
        INDEX: json.dumps(index).encode(),
        "/a.json": FULL[IMAGES],
        "/b.json": json.dumps({"products": {"a:b:amd64:default": other}}).encode(),
    }
    offers = await driver(answers).offers(marketplace(), None)
    assert {o.app.name for o in offers} == {"debian_bookworm", "a_b"}


@pytest.mark.parametrize("index", [b"<html>", b'{"index": {}}', None])
async def test_without_a_usable_index_the_usual_list_is_read(driver, marketplace, recorded, index):
    answers = dict(FULL) if index is None else {INDEX: index, **FULL}
    assert (await only(driver(answers), marketplace(), recorded())).contents


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, Refused),
        (403, Refused),
        (404, Missing),
        (410, Missing),
        (408, Unreachable),
        (429, Unreachable),
        (503, Unreachable),
        (204, BadAnswer),
        (302, BadAnswer),
    ],
)
async def test_a_server_that_fails_is_a_failure_and_no_empty_list(
    service, marketplace, recorded, status, kind
):
    failing = LinuxContainersMarketplace(call=service({}, status), version="")
    with pytest.raises(kind) as caught:
        await failing.offers(marketplace("http://bob:canary@market.example.org"), [recorded()])
    assert "canary" not in str(caught.value)
    assert str(status) in str(caught.value)


async def test_a_list_without_images_says_nothing_about_the_apps(driver, marketplace, recorded):
    with pytest.raises(BadAnswer):
        await driver({IMAGES: b'{"products": {}}'}).offers(marketplace(), [recorded()])


@pytest.mark.parametrize(
    "endpoint", ["ftp://x", "file:///etc", "x", "http://", "http://[::1", "http://x/?a=b"]
)
async def test_an_endpoint_that_is_no_http_address_is_refused(driver, endpoint):
    place = Marketplace(1, "LXC", template=Template((("ENDPOINT", endpoint),)))
    with pytest.raises(Unsupported, match="ENDPOINT"):
        await driver().offers(place, [])


async def test_without_an_endpoint_the_public_server_is_asked(driver):
    place = driver()
    await place.offers(Marketplace(1, "LXC"), None)
    assert place._call.requests[0].url == "https://images.linuxcontainers.org/" + INDEX


async def test_an_image_of_this_platform_has_opennebulas_name(driver, marketplace):
    def product(**more):
        return {"versions": {"20261121_05:24": {"items": {"x": item("squashfs")}}}, **more}

    names = ("amd64:default", "arm64:default", "amd64:cloud", "arm64:cloud", "armhf:default")
    pages = {
        IMAGES: json.dumps(
            {
                "products": {
                    **{f"alpine:3.22:{one}": product() for one in names},
                    "com.example:odd": product(),
                }
            }
        ).encode()
    }

    async def listed(platform):
        found = await driver(pages, platform).offers(marketplace(), None)
        assert [o.app.id for o in found] == sorted({o.app.id for o in found})
        return {o.app.name for o in found}

    assert await listed("linux/amd64") == {
        "alpine_3.22",
        "alpine_3.22 (aarch64)",
        "alpine_3.22 (cloud)",
        "alpine_3.22 (aarch64, cloud)",
        "alpine_3.22 (armhf)",
        "com.example:odd",
    }
    assert {"alpine_3.22 (x86_64)", "alpine_3.22"} < await listed("linux/arm64/v8")
    assert {"alpine_3.22 (aarch64)", "alpine_3.22"} < await listed("linux/arm/v7")
    assert {"alpine_3.22 (aarch64)", "alpine_3.22"} < await listed("")


async def test_an_app_of_its_own_says_what_opennebula_would(driver, marketplace):
    place = marketplace("http://bob:canary@market.example.org")
    (offer,) = await driver().offers(place, None)
    app = offer.app
    assert app.name == "debian_bookworm"
    assert app.source == f"lxd://{HOST}/{DEBIAN}/20261121_05:24/root.tar.xz"
    assert app.version == "20261121_05:24"
    assert app.regtime == 1795238640  # 2026-11-21 05:24 UTC
    assert app.template.get("ARCHITECTURE") == "x86_64"
    assert app.description == "debian Bookworm"
    assert "canary" in offer.contents[0].locator.address
    assert "canary" not in offer.contents[0].locator.shown
    assert "canary" not in repr(offer)
    # The same app comes back from a front-end: its SOURCE finds the same files.
    (again,) = await driver().offers(place, [app])
    assert again.contents == offer.contents


async def test_numbers_do_not_change_with_a_new_build(driver, marketplace):
    (before,) = await driver().offers(marketplace(), None)
    newer = listing({"20261123_05:24": [item("root.tar.xz", "20261123_05:24")]})
    (after,) = await driver(newer).offers(marketplace(), None)
    assert after.app.id == before.app.id
    assert after.contents[0].identity != before.contents[0].identity


async def test_a_source_with_escapes_and_more_options_is_the_same_image(
    driver, marketplace, recorded
):
    plain = recorded()
    odd = replace(plain, source=plain.source.replace("05:24", "05%3A24") + "&x=/a/b/c")
    first = await only(driver(), marketplace(), plain)
    second = await only(driver(), marketplace(), odd)
    assert first.contents == second.contents


async def test_a_list_of_hostile_products_is_their_trouble_alone(driver, marketplace, recorded):
    pages = listing({"20261121_05:24": [item("root.tar.xz")]}, evil=7, worse={"versions": []})
    with capture_logs() as lines:
        offer = await only(driver(pages), marketplace(), recorded())
    assert offer.contents
    assert {line.get("product") for line in lines} >= {"evil", "worse"}
