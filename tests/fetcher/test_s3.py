"""The transport `s3`, against a store that checks signatures and against scripted ones."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import ssl
import subprocess
import threading
import time
from urllib.parse import quote

import pytest
from botocore import auth

from nebfs.demo.cloud import Cloud
from nebfs.demo.s3 import ACCESS_KEY_ID, SECRET_ACCESS_KEY, ObjectStore, StoreKey
from nebfs.errors import Changed, Missing, NebfsError, Refused, Unreachable
from nebfs.fetcher.messages import CallRequest
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports import s3_credentials
from tests.fetcher.s3_asking import (
    QUICK,
    bring,
    locator,
    no_keys_of_this_machine,
    run,
)

__all__ = ["no_keys_of_this_machine"]

KEYS = {"access-key-id": ACCESS_KEY_ID, "secret-access-key": SECRET_ACCESS_KEY}


@pytest.fixture
def profile(tmp_path):
    """Write a profile into ~/.aws/credentials."""

    def write(name, key=ACCESS_KEY_ID, secret=SECRET_ACCESS_KEY):
        (tmp_path / "aws-credentials").write_text(
            f"[{name}]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"
        )

    return write


@pytest.fixture
def credentials(tmp_path):
    """Write nebfs's own file; return settings that name it."""

    def write(text: str) -> FetcherSettings:
        path = tmp_path / "credentials.toml"
        path.write_text(text)
        path.chmod(0o600)
        return dataclasses.replace(QUICK, credentials_file=str(path))

    return write


@pytest.fixture
def store(tmp_path, content):
    """The demonstration's object store, with an object in the bucket `images`."""
    file = tmp_path / "object"
    file.write_bytes(content)
    cloud = Cloud()
    cloud.objects["/images/marketapp-1"] = file
    made = ObjectStore(cloud)
    listener = made.listener()
    listener.start()
    made.url = listener.url
    yield made
    made.release()
    listener.close()
    assert listener.failures == []


def with_keys(url, key="marketapp-1", bucket="images", **options):
    return locator(url, key, bucket, **{k.replace("-", "_"): v for k, v in KEYS.items()}, **options)


def statuses(store):
    return [seen.status for seen in store.requests]


# --- signatures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("told", ["", "s3", "v4"])
def test_version_4_comes_first_whatever_was_said(store, target, told):
    revision = bring(target, with_keys(store.url, signature=told))
    assert revision.ranges
    assert statuses(store) == [206]
    target.check()


@pytest.mark.parametrize("told", ["", "s3"])
def test_version_2_where_4_is_not_understood_and_then_at_once(store, target, told):
    store.versions = {"v2"}
    where = with_keys(store.url, signature=told)
    request = dataclasses.replace(target.request("", (0, 10), expected=None), locator=where)
    other = dataclasses.replace(request, locator=with_keys(store.url, "marketapp-2"))
    store.cloud.objects["/images/marketapp-2"] = store.cloud.objects["/images/marketapp-1"]

    async def use(s3):
        await s3.fetch(request, target.fd, target.listener())
        seen = len(store.requests)
        target.reports.clear()
        await s3.fetch(other, target.fd, target.listener())
        return seen

    seen = run(QUICK, use)
    assert statuses(store)[:seen].count(400) == 2  # as it came, and asked for the reason
    assert statuses(store)[seen:] == [206]
    target.check()


def test_a_store_that_learns_version_4_and_forgets_version_2(store, target):
    store.versions = {"v2"}
    where = with_keys(store.url)
    request = dataclasses.replace(target.request("", (0, 10), expected=None), locator=where)

    async def use(s3):
        await s3.fetch(request, target.fd, target.listener())
        target.reports.clear()
        store.versions = {"v4"}
        await s3.fetch(request, target.fd, target.listener())

    run(QUICK, use)
    target.check()


def test_no_version_2_where_4_was_wanted(store, target):
    store.versions = {"v2"}
    with pytest.raises(NebfsError, match="InvalidRequest"):
        bring(target, with_keys(store.url, signature="v4"))
    target.check_untouched()


def test_the_region_that_a_refusal_names(store, target):
    store.region = "garage"
    bring(target, with_keys(store.url))
    assert statuses(store) == [400, 400, 206, 206]
    target.check()


def test_one_signature_serves_all_ranges_until_it_is_old(store, target, make_target, monkeypatch):
    day = time.time()
    where = with_keys(store.url)
    request = dataclasses.replace(target.request("", (0, 4), (6, 8), expected=None), locator=where)
    signed = []
    really = auth.S3SigV4Auth.add_auth
    monkeypatch.setattr(
        auth.S3SigV4Auth, "add_auth", lambda self, r: (signed.append(1), really(self, r))[1]
    )

    async def use(s3):
        await s3.fetch(request, target.fd, target.listener())
        assert len(signed) == 1
        s3._addresses._now = lambda: day + 400
        again = make_target(target.content)
        await s3.fetch(request, again.fd, again.listener())
        assert len(signed) == 2
        s3._addresses._now = lambda: day - 1000  # the time of day was set back
        await s3.fetch(request, again.fd, again.listener())
        assert len(signed) == 3

    run(QUICK, use)
    assert set(statuses(store)) == {206}


def test_a_signature_that_went_stale_is_made_anew(store, target):
    """As after a machine's sleep of which its clock does not know."""
    where = with_keys(store.url)
    request = dataclasses.replace(target.request("", (0, 10), expected=None), locator=where)

    async def use(s3):
        await s3._addresses.find(where)
        at, made = s3._addresses._targets[where]
        stale = [(n, "20200101T000000Z" if n == "X-Amz-Date" else t) for n, t in made.headers]
        s3._addresses._targets[where] = at, dataclasses.replace(made, headers=tuple(stale))
        await s3.fetch(request, target.fd, target.listener())

    run(QUICK, use)
    assert statuses(store) == [403, 206, 206]
    target.check()


def test_requests_that_are_refused_together_ask_for_the_reason_once(store, make_target, content):
    store.versions = {"v2"}
    where = with_keys(store.url)

    async def use(s3):
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                target = make_target(content)
                request = target.request("", (0, 10), expected=None)
                request = dataclasses.replace(request, locator=where)
                group.create_task(s3.fetch(request, target.fd, target.listener()))

    run(QUICK, use)
    assert statuses(store).count(400) <= 5 + 1


@pytest.mark.parametrize("key", ["a/b c+d", "100%25?x=1&y#z", "ünï~-_.", "a//b", "a:b@c"])
@pytest.mark.parametrize("version", ["v4", "v2"])
def test_a_key_of_any_characters(store, target, key, version):
    store.versions = {version}
    store.cloud.objects[f"/images/{key}"] = store.cloud.objects["/images/marketapp-1"]
    bring(target, with_keys(store.url, quote(key, safe="/-_.~")))
    target.check()


def test_a_plain_call_is_signed_too(store):
    settings = dataclasses.replace(QUICK)
    request = CallRequest("GET", f"{store.url}/images/marketapp-1", transport="s3")
    assert run(settings, lambda s3: _refused_call(s3, request)) == "wants keys"


async def _refused_call(s3, request):
    with pytest.raises(Refused, match="wants keys"):
        await s3.call(request)
    return "wants keys"


# --- whose keys -----------------------------------------------------------------------------------


def test_an_entry_for_the_bucket_counts_before_the_marketplaces_own(store, target, credentials):
    entry = f'["s3://images"]\naccess-key-id = "{ACCESS_KEY_ID}"\nsecret-access-key = '
    wrong = locator(store.url, access_key_id=ACCESS_KEY_ID, secret_access_key="wrong")
    bring(target, wrong, settings=credentials(f'{entry}"{SECRET_ACCESS_KEY}"'))
    target.check()
    with pytest.raises(Refused, match="secret access key is wrong"):
        bring(target, with_keys(store.url), settings=credentials(f'{entry}"wrong"'))


def test_an_entry_for_the_address_and_one_for_another_bucket(store, target, credentials):
    keys = f'access-key-id = "{ACCESS_KEY_ID}"\nsecret-access-key = "{SECRET_ACCESS_KEY}"\n'
    other = '["s3://other"]\naccess-key-id = "other"\nsecret-access-key = "other"\n'
    settings = credentials(f'{other}["{store.url}"]\n{keys}')
    bring(target, locator(store.url), settings=settings)
    target.check()


def test_half_a_key_is_not_made_whole_from_elsewhere(store, target, credentials):
    settings = credentials(
        f'["{store.url}"]\nsecret-access-key = "{SECRET_ACCESS_KEY}"\n'
        f'["s3://images"]\naccess-key-id = "{ACCESS_KEY_ID}"\n'
    )
    with pytest.raises(Refused, match="go together"):
        bring(target, with_keys(store.url), settings=settings)


def test_temporary_keys(store, target, credentials):
    store.keys["TEMPORARY"] = StoreKey("canary-secret", token="canary-token")
    text = '["s3://images"]\naccess-key-id = "TEMPORARY"\nsecret-access-key = "canary-secret"\n'
    for versions in ({"v4"}, {"v2"}):
        store.versions = versions
        bring(
            target,
            locator(store.url),
            settings=credentials(text + 'session-token = "canary-token"'),
        )
        target.reports.clear()
    with pytest.raises(Refused, match="session token is not valid"):
        bring(target, locator(store.url), settings=credentials(text + 'session-token = "other"'))
    store.keys["TEMPORARY"].expired = True
    store.versions = {"v4"}
    with pytest.raises(Refused, match="temporary keys have expired") as caught:
        bring(
            target,
            locator(store.url),
            settings=credentials(text + 'session-token = "canary-token"'),
        )
    assert "canary" not in str(caught.value) + repr(caught.value.facts)


def test_what_this_machine_has_counts_last(store, target, credentials, profile, monkeypatch):
    with pytest.raises(Refused, match="wants keys, and there are none"):
        bring(target, locator(store.url))
    profile("default")
    bring(target, locator(store.url))
    target.check()
    target.reports.clear()
    profile("default", secret="wrong")
    bring(target, with_keys(store.url))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY)
    target.reports.clear()
    bring(target, locator(store.url))
    target.check()


def test_a_profile_by_name(store, target, credentials, profile):
    profile("reader")
    settings = credentials('["s3://images"]\nprofile = "reader"')
    bring(
        target, locator(store.url, access_key_id="other", secret_access_key="x"), settings=settings
    )
    target.check()
    with pytest.raises(Refused, match=r"no such profile.*writer"):
        bring(
            target, locator(store.url), settings=credentials('["s3://images"]\nprofile = "writer"')
        )


def test_keys_that_were_replaced_on_this_machine_are_read_again(store, target, profile):
    profile("default")
    where = locator(store.url)
    request = dataclasses.replace(target.request("", (0, 10), expected=None), locator=where)

    async def use(s3):
        await s3.fetch(request, target.fd, target.listener())
        target.reports.clear()
        store.keys = {"NEW": StoreKey("new-secret")}
        profile("default", "NEW", "new-secret")
        await s3.fetch(request, target.fd, target.listener())

    run(QUICK, use)
    target.check()


@pytest.fixture
def instance(serve, answer, store, monkeypatch):
    """The metadata service of an instance that has a role."""
    role = {
        "Code": "Success",
        "AccessKeyId": "ROLE",
        "SecretAccessKey": "role-secret",
        "Token": "role-token",
        "Expiration": "2999-01-01T00:00:00Z",
    }

    def script(request):
        match request.method, request.target.rpartition("/")[2]:
            case "PUT", "token":
                return answer(200, b"session")
            case "GET", "":
                return answer(200, b"reader")
            case "GET", "reader":
                return answer(200, json.dumps(role).encode())
        return answer(404)

    server = serve(script)
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url)
    store.keys["ROLE"] = StoreKey("role-secret", token="role-token")
    return server


def test_an_instances_role(store, target, instance):
    bring(target, locator(store.url))
    target.check()
    assert statuses(store) == [206]


def test_an_instances_metadata_that_nobody_gives(store, target, monkeypatch, serve, answer):
    server = serve(lambda request: answer(404))
    server.close()
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url)
    with pytest.raises(Refused, match="wants keys"):
        bring(target, locator(store.url))


def test_keys_that_do_not_come(store, target, monkeypatch):
    going_on = threading.Event()
    monkeypatch.setattr(s3_credentials, "CHAIN_TIMEOUT", 0.05)
    monkeypatch.setattr(s3_credentials.Chain, "_keys", lambda self, profile: going_on.wait(10))
    where = locator(store.url)
    request = dataclasses.replace(target.request("", (0, 10), expected=None), locator=where)

    async def use(s3):
        try:
            with pytest.raises(Unreachable, match="did not come in time"):
                await s3.fetch(request, target.fd, target.listener())
        finally:
            going_on.set()

    run(QUICK, use)
    assert statuses(store) == []


def test_broken_files_of_this_machine_are_not_repeated(store, target, tmp_path):
    (tmp_path / "aws-credentials").write_text("canary\n")
    with pytest.raises(Refused, match="cannot be had") as caught:
        bring(target, locator(store.url))
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_anonymous(store, target, credentials):
    settings = credentials('["s3://images"]\nanonymous = true')
    with pytest.raises(Refused, match="wants keys"):
        bring(target, with_keys(store.url), settings=settings)
    store.public.add("/images/marketapp-1")
    store.keys.clear()
    bring(target, with_keys(store.url), settings=settings)
    bring(target, locator(store.url))  # and where there are no keys at all


# --- refusals in words ----------------------------------------------------------------------------


@pytest.mark.parametrize("told", ["", "s3"])
def test_a_wrong_secret(store, target, told):
    where = locator(
        store.url, access_key_id=ACCESS_KEY_ID, secret_access_key="canary", signature=told
    )
    with pytest.raises(Refused, match="secret access key is wrong") as caught:
        bring(target, where)
    assert "canary" not in str(caught.value) + repr(caught.value.facts)
    assert ACCESS_KEY_ID not in str(caught.value)
    target.check_untouched()


def test_an_unknown_key(store, target):
    with pytest.raises(Refused, match="does not know the access key"):
        bring(target, locator(store.url, access_key_id="other", secret_access_key="x"))


def test_clocks_that_differ(store, target):
    store.now = lambda: time.time() + 3600
    with pytest.raises(Refused, match="clock") as caught:
        bring(target, with_keys(store.url))
    assert abs(caught.value.facts["seconds"]) < 60  # the Date header is of this machine here


@pytest.mark.parametrize(
    ("bucket", "key", "words"),
    [("images", "marketapp-9", "no such object"), ("gone", "marketapp-1", "no such bucket")],
)
def test_what_is_missing(store, target, bucket, key, words):
    with pytest.raises(Missing, match=words):
        bring(target, with_keys(store.url, key, bucket))
    target.check_untouched()


def test_an_answer_without_words(serve, answer, target):
    server = serve(lambda request: answer(403, b"<html>canary</html>"))
    with pytest.raises(Refused, match="refuses access") as caught:
        bring(target, with_keys(server.url))
    assert "canary" not in str(caught.value)


def test_an_endless_answer_is_not_read_to_its_end(serve, target):
    def script(request):
        yield b"HTTP/1.1 403 X\r\nContent-Length: 1000000000000\r\n\r\n"
        while not server.stopping.is_set():
            yield b"x" * 65536

    server = serve(script)
    with pytest.raises(Refused):
        bring(target, with_keys(server.url, signature="v4"))


def test_a_store_that_fails_afterwards(store, target):
    store.switches("/images/marketapp-1").fail_next = 1
    with pytest.raises(Unreachable):
        bring(target, with_keys(store.url))


def test_a_region_that_leads_nowhere(serve, answer, target):
    regions = iter(f"region-{n}" for n in range(100))

    def script(request):
        code = f"<Code>AuthorizationHeaderMalformed</Code><Region>{next(regions)}</Region>"
        return answer(400, code.encode())

    server = serve(script)
    with pytest.raises(Refused, match=r"another region.*region-"):
        bring(target, with_keys(server.url))
    assert len(server.requests) < 10


def test_a_moved_bucket_without_a_location(serve, answer, origin, target):
    """As Amazon answers in a region where the bucket is not."""

    def script(request):
        if "/eu-west-1/" in request.headers["authorization"]:
            return origin(request)
        return answer(301, b"<Code>PermanentRedirect</Code>", x_amz_bucket_region="eu-west-1")

    server = serve(script)
    bring(target, with_keys(server.url))
    target.check()


def test_a_bucket_of_amazons_is_asked_for_in_its_own_region(
    serve, answer, origin, target, monkeypatch
):
    seen = []

    def script(request):
        seen.append(request.headers["host"])
        if request.headers["host"] == "images.s3.eu-west-1.amazonaws.com":
            return origin(request)
        return answer(301, b"", x_amz_bucket_region="eu-west-1")

    server = serve(script)
    proxied = dataclasses.replace(QUICK, trust_env=True)
    monkeypatch.setenv("http_proxy", server.url)
    base = "http://images.s3.us-east-1.amazonaws.com/"
    where = with_keys(server.url, base=base)
    where = dataclasses.replace(where, address=base + "marketapp-1")
    bring(target, where, settings=proxied)
    target.check()
    assert seen[0] == "images.s3.us-east-1.amazonaws.com"
    assert seen[-1] == "images.s3.eu-west-1.amazonaws.com"


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_another_address_that_wants_keys_gets_none(store, serve, answer, target, name):
    to = f"{store.url}/images/marketapp-1"
    server = serve(lambda request: answer(307, location=to))
    with pytest.raises(Refused, match="sends us to another address"):
        bring(target, with_keys(server.url.replace("127.0.0.1", name)))
    assert statuses(store) == [403]


def test_a_changed_object(store, target, tmp_path):
    revision = bring(target, with_keys(store.url), (0, 1))
    other = tmp_path / "other"
    other.write_bytes(target.content[::-1])
    store.replace("/images/marketapp-1", other)
    with pytest.raises(Changed):
        bring(target, with_keys(store.url), (1, 2), expected=revision)


def test_an_own_authority_is_named_by_the_bucket(serve, origin, target, credentials, tmp_path):
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", "key.pem", "-out", "ca.pem"),
        ],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca.pem", tmp_path / "key.pem")
    url = f"https://localhost:{serve(origin, context).port}"
    with pytest.raises(Unreachable, match="not trusted"):
        bring(target, with_keys(url))
    bring(target, with_keys(url), settings=credentials('["s3://images"]\nca-file = "ca.pem"'))
    target.check()
