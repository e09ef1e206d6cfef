"""The page of TurnKey Linux's archives, and the checksums beside them."""

from __future__ import annotations

import errno
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from nebfs.errors import BadAnswer, Missing, Refused, Unreachable, Unsupported
from nebfs.fetcher.messages import CallAnswer
from nebfs.marketplaces import DeferringDriver
from nebfs.marketplaces.turnkey_index import read_hashes, read_listing
from nebfs.marketplaces.turnkeylinux import TurnkeyLinuxMarketplace
from nebfs.model import Checksum, Marketplace, Template

HOST = "http://market.example.org"
PAGE = "/turnkeylinux/images/proxmox/"
URL = HOST + PAGE
DEMO = "debian-11-turnkey-demo_17.1-1_amd64.tar.gz"
SHA256, SHA512 = "4c" * 32, "8E" * 64

HASH = f"""-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA512

    $ gpg --verify {DEMO}.hash
      gpg: Signature made using RSA key ID 26147592087C0EDE42143B637761DEBABBCFBA7C

    $ sha256sum {DEMO}
      {SHA256}  {DEMO}

    $ sha512sum {DEMO}
      {SHA512}  {DEMO}

    $ sha256sum {DEMO}.other
      {"ab" * 32}  {DEMO}.other

-----BEGIN PGP SIGNATURE-----

{"cd" * 32} {DEMO}
-----END PGP SIGNATURE-----
"""

NGINX = f"""<html>
<head><title>Index of {PAGE}</title></head>
<body>
<h1>Index of {PAGE}</h1><hr><pre><a href="../">../</a>
<a href="{DEMO}">debian-11-turnkey-demo_17.1-1_amd6..&gt;</a> 02-Mar-2024 10:11    315621376
<a href="{DEMO}.hash">{DEMO[:47]}..&gt;</a> 02-Mar-2024 10:11   2252
</pre><hr></body>
</html>
"""

APACHE = f"""<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 3.2 Final//EN">
<table><tr><th><a href="?C=N;O=D">Name</a></th></tr>
<tr><td><a href="/turnkeylinux/images/">Parent Directory</a></td></tr>
<tr><td><A class="x" HREF="{DEMO}">{DEMO}</a></td><td align="right">2024-03-02 10:11  </td></tr>
<tr><td><a href='{DEMO}.hash'>{DEMO}.hash</a></td></tr>
</table>
"""


def page(*links: str) -> bytes:
    return "".join(f'<a href="{link}">x</a>\n' for link in links).encode()


@pytest.fixture
def driver(pages):
    def make(*links, **more):
        answers = {PAGE: page(*links) if links else NGINX.encode(), **more}
        return TurnkeyLinuxMarketplace(call=pages(answers), version="")

    return make


@pytest.fixture
def recorded(app):
    """An app whose SOURCE is what OpenNebula wrote."""

    def make(name=DEMO):
        source = f"lxd://{HOST}/{PAGE}/{name}?size=5120&filesystem=ext4&format=raw"
        return app(1, source=source, format="raw", version="1.0")

    return make


def link(app: str, version: str, debian: int = 11) -> str:
    return f"debian-{debian}-turnkey-{app}_{version}_amd64.tar.gz"


@pytest.mark.parametrize("listing", [NGINX, APACHE, NGINX.replace("\n", "")])
async def test_the_pages_of_different_web_servers_list_the_same(listing):
    (archive,) = read_listing(listing.encode(), URL).values()
    assert (archive.name, archive.app, archive.version) == (DEMO, "demo", "17.1-1")
    assert archive.debian == 11


@pytest.mark.parametrize(
    ("href", "listed"),
    [
        (DEMO, True),
        (f"./{DEMO}", True),
        (f"{PAGE}{DEMO}", True),
        (f"{URL}{DEMO}", True),
        (DEMO.replace("_", "%5F").replace("-", "&#45;"), True),
        (f"../{DEMO}", False),
        (f"sub/{DEMO}", False),
        (f"http://evil.example.org{PAGE}{DEMO}", False),
        (f"//evil.example.org{PAGE}{DEMO}", False),
        (f"javascript:{DEMO}", False),
        (f"http://[::1/{DEMO}", False),
        (f"{DEMO}.hash", False),
        (f"{DEMO}?x=y", False),
        (f"x{DEMO}", False),
        ("debian-11-turnkey-a%2F..%2Fb_1.0_amd64.tar.gz", False),
        ("debian-11-turnkey-demo_1.0_amd64.tar.gz%00", False),
        ("debian-11-turnkey-demo_1.0_amd64.tar.gz%0A", False),
        ("debian-99999999999-turnkey-demo_1.0_amd64.tar.gz", False),
        ("", False),
    ],
)
def test_only_archives_of_this_directory_count(href, listed):
    assert bool(read_listing(f'<a href="{href}">'.encode(), URL)) is listed


@given(text=st.text(max_size=200), raw=st.binary(max_size=200))
def test_whatever_is_on_the_page_the_archive_is_found(text, raw):
    body = b'\n<a href="x">' + raw + text.encode("utf-8", "replace") + page(DEMO)
    assert DEMO in read_listing(body + b"<a href=" + raw, URL)


@pytest.mark.parametrize(
    "piece", ["<a ", "<a href=", '<a href="', "<!--", "<![CDATA[", "</", "<a b='", "&#", "<a a=a "]
)
def test_a_page_made_to_be_slow_is_not(piece):
    started = time.process_time()
    assert read_listing(piece.encode() * (1 << 19), URL) == {}
    assert time.process_time() - started < 5


async def test_an_app_is_asked_for_its_checksums_when_it_is_opened(driver, marketplace, recorded):
    place = driver(**{f"{DEMO}.hash": HASH.encode()})
    assert isinstance(place, DeferringDriver)
    (offer,) = await place.offers(marketplace(), [recorded()])
    assert offer.deferred
    assert [r.url for r in place._call.requests] == [URL]
    (content,) = await place.contents(marketplace(), offer.app)
    assert content.locator.address == URL + DEMO
    assert (content.format, content.label, content.version) == ("tar", "", "17.1-1")
    assert content.checksums == (
        Checksum("sha512", SHA512.lower()),
        Checksum("sha256", SHA256),
    )
    assert place._call.requests[-1].url == f"{URL}{DEMO}.hash"


async def test_an_archive_without_checksums_has_none_and_the_log_says_so(
    driver, marketplace, recorded
):
    with capture_logs() as lines:
        (content,) = await driver().contents(marketplace(), recorded())
    assert content.checksums == ()
    assert lines == [{"event": "turnkeylinux.no_checksums", "archive": DEMO, "log_level": "info"}]


async def test_a_text_that_names_another_file_verifies_nothing(driver, marketplace, recorded):
    place = driver(**{f"{DEMO}.hash": HASH.replace(DEMO, "another").encode()})
    with capture_logs() as lines:
        (content,) = await place.contents(marketplace(), recorded())
    assert content.checksums == ()
    assert lines[0]["log_level"] == "warning"


@pytest.mark.parametrize("status", [403, 500])
async def test_checksums_that_cannot_be_had_now_are_not_taken_for_absent(
    pages, marketplace, recorded, status
):
    answering = pages({PAGE: page(DEMO)})

    async def call(request):
        answer = await answering(request)
        return answer if answer.status == 200 else CallAnswer(status, (), b"")

    place = TurnkeyLinuxMarketplace(call=call, version="")
    with pytest.raises(Refused if status == 403 else Unreachable):
        await place.contents(marketplace(), recorded())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"{SHA256}  {DEMO}", ["sha256"]),
        (f"{SHA256} *{DEMO}", ["sha256"]),
        (f"SHA256 ({DEMO}) = {SHA256}", ["sha256"]),
        (f"{DEMO}: {'a' * 32}", ["md5"]),
        (f"{'a' * 40}  {DEMO}", []),
        (f"{'g' * 64}  {DEMO}", []),
        (f"{SHA256}  {DEMO}.hash", []),
        (f"{SHA256}  x{DEMO}", []),
        (f"{SHA256}", []),
        (f"{SHA256}  {DEMO}\n{'ab' * 32}  {DEMO}", []),
        (f"{SHA256}  {DEMO}\n{SHA256.upper()}  {DEMO}", ["sha256"]),
        (f"-----BEGIN PGP SIGNATURE-----\n{SHA256}  {DEMO}", []),
        (f"{'x ' * 2000}{SHA256}  {DEMO}", []),
        ("", []),
    ],
)
def test_a_digest_counts_beside_the_very_name(text, found):
    assert [one.algorithm for one in read_hashes(text.encode(), DEMO)] == found


@given(st.binary(max_size=300))
def test_whatever_is_in_the_text_of_checksums_they_can_be_such(body):
    for one in read_hashes(body + b"\n" + body + f" {DEMO}".encode(), DEMO):
        assert len(one.digest) in {32, 64, 128}


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        ([link("demo", "18.0-1", 12), link("demo", "17.2-1")], link("demo", "18.0-1", 12)),
        ([link("demo", "17.2-1"), link("demo", "17.10-1")], link("demo", "17.10-1")),
        ([link("demo", "17.2-1"), link("demo", "17.2-1", 12)], link("demo", "17.2-1", 12)),
        ([link("demo", "16.0-1")], link("demo", "16.0-1")),
    ],
)
async def test_an_archive_that_was_replaced_stands_for_the_newest(
    driver, marketplace, recorded, links, expected
):
    place = driver(*links, link("other", "99.0-1"), link("demo", "99.0-1", 10))
    (offer,) = await place.offers(marketplace(), [recorded()])
    (content,) = await place.contents(marketplace(), offer.app)
    assert content.locator.address == URL + expected


async def test_the_recorded_archive_is_given_while_it_is_there(driver, marketplace, recorded):
    place = driver(DEMO, link("demo", "18.0-1", 12))
    (content,) = await place.contents(marketplace(), recorded())
    assert content.locator.address == URL + DEMO


async def test_an_archive_that_is_gone_is_listed_with_the_reason(driver, marketplace, recorded):
    place = driver(link("demo", "16.0-1", 10), link("demo-x", "18.0-1", 12))
    (offer,) = await place.offers(marketplace(), [recorded()])
    assert (offer.deferred, offer.trouble.errno) == (False, errno.EIO)
    assert "any more" in offer.trouble.reason
    with pytest.raises(Missing):
        await place.contents(marketplace(), recorded())


@pytest.mark.parametrize("name", ["", "x.tar.gz", "..", f"{DEMO}.hash", f"{DEMO}/x"])
async def test_a_source_that_names_no_archive_says_so(driver, marketplace, recorded, name):
    (offer,) = await driver().offers(marketplace(), [recorded(name)])
    assert offer.trouble.errno == errno.EIO
    assert "no archive" in offer.trouble.reason


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, Refused), (403, Refused), (404, Missing), (503, Unreachable), (204, BadAnswer)],
)
async def test_a_server_that_fails_is_a_failure_and_no_empty_list(
    service, marketplace, recorded, status, kind
):
    place = TurnkeyLinuxMarketplace(call=service({}, status), version="")
    where = marketplace("http://bob:canary@market.example.org")
    for asked in (place.offers(where, [recorded()]), place.contents(where, recorded())):
        with pytest.raises(kind) as caught:
            await asked
        assert "canary" not in str(caught.value)


async def test_a_page_without_archives_says_nothing_about_the_apps(driver, marketplace, recorded):
    with pytest.raises(BadAnswer):
        await driver("login.html").offers(marketplace(), [recorded()])


async def test_an_endpoint_that_is_no_http_address_is_refused(driver):
    place = Marketplace(1, "TurnKey", template=Template((("ENDPOINT", "ftp://x"),)))
    with pytest.raises(Unsupported, match="ENDPOINT"):
        await driver().offers(place, [])


async def test_without_an_endpoint_the_public_mirror_is_asked(driver):
    place = driver()
    await place.offers(Marketplace(1, "TurnKey"), None)
    assert place._call.requests[0].url == f"http://mirror.turnkeylinux.org{PAGE}"


async def test_by_itself_it_lists_the_newest_of_each_application_on_each_debian(
    driver, marketplace
):
    place = driver(
        DEMO,
        link("demo", "17.2-1"),
        link("demo", "18.0-1", 12),
        link("core", "18.0-1", 12),
        link("core", "14.2-1", 8),
    )
    where = marketplace("http://bob:canary@market.example.org")
    offers = await place.offers(where, None)
    assert {o.app.name: o.app.version for o in offers} == {
        "demo (Debian 11)": "17.2-1",
        "demo (Debian 12)": "18.0-1",
        "core (Debian 12)": "18.0-1",
    }
    assert [o.app.id for o in offers] == sorted(o.app.id for o in offers)
    assert all(o.deferred for o in offers)
    assert "canary" not in repr(offers)
    assert "canary" not in offers[0].app.source
    for offer in offers:
        (content,) = await place.contents(where, offer.app)
        assert content.version == offer.app.version
        assert "bob:canary" in content.locator.address


async def test_a_new_version_keeps_the_number_of_its_application(driver, marketplace):
    (before,) = await driver(DEMO).offers(marketplace(), None)
    (after,) = await driver(link("demo", "17.2-1")).offers(marketplace(), None)
    assert after.app.id == before.app.id
