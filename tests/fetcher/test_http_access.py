"""HTTP with what the file of credentials says: users, certificates, proxies, each to its place."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import shutil
import socket
import ssl
import subprocess
import time

import pytest

from nebfs.errors import Refused, Unreachable, Unsupported
from nebfs.fetcher.messages import CallRequest
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports.http import Http

BASIC = "Basic " + base64.b64encode(b"bob:canary").decode()
QUICK = FetcherSettings(connect_timeout=10, stall_timeout=10, trust_env=False)


@pytest.fixture
def credentials(tmp_path):
    """Write the file; return settings that name it."""

    def write(text: str, **changes) -> FetcherSettings:
        path = tmp_path / "credentials.toml"
        path.write_text(text)
        path.chmod(0o600)
        return dataclasses.replace(QUICK, credentials_file=str(path), **changes)

    return write


def fetch(settings, target, request):
    async def run():
        http = Http(settings)
        try:
            return await http.fetch(request, target.fd, target.listener())
        finally:
            await http.aclose()

    return asyncio.run(run())


def call(settings, url, *headers):
    async def run():
        http = Http(settings)
        try:
            return await http.call(CallRequest("GET", url, headers))
        finally:
            await http.aclose()

    return asyncio.run(run())


def guarded(origin, answer):
    """A place that wants to be shown bob's password."""

    def script(request):
        if request.headers.get("authorization") != BASIC:
            return answer(401, www_authenticate="Basic realm=x")
        return origin(request)

    return script


def test_a_user_is_shown_to_the_place_that_the_file_names(
    serve, origin, target, answer, credentials
):
    server = serve(guarded(origin, answer))
    request = target.request(server.url + "/market/d", (0, 10), expected=None)
    with pytest.raises(Refused):
        fetch(QUICK, target, request)
    target.check_untouched()
    settings = credentials(f'["{server.url}/market"]\nuser = "bob"\npassword = "canary"')
    fetch(settings, target, request)
    target.check()
    with pytest.raises(Refused) as caught:
        fetch(settings, target, target.request(server.url + "/else", (0, 1), expected=None))
    assert "canary" not in str(caught.value) + repr(caught.value)


def test_plain_requests_are_shown_it_too_unless_they_know_better(
    serve, origin, answer, credentials
):
    server = serve(guarded(origin, answer))
    settings = credentials(f'["{server.url}"]\nuser = "bob"\npassword = "canary"')
    assert call(settings, server.url).status == 200
    assert call(settings, server.url, ("Authorization", "Bearer other")).status == 401
    assert call(QUICK, server.url).status == 401


@pytest.mark.parametrize("plain_call", [False, True])
def test_a_redirect_shows_each_place_its_own_and_nothing_else(
    serve, origin, target, answer, credentials, plain_call
):
    store = serve(origin)
    server = serve(lambda r: answer(302, location=f"{store.url}/there"))
    settings = credentials(
        f'["{server.url}"]\nuser = "bob"\npassword = "canary"\n'
        f'["{store.url}"]\nbearer-token = "other"'
    )
    if plain_call:
        assert call(settings, server.url + "/d").status == 200
    else:
        fetch(settings, target, target.request(server.url + "/d", (0, 10), expected=None))
        target.check()
    assert {r.headers["authorization"] for r in server.requests} == {BASIC}
    assert {r.headers["authorization"] for r in store.requests} == {"Bearer other"}


# --- certificates ---------------------------------------------------------------------------------


@pytest.fixture
def certificates(tmp_path):
    """An authority of our own; server.pem and client.pem are from it, key.pem is of both."""
    script = """
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem
    openssl genrsa -out key.pem 2048
    for who in server client; do
      openssl req -new -key key.pem -subj /CN=$who -out $who.csr
      echo subjectAltName=DNS:localhost > $who.ext
      openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
        -extfile $who.ext -out $who.pem
    done
    """
    subprocess.run(["sh", "-e", "-c", script], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


@pytest.fixture
def tls_server(serve, origin, certificates):
    def start(*, client: bool):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates / "server.pem", certificates / "key.pem")
        if client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(certificates / "ca.pem")
        return f"https://localhost:{serve(origin, context).port}"

    return start


def test_an_authority_counts_for_its_place_only(tls_server, target, credentials):
    known, unknown = tls_server(client=False), tls_server(client=False)
    settings = credentials(f'["{known}"]\nca-file = "ca.pem"')
    fetch(settings, target, target.request(known + "/d", (0, 10), expected=None))
    target.check()
    assert call(settings, known + "/d").status == 200
    for way in (
        lambda: fetch(settings, target, target.request(unknown + "/d", (0, 1), expected=None)),
        lambda: call(settings, unknown + "/d"),
    ):
        with pytest.raises(Unreachable, match="certificate is not trusted"):
            way()


def test_a_client_certificate_is_shown_where_it_is_wanted(tls_server, target, credentials):
    url = tls_server(client=True)
    with pytest.raises(Unreachable):
        fetch(
            credentials(f'["{url}"]\nca-file = "ca.pem"'),
            target,
            target.request(url + "/d", (0, 1), expected=None),
        )
    settings = credentials(
        f'["{url}"]\nca-file = "ca.pem"\nclient-certificate = "client.pem"\nclient-key = "key.pem"'
    )
    fetch(settings, target, target.request(url + "/d", (0, 10), expected=None))
    target.check()
    assert call(settings, url + "/d").status == 200


def test_a_client_certificate_that_is_none(tls_server, target, credentials):
    url = tls_server(client=True)
    settings = credentials(f'["{url}"]\nca-file = "ca.pem"\nclient-certificate = "ca.key"')
    with pytest.raises(Unsupported, match="client certificate cannot be used"):
        fetch(settings, target, target.request(url + "/d", (0, 1), expected=None))


# --- proxies --------------------------------------------------------------------------------------


@pytest.fixture
def proxy(tmp_path):
    """A real tinyproxy that wants a user and a password; its port and its log."""
    program = shutil.which("tinyproxy", path="/usr/bin:/usr/sbin")
    assert program, "tinyproxy is missing: scripts/install-needs --tests"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    log = tmp_path / "tinyproxy.log"
    (tmp_path / "tinyproxy.conf").write_text(
        f'Port {port}\nListen 127.0.0.1\nTimeout 10\nLogFile "{log}"\nLogLevel Connect\n'
        "Allow 127.0.0.1\nBasicAuth bob canary\n"
    )
    process = subprocess.Popen(
        [program, "-d", "-c", tmp_path / "tinyproxy.conf"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 10
        while not answers(port):
            assert time.monotonic() < end, "tinyproxy does not answer"
            time.sleep(0.02)
        yield port, log
    finally:
        process.terminate()
        process.wait(10)


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_proxy_with_credentials_is_gone_through(serve, origin, target, credentials, proxy):
    port, log = proxy
    server = serve(origin)
    request = target.request(server.url + "/d", (0, 10), expected=None)
    through = f'["{server.url}"]\nproxy = "http://bob:%s@127.0.0.1:{port}"'
    fetch(credentials(through % "canary"), target, request)
    target.check()
    assert "/d" in log.read_text()
    with pytest.raises(Refused, match="refuses access") as caught:
        fetch(credentials(through % "canari"), target, request)
    assert "canar" not in str(caught.value) + repr(caught.value.facts)


def test_tls_goes_through_a_proxy(tls_server, target, credentials, proxy):
    port, log = proxy
    url = tls_server(client=False)
    settings = credentials(
        f'["{url}"]\nca-file = "ca.pem"\nproxy = "http://bob:canary@127.0.0.1:{port}"'
    )
    fetch(settings, target, target.request(url + "/d", (0, 10), expected=None))
    target.check()
    assert "CONNECT" in log.read_text()


@pytest.mark.parametrize("why", ["no_proxy", "none"])
def test_a_proxy_of_the_environment_and_what_is_left_out_of_it(
    serve, origin, target, credentials, proxy, monkeypatch, why
):
    port, log = proxy
    server = serve(origin)
    monkeypatch.setenv("http_proxy", f"http://bob:canary@127.0.0.1:{port}")
    monkeypatch.delenv("no_proxy", raising=False)
    request = target.request(server.url + "/d", (0, 10), expected=None)
    settings = dataclasses.replace(QUICK, trust_env=True)
    fetch(settings, target, request)
    assert "/d" in log.read_text()
    seen = len(log.read_text())
    if why == "no_proxy":
        monkeypatch.setenv("no_proxy", "localhost, 127.0.0.1")
    else:
        settings = credentials(f'["{server.url}"]\nproxy = "none"', trust_env=True)
    again = target.request(server.url + "/d", (0, 1), expected=None)
    fetch(settings, target, again)
    assert len(log.read_text()) == seen
