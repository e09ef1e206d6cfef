"""What every marketplace driver promises. A new driver is one line in DRIVERS."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from nebfs.errors import Unsupported
from nebfs.marketplaces import DRIVERS, driver_for
from nebfs.model import AppState, AppType, Template


@dataclass(frozen=True)
class Case:
    """What one driver makes of a ready app whose SOURCE is `source`.

    `pages` are what its service answers, by the end of the address; without them it is the
    appliance service. An `address` of its first file that is not SOURCE, its `label`, `format` and
    `version` where they are not the record's. `md5`: whether the record's MD5 is of that file.
    """

    source: str
    listed: tuple[str, ...] | None = None
    """The names of the apps that it lists without a front-end; None where it cannot."""
    pages: Mapping[str, bytes] = field(default_factory=dict)
    transport: str = "http"
    address: str = ""
    label: str = ""
    format: str = "qcow2"
    version: str = "1.0"
    md5: bool = True

    @property
    def scheme(self) -> str:
        return self.source.partition("://")[0]

    @property
    def schemes(self) -> set[str]:
        return {"http", "https"} if self.scheme == "http" else {self.scheme}


def fixture_pages(directory: str, *ends: str) -> dict[str, bytes]:
    """Return the sample pages in a directory of the fixtures by the ends of their addresses."""
    root = Path(__file__).parents[1] / "fixtures" / "marketplaces" / directory
    return {
        end: (root / (end.strip("/") + ".html" * end.endswith("/"))).read_bytes() for end in ends
    }


MANIFEST = b'{"schemaVersion": 2, "layers": []}'
IMAGE = "sha256:398978c14b2f065541bf5c6130ec60d229636193b0779712e008b80b26db4813"

CASES = {
    "docker_registry": Case(
        "docker://market.example.org/tiny?size=2048&filesystem=ext4&format=raw",
        listed=("tiny",),
        pages={"/manifests/latest": MANIFEST, "/_catalog": b'{"repositories": ["tiny"]}'},
        transport="oci",
        address=f"http://market.example.org/v2/tiny/manifests/{IMAGE}",
        label="manifest",
        format="json",
        version=IMAGE,
        md5=False,
    ),
    "dockerhub": Case(
        "docker://tiny?size=2048&filesystem=ext4&format=raw",
        listed=("tiny",),
        pages={"/manifests/latest": MANIFEST, "=100": b'{"results": [{"name": "tiny"}]}'},
        transport="oci",
        address=f"http://market.example.org/v2/library/tiny/manifests/{IMAGE}",
        label="manifest",
        format="json",
        version=IMAGE,
        md5=False,
    ),
    "http": Case("http://files.example.org/4b9b843724981d696bd8eb3bcf73900b"),
    "linuxcontainers": Case(
        "lxd://http://market.example.org/images/alpine/3.22/amd64/default/20261121_13:00"
        "/rootfs.tar.xz?size=2048&filesystem=ext4&format=raw",
        listed=(
            *("alpine_3.22", "alpine_3.22 (cloud)"),
            *("debian_bookworm", "debian_bookworm (aarch64)", "gentoo_current"),
        ),
        pages=fixture_pages("linuxcontainers", "streams/v1/index.json", "streams/v1/images.json"),
        address="http://market.example.org/images/alpine/3.22/amd64/default/20261121_13%3A00"
        "/rootfs.tar.xz",
        label="rootfs",
        format="tar",
        version="20261121_13:00",
        md5=False,
    ),
    "one": Case("http://market.example.org/appliance/app1/download/0", listed=("app 1",)),
    "s3": Case(
        "s3://images/marketapp-1",
        transport="s3",
        address="http://market.example.org/images/marketapp-1",
    ),
    "turnkeylinux": Case(
        "lxd://http://market.example.org//turnkeylinux/images/proxmox/"
        "/debian-11-turnkey-demo_17.1-1_amd64.tar.gz?size=5120&filesystem=ext4&format=raw",
        listed=("demo (Debian 11)",),
        pages=fixture_pages("turnkeylinux", "/proxmox/"),
        address="http://market.example.org/turnkeylinux/images/proxmox"
        "/debian-11-turnkey-demo_17.1-1_amd64.tar.gz",
        format="tar",
        version="17.1-1",
        md5=False,
    ),
}
UNKNOWN = ("", "no such")


def test_every_registered_driver_is_tested_here():
    assert list(CASES) == sorted(DRIVERS)


@pytest.fixture(params=sorted(CASES))
def name(request):
    return request.param


@pytest.fixture
def case(name):
    return CASES[name]


@pytest.fixture
def driver(name, case, service, pages, appliance):
    call = pages(case.pages) if case.pages else service.of(appliance(1))
    return driver_for(name, call=call, version="7.4.0", platform="linux/amd64")


@pytest.fixture
def ready(case, app):
    return app(1, source=case.source)


async def only(driver, marketplace, app):
    """Return the offer of `app`, and the files that its directory would show."""
    (offer,) = await driver.offers(marketplace(), [app])
    assert offer.app is app
    if offer.deferred:
        assert (offer.contents, offer.trouble) == ((), None)
        return replace(offer, contents=await driver.contents(marketplace(), app))
    return offer


async def test_a_ready_app_has_its_own_file_first(driver, case, ready, marketplace):
    offer = await only(driver, marketplace, ready)
    assert offer.trouble is None
    assert offer.contents[0].locator.transport == case.transport
    assert offer.contents[0].locator.address == (case.address or ready.source)
    assert offer.contents[0].label == case.label
    assert offer.contents[0].version == case.version
    assert offer.contents[0].format == case.format
    assert offer.contents[0].revision is None


@pytest.mark.parametrize(
    ("changes", "number", "words"),
    [
        ({"state": AppState.INIT}, errno.EBUSY, "upload"),
        ({"state": AppState.LOCKED}, errno.EBUSY, "upload"),
        ({"state": AppState.DISABLED}, errno.EACCES, "exported"),
        ({"state": AppState.ERROR}, errno.EIO, "ERROR"),
        ({"state": AppState.UNKNOWN}, errno.EOPNOTSUPP, "state"),
        ({"unreadable": "an emoji"}, errno.EIO, "an emoji"),
        ({"source": ""}, errno.EIO, "SOURCE"),
        ({"source": "ITS:///nowhere"}, errno.EIO, "host"),
        ({"source": "ITS://[::1/x"}, errno.EIO, "URL"),
        ({"source": "ITS://host:port/x"}, errno.EIO, "URL"),
        ({"source": "ITS://host/\r\nHost: other"}, errno.EIO, "URL"),
    ],
)
async def test_an_app_without_bytes_says_why(
    driver, case, ready, marketplace, changes, number, words
):
    source = changes.get("source", "")
    if source.startswith("ITS:"):
        changes = {"source": case.scheme + source.removeprefix("ITS")}
    offer = await only(driver, marketplace, replace(ready, **changes))
    assert offer.contents == ()
    assert offer.trouble.errno == number
    assert words in offer.trouble.reason


SOURCES = (
    ("http", "http://files.example.org/disk.raw"),
    ("lxd", "lxd://http://images.example.org/rootfs"),
    ("docker", "docker://alpine"),
    ("s3", "s3://bucket/key"),
    ("file", "file:///etc/shadow"),
    ("path", "/etc/shadow"),
)


@pytest.mark.parametrize(
    ("name", "scheme", "source"),
    [(n, scheme, s) for n in CASES for scheme, s in SOURCES if scheme not in CASES[n].schemes],
)
async def test_a_source_of_another_kind_is_not_read(driver, ready, marketplace, scheme, source):
    offer = await only(driver, marketplace, replace(ready, source=source))
    assert offer.contents == ()
    assert offer.trouble.errno == errno.EOPNOTSUPP
    assert scheme in offer.trouble.reason


async def test_the_reason_of_an_error_shows_no_credentials(driver, ready, marketplace):
    said = "copying http://bob:canary-1@host/x?sig=canary-2 failed\n\x1b[31m" + "x" * 1000
    template = Template((("ERROR", said),))
    offer = await only(driver, marketplace, replace(ready, state=AppState.ERROR, template=template))
    assert "copying http://host/x failed" in offer.trouble.reason
    assert "canary" not in offer.trouble.reason
    assert offer.trouble.reason.isprintable()
    assert len(offer.trouble.reason) < 500


@pytest.mark.parametrize("kind", [AppType.VMTEMPLATE, AppType.SERVICE_TEMPLATE])
@pytest.mark.parametrize("source", ["", "http://market.example.org/appliance/app1/download/0"])
async def test_a_template_app_has_neither_bytes_nor_trouble(
    driver, ready, marketplace, kind, source
):
    offer = await only(driver, marketplace, replace(ready, type=kind, source=source, size_mb=0))
    assert offer.contents == ()
    assert offer.trouble is None


@pytest.mark.parametrize(
    ("text", "media"),
    [
        ('DEV_PREFIX="hd"\nTYPE="CDROM"\n', "cdrom"),
        ("TYPE=CDROM", "cdrom"),
        (' type = "cdrom"', "cdrom"),
        ('TYPE="OS"\n', ""),
        ('IMAGE_TYPE="CDROM"\n', ""),
        ("", ""),
    ],
)
async def test_a_cdrom_is_told_by_its_image_template(driver, case, ready, marketplace, text, media):
    offer = await only(driver, marketplace, replace(ready, app_template=text))
    # What is no disk (an archive, a manifest) is no CD-ROM either.
    assert offer.contents[0].media == (media if case.format == "qcow2" else "")


async def test_every_app_is_offered_once_by_ascending_id(driver, ready, marketplace, app):
    apps = [app(7, state=AppState.ERROR), app(3, unreadable="x"), ready, app(5, source="")]
    offers = await driver.offers(marketplace(), apps)
    assert [offer.app.id for offer in offers] == [1, 3, 5, 7]


async def test_an_md5_that_cannot_be_one_is_not_a_checksum(driver, case, ready, marketplace):
    for md5 in ("", "x" * 32, "abc", "0123456789ABCDEF"):
        offer = await only(driver, marketplace, replace(ready, md5=md5, version="other"))
        assert all(c.algorithm != "md5" for c in offer.contents[0].checksums)
    upper = replace(ready, md5="0123456789ABCDEF" * 2, version="other")
    found = (await only(driver, marketplace, upper)).contents[0].checksums
    md5s = [c.digest for c in found if c.algorithm == "md5"]
    assert md5s == (["0123456789abcdef" * 2] if case.md5 else [])


async def test_without_a_front_end_it_lists_by_itself_or_says_that_it_cannot(
    name, case, driver, marketplace
):
    if case.listed is not None:
        offers = await driver.offers(marketplace(), None)
        assert tuple(sorted(o.app.name for o in offers)) == case.listed
    else:
        with pytest.raises(Unsupported, match=name):
            await driver.offers(marketplace(), None)


@pytest.mark.parametrize("unknown", UNKNOWN)
async def test_an_unknown_type_lists_its_apps_without_bytes(unknown, service, app, marketplace):
    silent = service()
    driver = driver_for(unknown, call=silent, version="7.4.0")
    apps = [app(2), app(1, type=AppType.VMTEMPLATE), app(3, unreadable="an emoji")]
    template, image, broken = await driver.offers(marketplace(driver=unknown), apps)
    assert (template.app.id, template.trouble, template.contents) == (1, None, ())
    assert image.trouble.errno == errno.EOPNOTSUPP
    assert (unknown or "may not see") in image.trouble.reason
    assert (broken.trouble.errno, broken.trouble.reason) == (errno.EIO, "an emoji")
    assert silent.requests == []
    with pytest.raises(Unsupported):
        await driver.offers(marketplace(driver=unknown), None)
