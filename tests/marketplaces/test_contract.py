"""What every marketplace driver promises. A new driver is one line in DRIVERS."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from nebfs.errors import Unsupported
from nebfs.marketplaces import DRIVERS, driver_for
from nebfs.model import AppState, AppType, Template

# Driver -> whether it can list by itself, and a SOURCE that it reads.
CASES = {
    "http": (False, "http://files.example.org/4b9b843724981d696bd8eb3bcf73900b"),
    "one": (True, "http://market.example.org/appliance/app1/download/0"),
}
UNKNOWN = ("", "docker_registry", "dockerhub", "linuxcontainers", "s3", "turnkeylinux", "no such")


def test_every_registered_driver_is_tested_here():
    assert list(CASES) == sorted(DRIVERS)


@pytest.fixture(params=sorted(CASES))
def name(request):
    return request.param


@pytest.fixture
def driver(name, service, appliance):
    return driver_for(name, call=service.of(appliance(1)), version="7.4.0")


@pytest.fixture
def ready(name, app):
    return app(1, source=CASES[name][1])


async def only(driver, marketplace, app):
    (offer,) = await driver.offers(marketplace(), [app])
    assert offer.app is app
    return offer


async def test_a_ready_app_has_its_recorded_source_first(driver, ready, marketplace):
    offer = await only(driver, marketplace, ready)
    assert offer.trouble is None
    assert offer.contents[0].locator.transport == "http"
    assert offer.contents[0].locator.address == ready.source
    assert offer.contents[0].label == ""
    assert offer.contents[0].version == ready.version
    assert offer.contents[0].format == "qcow2"
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
        ({"source": "lxd://http://images.example.org/rootfs"}, errno.EOPNOTSUPP, "lxd"),
        ({"source": "docker://alpine"}, errno.EOPNOTSUPP, "docker"),
        ({"source": "s3://bucket/key"}, errno.EOPNOTSUPP, "s3"),
        ({"source": "file:///etc/shadow"}, errno.EOPNOTSUPP, "file"),
        ({"source": "/etc/shadow"}, errno.EOPNOTSUPP, "path"),
        ({"source": "http:///nowhere"}, errno.EIO, "host"),
        ({"source": "http://[::1/x"}, errno.EIO, "URL"),
        ({"source": "http://host:port/x"}, errno.EIO, "URL"),
        ({"source": "http://host/\r\nHost: other"}, errno.EIO, "URL"),
    ],
)
async def test_an_app_without_bytes_says_why(driver, ready, marketplace, changes, number, words):
    offer = await only(driver, marketplace, replace(ready, **changes))
    assert offer.contents == ()
    assert offer.trouble.errno == number
    assert words in offer.trouble.reason


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
async def test_a_cdrom_is_told_by_its_image_template(driver, ready, marketplace, text, media):
    offer = await only(driver, marketplace, replace(ready, app_template=text))
    assert offer.contents[0].media == media


async def test_every_app_is_offered_once_by_ascending_id(driver, ready, marketplace, app):
    apps = [app(7, state=AppState.ERROR), app(3, unreadable="x"), ready, app(5, source="")]
    offers = await driver.offers(marketplace(), apps)
    assert [offer.app.id for offer in offers] == [1, 3, 5, 7]


async def test_an_md5_that_cannot_be_one_is_not_a_checksum(driver, ready, marketplace):
    for md5 in ("", "x" * 32, "abc", "0123456789ABCDEF"):
        offer = await only(driver, marketplace, replace(ready, md5=md5, version="other"))
        assert offer.contents[0].checksums == ()
    upper = replace(ready, md5="0123456789ABCDEF" * 2, version="other")
    (checksum,) = (await only(driver, marketplace, upper)).contents[0].checksums
    assert (checksum.algorithm, checksum.digest) == ("md5", "0123456789abcdef" * 2)


async def test_without_a_front_end_it_lists_by_itself_or_says_that_it_cannot(
    name, driver, marketplace
):
    if CASES[name][0]:
        assert [o.app.name for o in await driver.offers(marketplace(), None)] == ["app 1"]
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
