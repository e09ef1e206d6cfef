"""The http transport against a scripted server: every wrong answer, and nothing wrong written."""

from __future__ import annotations

import asyncio
import dataclasses
import email.utils
import os
import ssl
import subprocess
import threading
import time

import pytest

from nebfs.errors import (
    BadAnswer,
    CacheFault,
    Changed,
    Missing,
    NebfsError,
    Refused,
    Unreachable,
    Unsupported,
)
from nebfs.fetcher.messages import CallRequest
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports import TRANSPORTS, make_transport
from nebfs.fetcher.transports.http import Http
from nebfs.model import Revision

PATIENT = FetcherSettings(stall_timeout=15, connect_timeout=10, trust_env=False)
# Only where a stall is meant: on a busy machine any answer may take this long.
IMPATIENT = dataclasses.replace(PATIENT, stall_timeout=0.3)
SLOT = 4096


def with_http(function, settings: FetcherSettings = PATIENT):
    """Run `function` with a transport that is closed afterwards."""

    async def run():
        http = Http(settings)
        try:
            return await function(http)
        finally:
            await http.aclose()

    return asyncio.run(run())


def fetch(target, *requests, settings: FetcherSettings = PATIENT, fd: int | None = None):
    """Run fetches one after the other through one transport; return the last revision."""

    async def run(http):
        for request in requests:
            revision = await http.fetch(request, target.fd if fd is None else fd, target.listener())
        return revision

    return with_http(run, settings)


def call(request: CallRequest, settings: FetcherSettings = PATIENT):
    return with_http(lambda http: http.call(request), settings)


def refused(target, server, expected=None, ranges=((0, 10),), kind: type[NebfsError] = BadAnswer):
    """Fetch, and return the failure, after checking that the file was not touched."""
    with pytest.raises(kind) as caught:
        fetch(target, target.request(server.url + "/d", *ranges, expected=expected))
    assert type(caught.value) is kind
    target.check_untouched()
    return caught.value


# --- right answers ---


def test_everything_in_one_range(serve, origin, target):
    server = serve(origin)
    request = target.request(server.url + "/d", (0, 10), expected=origin.revision)
    assert fetch(target, request) == origin.revision
    assert target.slots == set(range(10))
    target.check()
    # Seven slots with bytes (the last one short), three holes; a block is 512 bytes.
    assert os.fstat(target.fd).st_blocks == 7 * SLOT // 512
    assert server.requests[0].headers["accept-encoding"] == "identity"


def test_several_ranges_and_nothing_between(serve, origin, target):
    server = serve(origin)
    request = target.request(
        server.url + "/d", (0, 1), (3, 5), (7, 8), (9, 10), expected=origin.revision
    )
    fetch(target, request)
    assert target.slots == {0, 3, 4, 7, 9}
    target.check()
    assert len(server.requests) == 4


def test_probe_learns_the_revision(serve, origin, target):
    server = serve(origin)
    assert (
        fetch(target, target.request(server.url + "/d", (0, 1), expected=None)) == origin.revision
    )
    assert target.found == [origin.revision]
    assert target.slots == {0}
    target.check()


def test_probe_of_a_content_shorter_than_the_range(serve, origin, make_target):
    origin.data = origin.data[: SLOT + 5]
    target = make_target(origin.data)
    server = serve(origin)
    request = target.request(server.url + "/d", (0, 2), expected=None)
    request = dataclasses.replace(request, ranges=((0, 10 * SLOT), (20 * SLOT, 21 * SLOT)))
    assert fetch(target, request).size == SLOT + 5
    assert target.slots == {0, 1}
    target.check()


def test_probe_that_covers_no_whole_slot_writes_nothing(serve, origin, target):
    server = serve(origin)
    request = target.request(server.url + "/d", (0, 1), expected=None)
    request = dataclasses.replace(request, ranges=((0, 100),))
    assert fetch(target, request) == origin.revision
    target.check_untouched()


def test_probe_without_ranges_asks_for_one_byte(serve, origin, target):
    server = serve(origin)
    assert fetch(target, target.request(server.url + "/d", expected=None)) == origin.revision
    assert server.requests[0].range == (0, 1)
    target.check_untouched()


def test_empty_content(serve, origin, make_target):
    origin.data = b""
    target = make_target(b"")
    request = target.request(serve(origin).url + "/d", (0, 0), expected=None)
    request = dataclasses.replace(request, ranges=((0, SLOT),))
    assert fetch(target, request).size == 0
    target.check_untouched()


def test_one_connection_is_kept(serve, origin, target):
    server = serve(origin)
    one, two = (
        target.request(server.url + "/d", (n, n + 1), expected=origin.revision) for n in (0, 4)
    )
    fetch(target, one, two)
    assert len({request.connection for request in server.requests}) == 1
    target.check()


def test_small_pieces_with_pauses(serve, origin, target):
    def script(request):
        whole = origin(request)
        for start in range(0, len(whole), 1500):
            yield whole[start : start + 1500]
            if start % 9000 == 0:
                time.sleep(0.005)  # longer than a complete slot may wait: reports come early

    request = target.request(serve(script).url + "/d", (0, 10), expected=origin.revision)
    fetch(target, request)
    target.check()
    assert len(target.reports) > 2


# --- servers without Range ---


def test_server_without_range_is_probed(serve, origin, target):
    server = serve(lambda request: origin.whole())
    revision = fetch(target, target.request(server.url + "/d", (0, 1), expected=None))
    assert revision == dataclasses.replace(origin.revision, ranges=False)
    assert target.slots == {0}
    target.check()


@pytest.mark.parametrize("known", [True, False])
def test_server_without_range_gives_what_was_asked(serve, origin, target, known):
    server = serve(lambda request: origin.whole())
    expected = dataclasses.replace(origin.revision, ranges=not known)
    request = target.request(server.url + "/d", (1, 2), (5, 7), (9, 10), expected=expected)
    assert fetch(target, request).ranges is False
    assert target.slots == {1, 5, 6, 9}
    target.check()
    # An answer with everything is left to the library, which has to ask again for it, once.
    assert len(server.requests) == (1 if known else 2)
    assert ("range" in server.requests[0].headers) is not known


def test_server_without_range_nor_length(serve, origin, target, answer):
    server = serve(lambda r: iter([answer(200, origin.data, content_length=""), b""]))
    failure = refused(target, server, kind=Unsupported)
    assert "length" in str(failure)


@pytest.mark.parametrize("change", [{"etag": '"v2"'}, {"etag": ""}, {"last_modified": "now"}])
def test_whole_answer_of_another_version(serve, origin, target, change):
    server = serve(lambda request: origin.whole(**change))
    refused(target, server, expected=origin.revision, kind=Changed)


def test_whole_answer_of_another_length(serve, origin, target):
    expected = origin.revision
    origin.data = origin.data[:-1]
    refused(target, serve(lambda request: origin.whole()), expected=expected, kind=Changed)


# --- answers that are refused before a byte is written ---


@pytest.mark.parametrize("change", [{"etag": '"v2"'}, {"etag": ""}, {"last_modified": "then"}])
def test_changed_validator(serve, origin, target, change):
    server = serve(lambda request: origin.part(0, len(origin.data), **change))
    failure = refused(target, server, expected=origin.revision, kind=Changed)
    assert "v1" in str(failure) or "modified" in str(failure)


def test_changed_size(serve, origin, target):
    expected = dataclasses.replace(origin.revision, size=len(origin.data) + 1)
    refused(target, serve(origin), expected=expected, kind=Changed)


def test_validator_that_the_probe_did_not_have_is_no_change(serve, origin, target):
    expected = Revision(len(origin.data))
    fetch(target, target.request(serve(origin).url + "/d", (0, 2), (5, 6), expected=expected))
    target.check()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bytes 4096-8191/*",
        "bytes */36964",
        "chapters 1-2/3",
        "bytes 0-4095/36964",  # another start
        "bytes 4096-12287/36964",  # more than asked
        "bytes 4096-4000/36964",
        "bytes 4096-8190/36964",  # less than asked, and less than the body
        "bytes 4096-8191/5000",
    ],
)
def test_wrong_content_range(serve, origin, target, text):
    server = serve(lambda request: origin.part(SLOT, 2 * SLOT, content_range=text))
    refused(target, server, ranges=((1, 2),), kind=BadAnswer)


def test_less_than_asked(serve, origin, target):
    server = serve(lambda request: origin.part(0, SLOT))
    refused(target, server, expected=origin.revision, ranges=((0, 2),))


def test_length_that_contradicts_the_range(serve, origin, target):
    server = serve(lambda request: origin.part(0, SLOT, content_length=str(SLOT - 1)))
    refused(target, server, expected=origin.revision, ranges=((0, 1),))


def test_gzip_nobody_asked_for(serve, origin, target):
    origin.extra["content_encoding"] = "gzip"
    refused(target, serve(origin), expected=origin.revision)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, Refused),
        (403, Refused),
        (404, Missing),
        (410, Missing),
        (416, Changed),
        (429, Unreachable),
        (500, Unreachable),
        (503, Unreachable),
        (400, BadAnswer),
        (204, BadAnswer),
        (304, BadAnswer),
    ],
)
def test_status(serve, target, answer, status, kind):
    refused(target, serve(lambda request: answer(status, b"sorry")), kind=kind)


def test_retry_after_in_seconds_and_as_a_date(serve, target, answer):
    server = serve(lambda request: answer(429, retry_after="17"))
    assert refused(target, server, kind=Unreachable).retry_after == 17
    date = email.utils.formatdate(time.time() + 60, usegmt=True)
    server = serve(lambda request: answer(503, retry_after=date))
    assert 50 < refused(target, server, kind=Unreachable).retry_after <= 60
    server = serve(lambda request: answer(503, retry_after="soon"))
    assert refused(target, server, kind=Unreachable).retry_after is None


def test_not_http(serve, target):
    refused(target, serve(lambda request: iter([b"220 smtp ready\r\n", b""])), kind=BadAnswer)


# --- answers that break off: what came in full is good ---


@pytest.mark.parametrize("cut", [0, 10, SLOT - 1, SLOT, 3 * SLOT + 7])
def test_cut_off(serve, origin, target, cut):
    def script(request):
        whole = origin(request)
        yield whole[: whole.index(b"\r\n\r\n") + 4 + cut]
        yield b""

    request = target.request(serve(script).url + "/d", (0, 10), expected=origin.revision)
    with pytest.raises(Unreachable, match=r"broke off|ended early"):
        fetch(target, request)
    target.check()
    assert target.slots == set(range(cut // SLOT))


def test_stall(serve, origin, target):
    release = threading.Event()

    def script(request):
        whole = origin(request)
        yield whole[: whole.index(b"\r\n\r\n") + 4 + 2 * SLOT]
        release.wait(10)
        yield b""

    request = target.request(serve(script).url + "/d", (0, 10), expected=origin.revision)
    with pytest.raises(Unreachable, match="silent"):
        fetch(target, request, settings=IMPATIENT)
    release.set()
    target.check()
    assert target.slots == {0, 1}


def test_more_than_announced_by_a_chunked_answer(serve, origin, target):
    def script(request):
        body = origin.data[: SLOT + 9]
        head = origin.part(0, SLOT, content_length="", transfer_encoding="chunked")
        yield head[: head.index(b"\r\n\r\n") + 4]
        yield b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)

    request = target.request(serve(script).url + "/d", (0, 1), expected=origin.revision)
    with pytest.raises(BadAnswer, match="more than"):
        fetch(target, request)
    target.check()


def test_another_version_half_way(serve, origin, target):
    def script(request):
        start, stop = request.range
        return origin.part(start, stop, **({"etag": '"v2"'} if start else {}))

    request = target.request(serve(script).url + "/d", (0, 1), (4, 5), expected=origin.revision)
    with pytest.raises(Changed):
        fetch(target, request)
    assert target.slots == {0}
    target.check()


def test_probe_of_a_version_that_changes_between_its_ranges(serve, origin, target):
    def script(request):
        start, stop = request.range
        return origin.part(start, stop, **({"etag": '"v2"'} if start else {}))

    with pytest.raises(Changed):
        fetch(target, target.request(serve(script).url + "/d", (0, 1), (4, 5), expected=None))
    target.check()


def test_nobody_listens(serve, origin, target):
    server = serve(origin)
    server.close()
    failure = refused(target, server, kind=Unreachable)
    assert "Connect call failed" in str(failure) or "refused" in str(failure).lower()


def test_unknown_name(target):
    with pytest.raises(Unreachable, match="name"):
        fetch(target, target.request("http://no-such-host.invalid/d", (0, 1), expected=None))


def test_plain_server_asked_for_tls(serve, origin, target):
    server = serve(origin)
    with pytest.raises(Unreachable, match=r"TLS|connect|closed"):
        fetch(
            target,
            target.request(server.url.replace("http:", "https:") + "/d", (0, 1), expected=None),
        )


def test_certificates_are_checked_against_the_given_authorities(serve, origin, target, tmp_path):
    files = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost "
        f"-addext subjectAltName=DNS:localhost -keyout {files[0]} -out {files[1]}",
        shell=True,
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files[1], files[0])
    server = serve(origin, context)
    address = f"https://localhost:{server.port}/d"
    request = target.request(address, (0, 10), expected=None)
    with pytest.raises(Unreachable, match="certificate is not trusted"):
        fetch(target, request)
    target.check_untouched()
    fetch(target, request, settings=dataclasses.replace(PATIENT, ca_file=str(files[1])))
    target.check()
    with pytest.raises(Unreachable, match="certificate is not trusted"):
        wrong_name = target.request(address.replace("localhost", "127.0.0.1"), expected=None)
        fetch(target, wrong_name, settings=dataclasses.replace(PATIENT, ca_file=str(files[1])))
    with pytest.raises(Unsupported, match="authorities"):
        fetch(target, request, settings=dataclasses.replace(PATIENT, ca_file=str(tmp_path / "no")))


def test_file_that_cannot_be_written(serve, origin, target):
    request = target.request(serve(origin).url + "/d", (0, 10), expected=origin.revision)
    fd = os.open(target.path, os.O_RDONLY)
    try:
        with pytest.raises(CacheFault):
            fetch(target, request, fd=fd)
    finally:
        os.close(fd)
    target.check_untouched()


def test_full_disk(serve, origin, target):
    fd = os.open("/dev/full", os.O_RDWR)
    request = target.request(serve(origin).url + "/d", (2, 10), expected=origin.revision)
    try:
        with pytest.raises(CacheFault) as caught:
            fetch(target, request, fd=fd)
    finally:
        os.close(fd)
    assert "No space" in str(caught.value)
    # The zeros before the first write need no space.
    assert target.slots == {2, 3}


# --- redirects, credentials, addresses ---


def test_redirect_is_remembered_and_resolved_again_when_it_goes_stale(
    serve, origin, target, answer
):
    stale = threading.Event()
    store = serve(lambda r: answer(403) if stale.is_set() and r.target == "/old" else origin(r))

    def script(request):
        return answer(302, location=f"{store.url}/{'new' if stale.is_set() else 'old'}")

    server = serve(script)

    async def run(http):
        for n in range(3):
            request = target.request(server.url + "/d", (n, n + 1), expected=origin.revision)
            await http.fetch(request, target.fd, target.listener())
            if n == 1:
                stale.set()

    with_http(run)
    assert [r.target for r in store.requests] == ["/old", "/old", "/old", "/new"]
    assert len(server.requests) == 2
    target.check()


def test_remembered_host_that_went_away(serve, origin, target, answer):
    first, second = serve(origin), serve(origin)
    where = [first.url]
    server = serve(lambda request: answer(302, location=where[0] + "/x"))

    async def run(http):
        for n in range(2):
            request = target.request(server.url + "/d", (n, n + 1), expected=origin.revision)
            await http.fetch(request, target.fd, target.listener())
            where[0] = second.url
            first.close()

    with_http(run)
    assert len(second.requests) == 1
    target.check()


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://[broken"])
def test_redirect_out_of_http(serve, target, answer, location):
    refused(target, serve(lambda request: answer(302, location=location)))


def test_redirects_without_end(serve, target, answer):
    server = serve(lambda request: answer(302, location=request.target + "x"))
    refused(target, server)
    assert len(server.requests) == 11


def test_credentials_stay_with_their_host(serve, origin, target, answer):
    store = serve(origin)

    def script(request):
        if request.target == "/d":
            return answer(302, location="/e")
        return answer(302, location=store.url.replace("127.0.0.1", "localhost") + "/x")

    server = serve(script)
    address = server.url.replace("//", "//user:p%40ss@") + "/d?secret=1"
    request = target.request(
        address, (0, 1), expected=None, **{"header:X-Token": "t0ken", "header:Accept": "a/b"}
    )
    fetch(target, request)
    for seen in server.requests:
        assert seen.headers["authorization"] == "Basic dXNlcjpwQHNz"
        assert seen.headers["x-token"] == "t0ken"
    (seen,) = store.requests
    assert "authorization" not in seen.headers
    assert "x-token" not in seen.headers
    assert seen.headers["accept"] == "a/b"


def test_failures_do_not_show_secrets(serve, target, answer):
    server = serve(lambda request: answer(500))
    address = server.url.replace("//", "//user:hush@") + "/d?signature=hush"
    with pytest.raises(Unreachable) as caught:
        fetch(target, target.request(address, (0, 1), expected=None))
    assert "hush" not in str(caught.value)
    assert caught.value.facts["url"] == server.url + "/d"


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/a%2Fb%20c%3a+d?x=%2f&y=a+b", "/a%2Fb%20c%3a+d?x=%2f&y=a+b"),
        ("/images/20261123_07:42/root.tar.xz", "/images/20261123_07:42/root.tar.xz"),
        ("/ä b", "/%C3%A4%20b"),
    ],
)
def test_addresses_go_out_as_they_are(serve, origin, target, path, sent):
    server = serve(origin)
    fetch(target, target.request(server.url + path, (0, 1), expected=None))
    assert server.requests[0].target == sent


def test_line_break_in_an_address_is_no_header(serve, origin, target):
    server = serve(origin)
    address = server.url + "/d HTTP/1.1\r\nX-Evil: 1\r\n"
    fetch(target, target.request(address, (0, 1), expected=None))
    assert "x-evil" not in server.requests[0].headers


@pytest.mark.parametrize("address", ["file:///etc/passwd", "/etc/passwd", "http://", "http://[x/"])
def test_addresses_that_are_not_http(target, address):
    with pytest.raises(BadAnswer):
        fetch(target, target.request(address, (0, 1), expected=None))


def test_proxy_of_the_environment_and_no_proxy(serve, origin, target, monkeypatch):
    proxy, server = serve(origin), serve(origin)
    monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//me:pw@"))
    monkeypatch.setenv("no_proxy", "localhost")
    settings = dataclasses.replace(PATIENT, trust_env=True)
    request = target.request("http://far.invalid/d", (0, 1), expected=None)
    fetch(target, request, settings=settings)
    (seen,) = proxy.requests
    assert seen.target == "http://far.invalid/d"
    assert seen.headers["proxy-authorization"].startswith("Basic ")
    near = target.request(
        server.url.replace("127.0.0.1", "localhost") + "/d", (1, 2), expected=None
    )
    fetch(target, near, settings=settings)
    assert len(proxy.requests) == 1
    assert len(server.requests) == 1


# --- calls ---


def test_call_sends_and_returns_as_it_is(serve, answer):
    server = serve(lambda r: answer(404, r.body[::-1], x_one="1"))
    request = CallRequest("POST", server.url + "/RPC2", (("Content-Type", "text/xml"),), b"abc")
    got = call(request)
    assert (got.status, got.body, got.header("x-one")) == (404, b"cba", "1")
    assert server.requests[0].headers["content-type"] == "text/xml"
    assert server.requests[0].headers["user-agent"].startswith("nebfs/")


def test_call_deadline_and_limit(serve, answer):
    hold = threading.Event()

    def script(request):
        hold.wait(10)
        yield b""

    slow = serve(script)
    with pytest.raises(Unreachable, match="in time"):
        call(CallRequest("GET", slow.url + "/", timeout=0.2))
    hold.set()
    big = serve(lambda r: answer(200, bytes(1000)))
    assert len(call(CallRequest("GET", big.url + "/", max_body=1000)).body) == 1000
    with pytest.raises(BadAnswer, match="larger"):
        call(CallRequest("GET", big.url + "/", max_body=999))


def test_call_may_be_silent_for_longer_than_a_fetch(serve, answer):
    def script(request):
        time.sleep(0.5)  # longer than IMPATIENT lets a fetch be silent
        yield answer(200, b"late")

    request = CallRequest("POST", serve(script).url + "/", body=b"x")
    assert call(request, settings=IMPATIENT).body == b"late"


def test_call_body_is_not_sent_to_another_host(serve, answer):
    other = serve(lambda request: answer(200))
    server = serve(lambda request: answer(307, location=other.url + "/"))
    with pytest.raises(BadAnswer, match="another host"):
        call(CallRequest("POST", server.url + "/", body=b"session secret"))
    assert other.requests == []


def test_call_survives_a_kept_connection_that_the_server_dropped(serve, answer):
    server = serve(lambda request: iter([answer(200, b"ok"), b""]))  # closes without saying so

    async def run(http):
        for _ in range(3):
            got = await http.call(CallRequest("POST", server.url + "/", body=b"x"))
            assert got.body == b"ok"

    with_http(run)


# --- the registry ---


def test_registry_is_alphabetical_and_loads():
    assert list(TRANSPORTS) == sorted(TRANSPORTS)

    async def run():
        for name in TRANSPORTS:
            await make_transport(name, PATIENT).aclose()

    asyncio.run(run())


def test_unknown_transport():
    with pytest.raises(Unsupported, match="gopher"):
        make_transport("gopher", PATIENT)


def test_missing_library_names_the_remedy(monkeypatch):
    from nebfs.fetcher import transports

    entry = transports.Entry("no_such_module_at_all", "X", "pip install nebfs[x]")
    monkeypatch.setitem(transports.TRANSPORTS, "x", entry)
    with pytest.raises(Unsupported, match=r"no_such_module_at_all.*pip install nebfs\[x\]"):
        make_transport("x", PATIENT)
