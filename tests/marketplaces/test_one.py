from __future__ import annotations

import errno
import hashlib
import json
from dataclasses import replace

import pytest

from nebfs.errors import BadAnswer, Missing, Refused, Unreachable, Unsupported
from nebfs.fetcher.messages import CallRequest
from nebfs.marketplaces.one import OneMarketplace
from nebfs.model import AppType, Checksum, Marketplace, Template

MD5 = Checksum("md5", "f" * 32)
SHA256 = Checksum("sha256", "a" * 64)
RECORDED = Checksum("md5", "0123456789abcdef" * 2)


def by_name(offers):
    return {offer.app.name: offer for offer in offers}


async def test_the_request_is_the_one_the_service_understands(service, marketplace, app):
    asked = service.of()
    await OneMarketplace(call=asked, version="7.4.0\r\nX: y").offers(marketplace(), [])
    (request,) = asked.requests
    assert (request.method, request.url) == ("GET", "http://market.example.org/appliance")
    assert dict(request.headers) == {
        "User-Agent": "OpenNebula 7.4.0Xy (nebfs)",
        "Accept": "application/json",
    }


async def test_without_an_endpoint_the_public_marketplace_is_asked(service):
    asked = service.of()
    await OneMarketplace(call=asked, version="").offers(Marketplace(0, "Public"), None)
    assert asked.requests[0].url == "https://marketplace.opennebula.io/appliance"
    assert dict(asked.requests[0].headers)["User-Agent"] == "OpenNebula (nebfs)"


@pytest.mark.parametrize("endpoint", ["ftp://x/", "file:///etc", "x", "http://", "http://[::1"])
async def test_an_endpoint_that_is_no_http_address_is_refused(service, endpoint):
    place = Marketplace(0, "Public", template=Template((("ENDPOINT", endpoint),)))
    with pytest.raises(Unsupported, match="ENDPOINT"):
        await OneMarketplace(call=service.of(), version="").offers(place, [])


async def test_the_catalogue_adds_sha256_and_exact_size_by_import_id(
    service, marketplace, app, appliance
):
    recorded = app(
        1, source="http://elsewhere.example.org/x", template=Template((("IMPORT_ID", "app1"),))
    )
    driver = OneMarketplace(call=service.of(appliance(1)), version="7.4.0")
    (offer,) = await driver.offers(marketplace(), [recorded])
    (content,) = offer.contents
    assert content.locator.address == "http://elsewhere.example.org/x"
    assert content.checksums == (SHA256, MD5)
    assert content.virtual_size == 8388608
    assert json.loads(offer.published)["name"] == "app 1"


async def test_without_an_import_id_the_id_in_source_joins(service, marketplace, app, appliance):
    driver = OneMarketplace(call=service.of(appliance(1)), version="7.4.0")
    (offer,) = await driver.offers(marketplace(), [app(1)])
    assert offer.contents[0].checksums == (SHA256, MD5)


async def test_another_version_in_the_catalogue_says_nothing_about_the_recorded_bytes(
    service, marketplace, app, appliance
):
    newer = appliance(1, version="2.0")
    newer["files"] = [*newer["files"], {"name": "more", "url": "http://x/", "size": 1}]
    driver = OneMarketplace(call=service.of(newer), version="7.4.0")
    (offer,) = await driver.offers(marketplace(), [app(1)])
    (content,) = offer.contents
    assert content.checksums == (RECORDED,)
    assert content.virtual_size is None
    assert offer.published


async def test_an_appliance_without_a_version_is_opennebulas_0_0(
    service, marketplace, app, appliance
):
    bare = appliance(1)
    del bare["version"]
    driver = OneMarketplace(call=service.of(bare), version="7.4.0")
    (offer,) = await driver.offers(marketplace(), [app(1, version="0.0")])
    assert offer.contents[0].checksums == (SHA256, MD5)


async def test_an_app_that_was_removed_upstream_is_still_offered(service, marketplace, app):
    driver = OneMarketplace(call=service.of(), version="7.4.0")
    (offer,) = await driver.offers(marketplace(), [app(1)])
    assert offer.contents[0].locator.address == app(1).source
    assert offer.contents[0].checksums == (RECORDED,)
    assert offer.published == ""


async def test_files_that_the_service_would_not_give_are_not_offered(
    service, marketplace, app, appliance
):
    url = "http://files.example.org/x"
    files = [
        {"name": "first", "url": url, "size": "42", "type": "CDROM", "checksum": "wrong type"},
        {"name": "no url", "size": 1},
        {"name": "no bytes", "url": url, "size": 0},
        "not an object",
        {"name": "data", "url": url, "size": 7, "format": "raw", "md5": "F" * 32},
        {"name": "data", "url": url},
        {"url": url, "size": -1},
    ]
    driver = OneMarketplace(call=service.of(appliance(1, files=files)), version="7.4.0")
    (offer,) = await driver.offers(marketplace(), [app(1)])
    first, *others = offer.contents
    assert (first.media, first.virtual_size, first.checksums) == ("cdrom", 42, (RECORDED,))
    assert [(c.label, c.virtual_size, c.format, c.checksums) for c in others] == [
        ("data", 7, "raw", (MD5,)),
        ("data-5", None, "", ()),
        ("file6", None, "", ()),
    ]
    assert [c.locator.address.rpartition("/appliance/")[2] for c in others] == [
        "app1/download/4",
        "app1/download/5",
        "app1/download/6",
    ]


@pytest.mark.parametrize(
    "files", [[], None, [{"name": "stub", "size": 0}], [{"size": 3}], [[]]], ids=repr
)
async def test_an_app_that_the_publisher_gave_no_file_says_so(
    service, marketplace, app, appliance, files
):
    driver = OneMarketplace(call=service.of(appliance(1, files=files)), version="7.4.0")
    (offer,) = await driver.offers(marketplace(), [app(1)])
    assert offer.contents == ()
    assert (offer.trouble.errno, offer.trouble.reason) == (
        errno.EIO,
        "the publisher lists no file for this app",
    )


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, Refused),
        (403, Refused),
        (404, Missing),
        (429, Unreachable),
        (500, Unreachable),
        (503, Unreachable),
        (204, BadAnswer),
        (418, BadAnswer),
    ],
)
async def test_a_service_that_does_not_answer_well_is_an_error_not_an_empty_list(
    service, marketplace, app, status, kind
):
    asked = service({"appliances": []}, status, **{"retry-after": "17"})
    place = marketplace("http://bob:canary@market.example.org")
    with pytest.raises(kind) as caught:
        await OneMarketplace(call=asked, version="").offers(place, [app(1)])
    assert "canary" not in str(caught.value)
    assert caught.value.retry_after == (17.0 if kind is Unreachable else None)


async def test_without_a_front_end_the_apps_are_as_opennebula_would_make_them(
    service, marketplace, catalogue
):
    driver = OneMarketplace(call=service.of(*catalogue), version="")
    offers = by_name(await driver.offers(marketplace(), None))
    assert len(offers) == 8

    linux = offers["Nebula Test Linux 12"]
    assert linux.app.type is AppType.IMAGE
    assert linux.app.size_mb == 8
    assert linux.app.regtime == 1784024006
    assert linux.app.description == "Nebula Test Linux 12 for KVM hosts"
    assert linux.app.app_template == 'DEV_PREFIX = "vd"\nDRIVER = "qcow2"\nTYPE = "OS"\n'
    assert linux.app.marketplace == "Public"
    assert linux.app.template.get("IMPORT_ID") == "00000000-0000-4000-8000-000000000001"
    assert linux.app.template.get("ARCHITECTURE") == "x86_64"
    assert linux.app.template.get("HYPERVISOR") == "kvm"
    assert linux.app.template.get("VMTEMPLATE64")
    assert [c.algorithm for c in linux.contents[0].checksums] == ["sha256", "md5"]
    assert linux.contents[0].virtual_size == 8388608

    assert offers["Nebula Context ISO"].contents[0].media == "cdrom"
    assert [c.label for c in offers["Legacy Two File App"].contents] == ["", "dat"]
    assert offers["Imageless Stub"].trouble.errno == errno.EIO

    server = offers["Nebula Test Server"]
    assert (server.app.type, server.contents, server.trouble) == (AppType.VMTEMPLATE, (), None)
    assert 'CONTEXT = [ NETWORK = "YES", SSH_PUBLIC_KEY = "$USER[SSH' in server.app.app_template
    disks = server.app.template.all("DISK")
    assert [disk.get("APP") for disk in disks] == ["Nebula Test Linux 12", "Tiny Data Disk"]
    cluster = offers["Nebula Test Cluster"]
    assert cluster.app.type is AppType.SERVICE_TEMPLATE
    assert json.loads(cluster.app.app_template)["deployment"] == "straight"
    assert {role.get("NAME") for role in cluster.app.template.all("ROLE")} == {"front", "worker"}


async def test_without_a_front_end_ids_stay_when_the_catalogue_changes(
    service, marketplace, catalogue
):
    async def ids(entries):
        offers = await OneMarketplace(call=service.of(*entries), version="").offers(
            marketplace(), None
        )
        return {offer.app.name: offer.app.id for offer in offers}

    before = await ids(catalogue)
    after = await ids(list(reversed(catalogue))[:-1])
    assert after.items() <= before.items()
    assert sorted(before.values()) == sorted(set(before.values()))


async def test_a_marketplaces_password_is_in_no_repr_and_no_attribute(
    service, marketplace, appliance
):
    place = marketplace("http://bob:canary@market.example.org")
    driver = OneMarketplace(call=service.of(appliance(1)), version="")
    (offer,) = await driver.offers(place, None)
    assert "canary" in offer.contents[0].locator.address
    assert "canary" not in repr(offer.contents)
    assert "canary" not in offer.app.template.get("LINK")


async def test_every_published_url_gives_the_bytes_that_were_published(real_service, call):
    place = Marketplace(0, "Sample", template=Template((("ENDPOINT", real_service),)))
    offers = by_name(await OneMarketplace(call=call, version="7.4.0").offers(place, None))
    for name, files in (("Tiny Data Disk", 1), ("Legacy Two File App", 2)):
        assert len(offers[name].contents) == files
        for content in offers[name].contents:
            answer = await call(CallRequest("GET", content.locator.address))
            assert answer.status == 200
            assert len(content.checksums) == 2
            for checksum in content.checksums:
                assert hashlib.new(checksum.algorithm, answer.body).hexdigest() == checksum.digest
    stub = offers["Imageless Stub"].app
    assert (await call(CallRequest("GET", stub.source))).status == 404


async def test_the_user_agent_chooses_the_catalogue(real_service, call, catalogue):
    catalogue[0]["opennebula_version"] = "6.8"
    place = Marketplace(0, "Sample", template=Template((("ENDPOINT", real_service),)))
    old = await OneMarketplace(call=call, version="6.8.3").offers(place, None)
    new = await OneMarketplace(call=call, version="").offers(place, None)
    assert (len(old), len(new)) == (8, 7)


async def test_a_changed_record_changes_the_identity_of_the_content(
    service, marketplace, app, appliance
):
    driver = OneMarketplace(call=service.of(appliance(1)), version="7.4.0")
    (now,) = await driver.offers(marketplace(), [app(1)])
    (then,) = await driver.offers(marketplace(), [replace(app(1), version="0.9")])
    assert now.contents[0].identity != then.contents[0].identity
