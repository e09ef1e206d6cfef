"""The transport `s3` against Ceph's radosgw."""

from __future__ import annotations

import dataclasses
import random
import socket
from datetime import timedelta
from urllib.parse import quote

import pytest
from botocore import auth

from nebfs.errors import Missing, Refused
from tests.fetcher.s3_asking import bring, locator, no_keys_of_this_machine

__all__ = ["no_keys_of_this_machine"]


def at(radosgw, key, url="", **options):
    owner = radosgw.owner
    keys = {"access_key_id": owner.access_key_id, "secret_access_key": owner.secret_access_key}
    return locator(url or radosgw.url, key, **{**keys, **options})


@pytest.fixture
def recorded(radosgw, monkeypatch):
    """Which kinds of signature were shown to whom."""
    shown = []
    for name in ("S3SigV4Auth", "HmacV1Auth"):
        kind = getattr(auth, name)
        really = kind.add_auth
        monkeypatch.setattr(
            kind, "add_auth", lambda self, r, n=name, f=really: (shown.append(n), f(self, r))[1]
        )
    return shown


@pytest.mark.parametrize("key", ["plain", "with/a folder+100%~ü"])
def test_radosgw_whole(radosgw, target, recorded, key):
    radosgw.put(key, target.content)
    recorded.clear()
    revision = bring(target, at(radosgw, quote(key, safe="/-_.~")))
    assert (revision.size, revision.ranges) == (len(target.content), True)
    assert recorded == ["S3SigV4Auth"]
    target.check()


@pytest.fixture
def forget_v4(monkeypatch):
    """A store that understands only version 2 is this one, to whom version 4 is shown damaged."""
    really = auth.S3SigV4Auth._inject_signature_to_request

    def forget():
        monkeypatch.setattr(
            auth.S3SigV4Auth,
            "_inject_signature_to_request",
            lambda self, request, signature: really(self, request, "0" * 64),
        )

    return forget


def test_radosgw_version_2(radosgw, target, forget_v4):
    radosgw.put("v2 ü", target.content)
    forget_v4()
    bring(target, at(radosgw, quote("v2 ü")))
    target.check()
    with pytest.raises(Refused, match="secret access key is wrong"):
        bring(target, at(radosgw, quote("v2 ü"), signature="v4"))


def test_radosgw_an_object_in_parts_and_a_range_in_its_middle(radosgw, make_target):
    content = random.Random(1).randbytes(12 << 20)
    etag = radosgw.put_in_parts("parts", content)
    assert etag.endswith('-3"')  # which is no MD5
    part = make_target(content, 128 << 10)
    revision = bring(part, at(radosgw, "parts"), (40, 41))
    assert revision.etag == etag
    assert part.slots == {40}
    whole = make_target(content, 128 << 10)
    bring(whole, at(radosgw, "parts"), (0, 96), expected=revision)
    assert whole.path.read_bytes() == content


@pytest.mark.parametrize("version", ["v4", "v2"])
def test_radosgw_a_bucket_as_a_host(radosgw, target, monkeypatch, forget_v4, version):
    radosgw.put("host", target.content)
    if version == "v2":
        forget_v4()
    really = socket.getaddrinfo

    def getaddrinfo(host, *rest, **more):
        here = "127.0.0.1" if host == "images.store.test" else host
        return really(here, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    base = f"http://images.store.test:{radosgw.port}/"
    bring(target, dataclasses.replace(at(radosgw, "host", base=base), address=base + "host"))
    target.check()


def test_radosgw_public(radosgw, target):
    radosgw.put("public", target.content, public=True)
    bring(target, locator(radosgw.url, "public"))
    target.check()
    radosgw.put("private", target.content)
    with pytest.raises(Refused, match="wants keys"):
        bring(target, locator(radosgw.url, "private"))


@pytest.mark.parametrize(
    ("changes", "key", "kind", "words"),
    [
        ({"secret_access_key": "canary"}, "k", Refused, "secret access key is wrong"),
        ({"access_key_id": "canary"}, "k", Refused, "does not know the access key"),
        ({}, "gone", Missing, "no such object"),
        ({"bucket": "gone"}, "k", Missing, "no such bucket"),
    ],
)
def test_radosgw_says_what_is_wrong(radosgw, target, changes, key, kind, words):
    radosgw.put("k", target.content)
    with pytest.raises(kind, match=words) as caught:
        bring(target, at(radosgw, key, **changes))
    assert "canary" not in str(caught.value)


def test_radosgw_keys_of_somebody_else(radosgw, target):
    radosgw.put("k", target.content)
    other = radosgw.user("other")
    keys = {"access_key_id": other.access_key_id, "secret_access_key": other.secret_access_key}
    with pytest.raises(Refused, match="may not read the object"):
        bring(target, at(radosgw, "k", **keys))


def test_radosgw_clocks_that_differ(radosgw, target, monkeypatch):
    radosgw.put("k", target.content)
    really = auth.get_current_datetime
    monkeypatch.setattr(auth, "get_current_datetime", lambda: really() - timedelta(hours=1))
    with pytest.raises(Refused, match="clock"):
        bring(target, at(radosgw, "k"))
