"""The object store: what it gives to whom, told with signatures made by Amazon's own library."""

import http.client
import time
from urllib.parse import urlsplit

import pytest
from botocore.auth import HmacV1Auth, S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from nebfs.demo.s3 import ACCESS_KEY_ID, MOST_SKEW, REGION, SECRET_ACCESS_KEY, StoreKey

PATH = "/images/marketapp-31"


@pytest.fixture
def ask(servers):
    """Ask for a path with the given headers."""
    address = urlsplit(servers.objects_url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)

    def request(path=PATH, headers=(), method="GET"):
        connection.request(method, path, headers=dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()

    yield request
    connection.close()


@pytest.fixture
def sign(servers):
    def headers(
        path=PATH,
        key=ACCESS_KEY_ID,
        secret=SECRET_ACCESS_KEY,
        token=None,
        region=REGION,
        version=4,
        method="GET",
    ):
        request = AWSRequest(method, servers.objects_url + path)
        who = Credentials(key, secret, token)
        kind = S3SigV4Auth(who, "s3", region) if version == 4 else HmacV1Auth(who)
        kind.add_auth(request)
        return dict(request.headers.items())

    return headers


@pytest.mark.parametrize("version", [4, 2])
def test_whoever_signs_gets_the_object_and_any_range_of_it(ask, sign, servers, cloud, version):
    file = cloud.objects[PATH]
    headers = sign(version=version)
    status, told, body = ask(headers=headers)
    assert (status, body) == (200, file.read_bytes())
    for start in (0, 1000):
        asked = {**headers, "Range": f"bytes={start}-{start + 9}", "If-Match": told["ETag"]}
        status, _, part = ask(headers=asked)
        assert (status, part) == (206, body[start : start + 10])
    assert ask(headers={**headers, "If-Match": '"other"'})[0] == 412
    assert servers.objects.statistics()[PATH].requests == 4
    assert servers.bytes_sent() == len(body) + 20


@pytest.mark.parametrize("version", [4, 2])
@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"secret": "wrong"}, 403, "SignatureDoesNotMatch"),
        ({"path": "/images/marketapp-30"}, 403, "SignatureDoesNotMatch"),
        ({"method": "HEAD"}, 403, "SignatureDoesNotMatch"),
        ({"key": "OTHER"}, 403, "InvalidAccessKeyId"),
        ({"token": "unasked"}, 400, "InvalidToken"),
    ],
)
def test_whoever_signs_wrongly_is_told_what(ask, sign, version, changes, status, code):
    answer = ask(headers=sign(**changes, version=version))
    assert answer[0] == status
    assert f"<Code>{code}</Code>".encode() in answer[2]


def test_another_region_is_named(ask, sign, servers):
    servers.objects.region = "eu"
    status, _, body = ask(headers=sign())
    assert status == 400
    assert b"AuthorizationHeaderMalformed" in body
    assert b"<Region>eu</Region>" in body
    assert ask(headers=sign(region="eu"))[0] == 200


@pytest.mark.parametrize("version", [4, 2])
def test_an_old_signature(ask, sign, servers, version):
    headers = sign(version=version)
    servers.objects.now = lambda: time.time() + MOST_SKEW - 60
    assert ask(headers=headers)[0] == 200
    for skew in (MOST_SKEW + 60, -MOST_SKEW - 60):
        servers.objects.now = lambda skew=skew: time.time() + skew
        status, _, body = ask(headers=headers)
        assert status == 403
        assert b"RequestTimeTooSkewed" in body


def test_temporary_keys(ask, sign, servers):
    servers.objects.keys["TEMPORARY"] = key = StoreKey("secret", token="token")
    for version in (4, 2):
        with_token = sign(key="TEMPORARY", secret="secret", token="token", version=version)
        key.expired = False
        assert ask(headers=with_token)[0] == 200
        key.expired = True
        assert b"ExpiredToken" in ask(headers=with_token)[2]
        assert b"InvalidToken" in ask(headers=sign(key="TEMPORARY", secret="secret"))[2]


def test_a_kind_of_signature_that_it_does_not_understand(ask, sign, servers):
    servers.objects.versions = {"v4"}
    assert ask(headers=sign(version=2))[0] == 400
    assert ask(headers={"Authorization": "Basic eDp5"})[0] == 400


def test_without_keys(ask, servers):
    status, headers, body = ask()
    assert (status, headers["Content-Type"]) == (403, "application/xml")
    assert b"<Code>AccessDenied</Code>" in body
    servers.objects.public.add(PATH)
    assert ask()[0] == 200
    assert ask(method="HEAD", path="/images/marketapp-30")[2] == b""


def test_what_is_not_there(ask, sign):
    for path, code in (("/images/marketapp-32", b"NoSuchKey"), ("/gone/x", b"NoSuchBucket")):
        status, _, body = ask(path, sign(path))
        assert status == 404
        assert code in body


def test_its_switches(ask, sign, servers):
    servers.objects.switches(PATH).fail_next = 1
    assert ask(headers=sign())[0] == 503
    assert ask(headers=sign())[0] == 200


def test_the_file_server_has_none_of_it(servers, cloud):
    assert not set(cloud.objects) & set(cloud.published)
