"""The demonstration's container registry: tokens, manifests, lists, blobs that are elsewhere."""

import gzip
import hashlib
import http.client
import io
import json
import tarfile
from urllib.parse import quote, urlsplit

import pytest

from nebfs.demo.registry import SERVICE
from nebfs.demo.registry_images import make_container_images

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
ACCEPT = f"{MANIFEST}, {INDEX}, {DOCKER}"


@pytest.fixture
def ask(servers):
    def request(path, method="GET", url=servers.registry_url, **headers):
        address = urlsplit(url)
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
        try:
            connection.request(method, path, headers={"Accept": ACCEPT, **headers})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    return request


@pytest.fixture
def token(ask):
    def make(scope, **headers):
        path = f"/token?service={SERVICE}&scope={quote(scope)}"
        status, _, body = ask(path, **headers)
        assert status == 200
        return {"Authorization": f"Bearer {json.loads(body)['token']}"}

    return make


def test_nothing_is_shown_without_a_token_of_its_repository(ask, token, servers):
    path = "/v2/library/alpine/manifests/latest"
    status, headers, _ = ask(path)
    assert status == 401
    assert headers["WWW-Authenticate"] == (
        f'Bearer realm="{servers.registry_url}/token",service="{SERVICE}",'
        'scope="repository:library/alpine:pull"'
    )
    assert ask(path, **token("repository:library/busybox:pull"))[0] == 401
    assert ask(path, Authorization="Bearer made-up")[0] == 401
    shown = token("repository:library/alpine:pull")
    assert ask(path, **shown)[0] == 200
    servers.registry.now = lambda: float("inf")
    assert ask(path, **shown)[0] == 401


def test_tokens_can_be_taken_back_and_be_for_users_only(ask, token, servers):
    shown = token("repository:library/alpine:pull")
    servers.registry.revoke()
    assert ask("/v2/library/alpine/manifests/latest", **shown)[0] == 401
    servers.registry.users = {"bob": "secret"}
    assert ask(f"/token?service={SERVICE}")[0] == 401
    assert ask(f"/token?service={SERVICE}", Authorization="Basic Ym9iOnNlY3JldA==")[0] == 200
    assert ask("/token?service=other", Authorization="Basic Ym9iOnNlY3JldA==")[0] == 401


def test_an_index_leads_to_manifests_and_they_to_blobs(ask, token, servers):
    shown = token("repository:library/alpine:pull")
    status, headers, body = ask("/v2/library/alpine/manifests/latest", **shown)
    assert (status, headers["Content-Type"]) == (200, INDEX)
    assert headers["Docker-Content-Digest"] == f"sha256:{hashlib.sha256(body).hexdigest()}"
    entries = json.loads(body)["manifests"]
    assert [e["platform"]["architecture"] for e in entries] == ["amd64", "arm64", "unknown"]
    status, headers, body = ask(f"/v2/library/alpine/manifests/{entries[0]['digest']}", **shown)
    assert headers["Docker-Content-Digest"] == entries[0]["digest"]
    assert len(body) == entries[0]["size"]
    document = json.loads(body)
    for blob in (document["config"], *document["layers"]):
        path = f"/v2/library/alpine/blobs/{blob['digest']}"
        status, headers, _ = ask(path, **shown)
        assert (status, headers["Location"]) == (307, servers.files_url + path)
        status, _, body = ask(path, url=servers.files_url)
        assert (status, len(body)) == (200, blob["size"])
        assert blob["digest"] == f"sha256:{hashlib.sha256(body).hexdigest()}"
    layer = gzip.decompress(body)
    assert tarfile.open(fileobj=io.BytesIO(layer)).getnames() == ["srv/alpine.bin"]


def test_a_manifest_is_of_a_kind_that_was_asked_for(ask, token):
    shown = token("repository:library/busybox:pull")
    path = "/v2/library/busybox/manifests/latest"
    assert ask(path, **shown)[1]["Content-Type"] == DOCKER
    assert ask(path, **{**shown, "Accept": MANIFEST})[0] == 404
    assert ask(path + "r", **shown)[0] == 404


def test_the_catalogue_goes_page_by_page(ask, token):
    assert ask("/v2/_catalog")[0] == 401
    shown = token("registry:catalog:*")
    _, headers, body = ask("/v2/_catalog", **shown)
    assert json.loads(body) == {"repositories": ["library/alpine", "library/busybox"]}
    following = headers["Link"].partition(">")[0].removeprefix("<")
    _, headers, body = ask(following, **shown)
    assert json.loads(body) == {"repositories": ["tools/rescue"]}
    assert "Link" not in headers


def test_the_hubs_list_goes_page_by_page(ask, servers):
    servers.registry.page = 1
    document = json.loads(ask("/v2/repositories/library/?page_size=100")[2])
    assert (document["count"], document["previous"]) == (2, None)
    assert document["next"].startswith(servers.registry_url)
    last = json.loads(ask(document["next"].removeprefix(servers.registry_url))[2])
    assert [e["name"] for e in document["results"] + last["results"]] == ["alpine", "busybox"]
    assert last["next"] is None


def test_other_requests_are_refused(ask):
    assert ask("/v2/x/manifests/latest", "POST")[0] == 405
    assert ask("/v2/../etc/passwd")[0] == 404
    assert ask("/")[0] == 404


def test_images_are_the_same_every_time_and_made_once(tmp_path):
    made = make_container_images(tmp_path / "a")
    times = {file: file.stat().st_mtime_ns for file in made.values()}
    assert make_container_images(tmp_path / "a") == made
    assert {file: file.stat().st_mtime_ns for file in made.values()} == times
    again = make_container_images(tmp_path / "b")
    assert {p: f.name for p, f in again.items()} == {p: f.name for p, f in made.items()}
