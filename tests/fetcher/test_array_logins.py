"""The transports ontap, purity and vsphere against fakes of what they log in to, over real TLS.

No array and no vCenter could be had: the fakes answer as the published descriptions say.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import random

import pytest

from nebfs.errors import BadAnswer, Changed, Missing, Refused, Unreachable, Unsupported
from nebfs.fetcher.messages import CallRequest
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports import make_transport
from nebfs.fetcher.transports.http_connections import Connections
from nebfs.fetcher.transports.http_sessions import REFUSED_FOR, Sessions
from nebfs.fetcher.transports.purity import FlashArrays
from nebfs.model import Locator, Revision
from tests.fetcher.ontap_fake import OntapFake
from tests.fetcher.purity_fake import PurityFake
from tests.fetcher.service import Service, Told, make_certificates, sockets_closed
from tests.fetcher.vsphere_fake import VsphereFake

PATIENT = FetcherSettings(stall_timeout=15, connect_timeout=10, trust_env=False)
SLOT = 4096
LUNS = "/api/storage/luns"
VOLUMES = "/api/2.9/volumes"
FILE = "/folder/one/1/one-1-flat.vmdk?dcPath=DC%201&dsName=nfs%2F%C3%A4"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    home = tmp_path_factory.mktemp("tls")
    make_certificates(home)
    return home


@pytest.fixture
def serve(certificates):
    started = []

    def start(respond):
        service = Service(certificates, respond)
        started.append(service.__enter__())
        return service

    yield start
    for service in started:
        service.__exit__()


@pytest.fixture
def settings(certificates, tmp_path):
    """Settings that trust the services, with what `text` says in the file of credentials."""

    def make(text: str = "") -> FetcherSettings:
        path = tmp_path / "credentials.toml"
        path.write_text(text)
        path.chmod(0o600)
        ca = str(certificates / "ca.pem")
        return dataclasses.replace(PATIENT, credentials_file=str(path), ca_file=ca)

    return make


def basic(user: str, password: str) -> tuple[str, str]:
    pair = base64.b64encode(f"{user}:{password}".encode()).decode()
    return "Authorization", f"Basic {pair}"


def run(name, settings, work):
    """Run `work` with a transport that is closed afterwards."""

    async def running():
        transport = make_transport(name, settings)
        try:
            return await work(transport)
        finally:
            await transport.aclose()
            await sockets_closed()

    return asyncio.run(running())


def call(name, settings, url, *headers):
    request = CallRequest("GET", url, headers, transport=name)
    return run(name, settings, lambda transport: transport.call(request))


# --- ontap ----------------------------------------------------------------------------------------


def test_the_file_of_credentials_goes_before_the_templates_login(serve, settings):
    fake = OntapFake()
    service = serve(fake.respond)
    known = settings(f'["{service.url}"]\nuser = "admin"\npassword = "canary-password"\n')
    for headers in ([], [basic("other", "canary-other")]):
        assert call("ontap", known, service.url + LUNS, *headers).status == 200


def test_the_templates_login_counts_where_the_file_is_silent(serve, settings):
    fake = OntapFake()
    service = serve(fake.respond)
    answer = call("ontap", settings(), service.url + LUNS, basic(fake.user, fake.password))
    assert answer.status == 200


def test_without_any_login_nobody_is_asked(serve, settings):
    fake = OntapFake()
    service = serve(fake.respond)
    for name, path in (("ontap", LUNS), ("purity", VOLUMES), ("vsphere", FILE)):
        with pytest.raises(Refused) as caught:
            call(name, settings(), service.url + path)
        assert caught.value.facts["login"] == "none"
    assert fake.requests == []


def test_a_wrong_password_is_refused_without_saying_it(serve, settings):
    fake = OntapFake()
    service = serve(fake.respond)
    with pytest.raises(Refused, match="user or the password") as caught:
        call("ontap", settings(), service.url + LUNS, basic("admin", "canary-wrong"))
    assert caught.value.facts["login"] == "refused"
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "path", "header"),
    [
        ("ontap", LUNS, basic("admin", "canary")),
        ("purity", VOLUMES, ("api-token", "canary")),
        ("vsphere", FILE, basic("admin", "canary")),
    ],
)
def test_a_login_is_shown_over_tls_only(settings, name, path, header):
    with pytest.raises(Unsupported, match="over TLS only"):
        call(name, settings(), f"http://127.0.0.1:1{path}", header)


def test_a_service_of_an_unknown_authority_is_told_nothing(serve, settings):
    fakes = {"ontap": OntapFake(), "purity": PurityFake(), "vsphere": VsphereFake()}
    distrusting = dataclasses.replace(settings(), ca_file="")
    for (name, fake), path in zip(fakes.items(), (LUNS, VOLUMES, FILE), strict=True):
        header = ("api-token", "canary") if name == "purity" else basic("a", "canary")
        with pytest.raises(Unreachable, match="certificate is not trusted"):
            call(name, distrusting, serve(fake.respond).url + path, header)
        assert fake.requests == []


def test_another_host_to_which_an_array_redirects_is_not_told_the_login(serve, settings):
    other = OntapFake()
    elsewhere = serve(other.respond)
    service = serve(lambda _: Told(307, headers={"Location": elsewhere.url + LUNS}))
    with pytest.raises(Refused):
        call("ontap", settings(), service.url + LUNS, basic(other.user, other.password))
    assert "authorization" not in other.requests[0].headers


# --- purity ---------------------------------------------------------------------------------------


def token(fake):
    return ("api-token", fake.token)


def test_many_questions_log_in_once_and_out_at_the_end(serve, settings):
    fake = PurityFake()
    service = serve(fake.respond)
    request = CallRequest("GET", service.url + VOLUMES, (token(fake),), transport="purity")

    async def ask(transport):
        answers = await asyncio.gather(*(transport.call(request) for _ in range(5)))
        assert [answer.status for answer in answers] == [200] * 5
        assert fake.sessions

    run("purity", settings(), ask)
    assert fake.logins == 1
    assert not fake.sessions
    lists = [one for one in fake.requests if one.path == VOLUMES]
    assert all("api-token" not in one.headers for one in lists)


def test_the_token_of_the_file_goes_before_the_templates(serve, settings):
    fake = PurityFake()
    service = serve(fake.respond)
    known = settings(f'["{service.url}"]\napi-token = "{fake.token}"\n')
    for headers in ([], [("api-token", "canary-other")]):
        assert call("purity", known, service.url + VOLUMES, *headers).status == 200


def test_a_session_that_has_ended_is_had_anew_once(serve, settings):
    fake = PurityFake()
    service = serve(fake.respond)
    request = CallRequest("GET", service.url + VOLUMES, (token(fake),), transport="purity")

    async def ask(transport):
        assert (await transport.call(request)).status == 200
        fake.sessions.clear()
        answers = await asyncio.gather(*(transport.call(request) for _ in range(4)))
        assert [answer.status for answer in answers] == [200] * 4

    run("purity", settings(), ask)
    assert fake.logins == 2


def test_a_token_that_is_refused_is_not_tried_again_at_once(serve, settings):
    fake = PurityFake()
    service = serve(fake.respond)
    clock = [0.0]
    locator = Locator("purity", service.url + VOLUMES, (("header:api-token", "canary-wrong"),))

    async def ask():
        connections = Connections(settings())
        sessions = Sessions(connections, FlashArrays(settings(), connections), lambda: clock[0])
        try:
            for moment, logins in ((0.0, 1), (REFUSED_FOR - 1, 1), (REFUSED_FOR + 1, 2)):
                clock[0] = moment
                with pytest.raises(Refused, match="API token") as caught:
                    await sessions.find(locator)
                assert caught.value.facts["login"] == "refused"
                assert "canary" not in str(caught.value)
                assert fake.logins == logins
        finally:
            await connections.aclose()
            await sockets_closed()

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        (Told(200), BadAnswer),
        (Told(200, headers={"x-auth-token": "x" * 9000}), BadAnswer),
        (Told(200, headers={"x-auth-token": "two words"}), BadAnswer),
        (Told(503), Unreachable),
        (Told(404), Missing),
        (Told(302, headers={"Location": "https://127.0.0.1:1/"}), Unreachable),
    ],
)
def test_a_login_that_is_answered_with_nonsense(serve, settings, told, kind):
    service = serve(lambda _: told)
    with pytest.raises(kind):
        call("purity", settings(), service.url + VOLUMES, ("api-token", "canary"))


# --- vsphere --------------------------------------------------------------------------------------


@pytest.fixture
def data():
    return random.Random(3).randbytes(20 * SLOT + 512)


@pytest.fixture
def vcenter(serve, data):
    fake = VsphereFake()
    fake.put_disk("one/1/one-1.vmdk", data)
    fake.service = serve(fake.respond)
    return fake


def request_of(target, fake, *ranges, expected=None, password=None):
    made = target.request(fake.service.url + FILE, *ranges, expected=expected)
    name, text = basic(fake.user, password or fake.password)
    locator = Locator("vsphere", made.locator.address, ((f"header:{name}", text),))
    return dataclasses.replace(made, locator=locator)


def test_ranges_of_a_file_come_with_one_login(vcenter, settings, make_target, data):
    target = make_target(data)

    async def fetch(transport):
        for ranges in ([(2, 4), (9, 10)], [(0, 2), (4, 9), (10, 21)]):
            request = request_of(target, vcenter, *ranges)
            revision = await transport.fetch(request, target.fd, target.listener())
            assert revision == Revision(len(data))

    run("vsphere", settings(), fetch)
    target.check()
    assert len(target.slots) == 21
    assert vcenter.logins == 1
    assert not vcenter.sessions
    parts = [one.headers.get("range") for one in vcenter.requests if one.method == "GET"]
    assert parts[0] == f"bytes={2 * SLOT}-{4 * SLOT - 1}"
    shown = [one for one in vcenter.requests if one.path != "/sdk"]
    assert all("authorization" not in one.headers for one in shown)


def test_a_session_that_ends_between_two_parts_is_had_anew(vcenter, settings, make_target, data):
    target = make_target(data)

    async def fetch(transport):
        for first in (0, 1):
            request = request_of(target, vcenter, (first, first + 1), expected=Revision(len(data)))
            await transport.fetch(request, target.fd, target.listener())
            vcenter.sessions.clear()

    run("vsphere", settings(), fetch)
    target.check()
    assert vcenter.logins == 2


def test_a_file_that_is_refused_collects_no_sessions(vcenter, settings, make_target, data):
    target = make_target(data)
    vcenter.broken["one/1/one-1-flat.vmdk"] = Told(401)

    async def fetch(transport):
        for _ in range(3):
            with pytest.raises(Refused, match="refuses access"):
                await transport.fetch(
                    request_of(target, vcenter, (0, 1)), target.fd, target.listener()
                )
            assert len(vcenter.sessions) == 1

    run("vsphere", settings(), fetch)
    target.check_untouched()
    assert not vcenter.sessions


def test_a_wrong_password_of_a_vcenter(vcenter, settings, make_target, data):
    target = make_target(data)

    async def fetch(transport):
        for _ in range(3):
            request = request_of(target, vcenter, (0, 1), password="canary-wrong")
            with pytest.raises(Refused, match="user or the password") as caught:
                await transport.fetch(request, target.fd, target.listener())
            assert "canary" not in str(caught.value)

    run("vsphere", settings(), fetch)
    target.check_untouched()
    assert vcenter.logins == 1


def test_the_user_of_the_file_logs_in(vcenter, settings, make_target, data):
    target = make_target(data)
    password = vcenter.password.replace("&", r"\u0026")
    known = settings(
        f'["{vcenter.service.url}"]\nuser = "{vcenter.user}"\npassword = "{password}"\n'
    )
    request = request_of(target, vcenter, (0, 1), password="canary-other")
    run("vsphere", known, lambda t: t.fetch(request, target.fd, target.listener()))
    target.check()


def test_a_file_that_has_grown_is_another_version(vcenter, settings, make_target, data):
    target = make_target(data)
    request = request_of(target, vcenter, (0, 1), expected=Revision(len(data) - 512))
    with pytest.raises(Changed):
        run("vsphere", settings(), lambda t: t.fetch(request, target.fd, target.listener()))
    target.check_untouched()


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        (Told(404), Missing),
        (Told(403), Refused),
        (Told(500), Unreachable),
        (Told(206, b"x" * SLOT, {"Content-Range": f"bytes 0-{SLOT - 1}/*"}), BadAnswer),
        (Told(206, b"x" * SLOT, {"Content-Range": f"bytes 1-{SLOT}/99999"}), BadAnswer),
    ],
)
def test_wrong_answers_of_a_vcenter(vcenter, settings, make_target, data, told, kind):
    target = make_target(data)
    vcenter.broken["one/1/one-1-flat.vmdk"] = told
    request = request_of(target, vcenter, (0, 1))
    with pytest.raises(kind):
        run("vsphere", settings(), lambda t: t.fetch(request, target.fd, target.listener()))
    target.check_untouched()


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        (Told(200), BadAnswer),
        (Told(200, headers={"Set-Cookie": "other=1"}), BadAnswer),
        (Told(200, headers={"Set-Cookie": "vmware_soap_session=" + "x" * 9000}), BadAnswer),
        (Told(500, b"<other/>"), Unreachable),
        (Told(404), Missing),
    ],
)
def test_a_vcenter_that_answers_a_login_with_nonsense(
    serve, settings, make_target, data, told, kind
):
    target = make_target(data)
    fake = VsphereFake()
    fake.service = serve(lambda _: told)
    request = request_of(target, fake, (0, 1))
    with pytest.raises(kind):
        run("vsphere", settings(), lambda t: t.fetch(request, target.fd, target.listener()))
    target.check_untouched()


@pytest.mark.parametrize("header", ["Bearer x", "Basic !", "Basic YQ==", "Basic Og=="])
def test_a_header_that_is_no_login(serve, settings, header):
    with pytest.raises(Refused) as caught:
        call("vsphere", settings(), "https://127.0.0.1:1" + FILE, ("Authorization", header))
    assert caught.value.facts["login"] == "none"
