"""The oci transport against a scripted registry: challenges, tokens, and who is told what."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import json
import ssl
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

import pytest
from multidict import CIMultiDict

from nebfs.errors import BadAnswer, Refused, Unreachable, Unsupported
from nebfs.fetcher.messages import CallRequest
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports import TRANSPORTS, make_transport
from nebfs.fetcher.transports.oci import EARLY, Oci
from nebfs.fetcher.transports.oci_tokens import MAX_TOKEN, Challenge, Token, challenges
from nebfs.model import Locator

PLAIN = FetcherSettings(connect_timeout=10, stall_timeout=10, trust_env=False)
BASIC = "Basic " + base64.b64encode(b"bob:canary").decode()
SLOT = 4096
BLOB = "/v2/demo/app/blobs/sha256:" + "a" * 64


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@dataclass
class TokenServer:
    """A registry and its token service in one: both wrong in the ways that a test wants."""

    content: Callable
    answer: Callable
    url: str = ""
    realm: str = ""
    user: str = ""
    """The Authorization header that the token service wants; empty: it knows everybody."""
    expires_in: object = 300
    service: str = "registry.test"
    scoped: bool = True
    reply: bytes | None = None
    reply_status: int = 200
    good: set[str] = field(default_factory=set)
    asked: list[dict] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    """What the token service was shown."""
    made: int = 0

    def __call__(self, request):
        if request.target.startswith("/token"):
            return self.token(request)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme == "Bearer" and token in self.good:
            return self.content(request)
        repository = request.target.removeprefix("/v2/").rpartition("/blobs/")[0]
        scope = f',scope="repository:{repository}:pull"' if self.scoped else ""
        realm = self.realm or f"{self.url}/token"
        challenge = f'Bearer realm="{realm}",service="{self.service}"{scope}'
        return self.answer(401, b'{"errors": []}', www_authenticate=challenge)

    def token(self, request):
        self.asked.append(parse_qs(urlsplit(request.target).query))
        self.shown.append(request.headers.get("authorization", ""))
        if self.reply is not None:
            return self.answer(self.reply_status, self.reply, retry_after="7")
        if self.user and request.headers.get("authorization") != self.user:
            return self.answer(401, www_authenticate="Basic realm=x")
        self.made += 1
        token = f"token-canary-{self.made}"
        self.good.add(token)
        body = {"token": token, "expires_in": self.expires_in, "issued_at": "whenever"}
        return self.answer(200, json.dumps(body).encode())


@pytest.fixture
def registry(serve, origin, answer):
    script = TokenServer(origin, answer)
    server = serve(script)
    script.url = server.url
    script.server = server
    return script


@pytest.fixture
def credentials(tmp_path):
    def write(url: str, text: str = 'user = "bob"\npassword = "canary"') -> FetcherSettings:
        path = tmp_path / "credentials.toml"
        path.write_text(f'["{url}"]\n{text}\n')
        path.chmod(0o600)
        return dataclasses.replace(PLAIN, credentials_file=str(path))

    return write


def with_oci(function, settings=PLAIN, now=None):
    async def run():
        http = Oci(settings, now or time.monotonic)
        try:
            return await function(http)
        finally:
            await http.aclose()

    return asyncio.run(run())


def fetch(target, *requests, settings=PLAIN):
    async def run(http):
        for request in requests:
            revision = await http.fetch(request, target.fd, target.listener())
        return revision

    return with_oci(run, settings)


def call(url, settings=PLAIN):
    return with_oci(lambda http: http.call(CallRequest("GET", url, transport="oci")), settings)


# --- tokens ---


def test_a_challenge_is_answered_with_a_token_of_its_service(registry, origin, target):
    request = target.request(registry.url + BLOB, (0, 10), expected=None)
    assert fetch(target, request) == origin.revision
    target.check()
    assert registry.asked == [{"service": ["registry.test"], "scope": ["repository:demo/app:pull"]}]
    # Nobody was shown anything before he asked, and the service no user.
    assert "authorization" not in registry.server.requests[0].headers
    assert registry.shown == [""]


def test_one_token_serves_every_blob_of_a_repository_and_no_other(registry, target):
    async def run(http):
        for path in ("a/blobs/x", "a/blobs/y", "a/manifests/latest", "b/blobs/x"):
            request = CallRequest("GET", f"{registry.url}/v2/{path}", transport="oci")
            assert (await http.call(request)).status == 200

    registry.scoped = False
    with_oci(run)
    assert [one["scope"] for one in registry.asked] == [
        ["repository:a:pull"],
        ["repository:b:pull"],
    ]


def test_many_requests_at_once_have_one_token_made(registry):
    async def run(http):
        calls = [
            http.call(CallRequest("GET", f"{registry.url}/v2/a/blobs/{n}", transport="oci"))
            for n in range(12)
        ]
        return [answer.status for answer in await asyncio.gather(*calls)]

    assert with_oci(run) == [200] * 12
    assert registry.made == 1


def test_the_catalogue_has_a_scope_of_its_own(registry):
    registry.scoped = False
    assert call(registry.url + "/v2/_catalog?n=5").status == 200
    assert registry.asked[0]["scope"] == ["registry:catalog:*"]


def test_several_scopes_and_a_query_in_the_realm(registry, answer):
    registry.realm = f"{registry.url}/token?account=x"
    registry.service = 'a b",scope="repository:a:pull repository:b:pull'
    registry.scoped = False
    assert call(registry.url + BLOB).status == 200
    assert registry.asked == [
        {
            "account": ["x"],
            "service": ["a b"],
            "scope": ["repository:a:pull", "repository:b:pull"],
        }
    ]


def test_a_token_is_had_anew_before_it_ends(registry):
    clock = Clock()

    async def run(http):
        request = CallRequest("GET", registry.url + BLOB, transport="oci")
        await http.call(request)
        clock.time += 300 - EARLY - 1
        await http.call(request)
        assert registry.made == 1
        clock.time += 2
        await http.call(request)

    with_oci(run, now=clock)
    assert registry.made == 2
    # The third one never saw a 401.
    challenged = [r for r in registry.server.requests if "authorization" not in r.headers]
    assert len([r for r in challenged if r.target == BLOB]) == 1


def test_a_token_that_the_registry_does_not_take_any_more_is_had_anew(registry, origin, target):
    async def run(http):
        for span in ((0, 1), (1, 2)):
            request = target.request(registry.url + BLOB, span, expected=origin.revision)
            await http.fetch(request, target.fd, target.listener())
            registry.good.clear()

    with_oci(run)
    assert registry.made == 2
    assert target.slots == {0, 1}
    target.check()


def test_a_token_that_does_not_help_is_not_asked_for_for_ever(registry):
    registry.good = frozenset()
    registry.token = lambda request: registry.answer(200, b'{"token": "x"}')
    answer = call(registry.url + BLOB)
    assert answer.status == 401
    assert len([r for r in registry.server.requests if r.target.startswith("/token")]) == 1


@pytest.mark.parametrize("said", [None, "soon", True, -1, 0, 5, float("nan"), 1e30])
def test_an_end_that_makes_no_sense_is_the_specifications(registry, said):
    clock = Clock()
    registry.expires_in = said

    async def run(http):
        request = CallRequest("GET", registry.url + BLOB, transport="oci")
        await http.call(request)
        clock.time += 60 - EARLY - 1
        await http.call(request)
        assert registry.made == 1
        clock.time += 2
        await http.call(request)
        assert registry.made == 2

    with_oci(run, now=clock)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b"", BadAnswer),
        (200, b"[]", BadAnswer),
        (200, b"{}", BadAnswer),
        (200, b'{"token": 7}', BadAnswer),
        (200, b'{"token": "a b"}', BadAnswer),
        (200, b'{"token": "a\\r\\nX: y"}', BadAnswer),
        (200, json.dumps({"token": "x" * (MAX_TOKEN + 1)}).encode(), BadAnswer),
        (200, b"[" * 100_000, BadAnswer),
        (200, b"x" * (2 << 20), BadAnswer),
        (401, b"canary", Refused),
        (403, b"canary", Refused),
        (404, b"canary", BadAnswer),
        (429, b"canary", Unreachable),
        (502, b"canary", Unreachable),
    ],
)
def test_a_token_service_that_gives_none(registry, target, status, body, kind):
    registry.reply, registry.reply_status = body, status
    request = target.request(registry.url + BLOB, (0, 1), expected=None)
    for ask in (lambda: fetch(target, request), lambda: call(registry.url + BLOB)):
        with pytest.raises(kind) as caught:
            ask()
        assert type(caught.value) is kind
        assert "canary" not in str(caught.value)
        assert caught.value.retry_after == (7.0 if kind is Unreachable else None)
    target.check_untouched()


def test_the_other_name_of_a_token(registry):
    registry.reply = b'{"access_token": "other"}'
    registry.good.add("other")
    assert call(registry.url + BLOB).status == 200


@pytest.mark.parametrize("realm", ["file:///etc/passwd", "x", "http://[::1", "ftp://h/"])
def test_a_realm_that_cannot_be_asked(registry, realm):
    registry.realm = realm
    with pytest.raises(BadAnswer, match="token service"):
        call(registry.url + BLOB)


# --- users ---


def test_the_user_of_the_file_is_told_to_the_token_service_only(registry, target, credentials):
    registry.user = BASIC
    with pytest.raises(Refused, match="does not know"):
        call(registry.url + BLOB)
    fetch(
        target,
        target.request(registry.url + BLOB, (0, 10), expected=None),
        settings=credentials(registry.url),
    )
    target.check()
    assert registry.shown == ["", BASIC]
    to_registry = [r for r in registry.server.requests if r.target == BLOB]
    assert BASIC not in [r.headers.get("authorization") for r in to_registry]


def test_a_wrong_password_is_said_in_words(registry, credentials):
    registry.user = "Basic other"
    with pytest.raises(Refused, match="refuses the user or the password") as caught:
        call(registry.url + BLOB, credentials(registry.url))
    assert "canary" not in str(caught.value)


def test_a_user_in_the_address_counts_and_is_shown_in_no_error(registry):
    registry.user = BASIC
    address = registry.url.replace("http://", "http://bob:canary@") + BLOB
    assert call(address).status == 200
    registry.user = "Basic other"
    with pytest.raises(Refused) as caught:
        call(address)
    assert "canary" not in str(caught.value)


def test_one_users_token_is_not_anothers(registry):
    registry.user = BASIC
    known = registry.url.replace("http://", "http://bob:canary@") + BLOB

    async def run(http):
        assert (await http.call(CallRequest("GET", known, transport="oci"))).status == 200
        with pytest.raises(Refused):
            await http.call(CallRequest("GET", registry.url + BLOB, transport="oci"))

    with_oci(run)


def test_a_password_is_not_told_to_another_host_without_tls(registry, credentials, serve):
    other = serve(registry.token)
    registry.realm = other.url.replace("127.0.0.1", "localhost") + "/token"
    settings = credentials(registry.url)
    assert call(registry.url + BLOB, settings).status == 200
    assert registry.shown == [""]
    registry.user = BASIC
    with pytest.raises(Refused, match="was not told the password"):
        call(registry.url + BLOB, settings)
    assert registry.shown == ["", ""]


def test_an_entry_about_the_realm_alone_is_not_used_for_a_registry(registry, credentials):
    """Or any registry could name a realm, and be given a token with somebody else's rights."""
    registry.user = BASIC
    with pytest.raises(Refused):
        call(registry.url + BLOB, credentials(registry.url + "/token"))
    assert registry.shown == [""]


def test_a_realm_that_leads_to_another_token_service_gains_nothing(
    registry, credentials, serve, answer
):
    """It would be handed what that one gives to the user's entry about it."""
    other = TokenServer(registry.content, answer, user=BASIC)
    other.url = (elsewhere := serve(other)).url
    registry.token = lambda request: answer(
        302, location=f"{other.url}/token?service=registry.test&scope=repository:secret:pull"
    )
    with pytest.raises(Refused):
        call(registry.url + BLOB, credentials(other.url))
    assert len(elsewhere.requests) == 1
    assert other.shown == [""]


def test_another_host_with_tls_is_told_the_password(registry, serve, credentials, tmp_path):
    subprocess.run(
        (
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=x", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", "key.pem", "-out", "cert.pem"),
        ),
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    registry.user = BASIC
    service = serve(registry.token, context)
    registry.realm = f"https://localhost:{service.port}/token"
    place = serve(registry, context)
    url = f"https://127.0.0.1:{place.port}"
    settings = dataclasses.replace(credentials(url), ca_file=str(tmp_path / "cert.pem"))
    assert call(url + BLOB, settings).status == 200
    assert registry.shown == [BASIC]


def test_a_registry_with_tls_has_a_token_service_with_tls():
    headers = CIMultiDict({"WWW-Authenticate": 'Bearer realm="http://auth.example.org/token"'})

    async def run(http):
        addresses = http._addresses
        locator = Locator("oci", "https://registry.example.org" + BLOB)
        target = await addresses.find(locator)
        with pytest.raises(Unsupported, match="TLS"):
            await addresses.renewed(locator, target, 401, headers)

    with_oci(run)


def test_a_registry_that_wants_the_user_itself(serve, origin, target, answer, credentials):
    def script(request):
        if request.headers.get("authorization") != BASIC:
            return answer(401, www_authenticate='Basic realm="x"')
        return origin(request)

    server = serve(script)
    request = target.request(server.url + BLOB, (0, 10), expected=None)
    with pytest.raises(Refused, match="wants a user"):
        fetch(target, request)
    target.check_untouched()
    fetch(target, request, settings=credentials(server.url))
    target.check()

    async def run(http):
        asked = CallRequest("GET", server.url + BLOB, transport="oci")
        assert (await http.call(asked)).status == 401
        with pytest.raises(Refused, match="refuses the user or the password"):
            await http.call(asked)

    with_oci(run, credentials(server.url, 'user = "bob"\npassword = "wrong"'))


def test_a_bearer_token_of_the_file_is_shown_at_once(serve, origin, answer, credentials):
    def script(request):
        if request.headers.get("authorization") != "Bearer canary":
            return answer(401, www_authenticate=f'Bearer realm="{request.target}"')
        return origin(request)

    server = serve(script)
    assert call(server.url + BLOB, credentials(server.url, 'bearer-token = "canary"')).status == 200
    assert len(server.requests) == 1
    with pytest.raises(Refused, match="bearer token") as caught:
        call(server.url + BLOB, credentials(server.url, 'bearer-token = "canary-2"'))
    assert "canary" not in str(caught.value)


def test_a_403_and_a_challenge_that_is_not_understood_are_the_registrys_word(serve, answer):
    server = serve(lambda _: answer(403))
    assert call(server.url + BLOB).status == 403
    server.script = lambda _: answer(401, www_authenticate="Negotiate YII=")
    assert call(server.url + BLOB).status == 401
    server.script = lambda _: answer(401)
    assert call(server.url + BLOB).status == 401
    assert len(server.requests) == 3


# --- elsewhere ---


def test_a_blob_elsewhere_is_asked_without_our_token(registry, origin, target, serve, answer):
    elsewhere = serve(origin)
    place = elsewhere.url + "/signed?sig=1"
    registry.content = lambda request: answer(307, location=place)
    request = target.request(registry.url + BLOB, (0, 5), expected=None)
    rest = target.request(registry.url + BLOB, (5, 10), expected=origin.revision)
    fetch(target, request, rest)
    target.check()
    assert all("authorization" not in r.headers for r in elsewhere.requests)
    # The second fetch went there directly.
    assert len([r for r in registry.server.requests if r.target == BLOB]) == 2


def test_what_elsewhere_refuses_is_not_the_registrys_challenge(registry, serve, answer, target):
    lure = f'Bearer realm="{registry.url}/token",service="x",scope="repository:secret:pull"'
    elsewhere = serve(lambda _: answer(401, www_authenticate=lure))
    registry.content = lambda request: answer(307, location=elsewhere.url + "/x")
    with pytest.raises(Refused):
        fetch(target, target.request(registry.url + BLOB, (0, 5), expected=None))
    assert registry.asked == [{"service": ["registry.test"], "scope": ["repository:demo/app:pull"]}]
    target.check_untouched()


def test_a_manifest_of_a_registry_without_range(registry, make_target, answer):
    body = json.dumps({"layers": ["x" * 9000]}).encode()
    target = make_target(body)
    etag = hashlib.sha256(body).hexdigest()
    registry.content = lambda request: answer(200, body, etag=f'"{etag}"')
    accept = {"header:Accept": "application/vnd.oci.image.manifest.v1+json"}
    address = registry.url + "/v2/demo/app/manifests/latest"
    revision = fetch(target, target.request(address, (0, 3), expected=None, **accept))
    assert (revision.size, revision.ranges) == (len(body), False)
    target.check()
    last = [r for r in registry.server.requests if r.target.endswith("latest")][-1]
    assert last.headers["accept"] == accept["header:Accept"]


# --- the words of a challenge ---


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (['Bearer realm="r",service="s"'], [("bearer", {"realm": "r", "service": "s"})]),
        (["BEARER Realm=r, scope=a:b:c"], [("bearer", {"realm": "r", "scope": "a:b:c"})]),
        (
            ['Basic realm="a, b", Bearer realm = "c\\"d"'],
            [("basic", {"realm": "a, b"}), ("bearer", {"realm": 'c"d'})],
        ),
        (
            ["Basic realm=x", "Bearer realm=y"],
            [("basic", {"realm": "x"}), ("bearer", {"realm": "y"})],
        ),
        (['Bearer realm="x",realm="y"'], [("bearer", {"realm": "x"})]),
        (["Negotiate"], [("negotiate", {})]),
        (["realm=x"], []),
        (["", "  ,, ", '"', '="x"', 'Bearer realm="x'], None),
        (["Bearer " + "a=b," * 100_000], None),
        (['Bearer realm="' + "\\" * 100_000], None),
    ],
)
def test_challenges_are_read(headers, expected):
    found = challenges(headers)
    if expected is not None:
        assert found == tuple(Challenge(scheme, parameters) for scheme, parameters in expected)


def test_secrets_are_in_no_repr():
    assert "canary" not in repr(Token("canary", 1.0))


def test_the_table_has_it():
    assert "oci" in TRANSPORTS

    async def run():
        made = make_transport("oci", PLAIN)
        assert isinstance(made, Oci)
        await made.aclose()

    asyncio.run(run())
