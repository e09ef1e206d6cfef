"""The driver `s3`: where an object is, as the template and SOURCE say it together."""

from __future__ import annotations

import errno

import pytest

from nebfs.errors import Unsupported
from nebfs.marketplaces import driver_for
from nebfs.model import Marketplace, Template

KEYS = {"ACCESS_KEY_ID": "canary-id", "SECRET_ACCESS_KEY": "canary-secret"}


async def offer(app, source, **attributes):
    template = Template(tuple({**KEYS, **attributes}.items()))
    market = Marketplace(100, "Private S3", driver="s3", template=template)

    async def call(request):
        raise AssertionError("the driver asks nobody")

    driver = driver_for("s3", call=call, version="7.4.0")
    (made,) = await driver.offers(market, [app(1, source=source)])
    return made


@pytest.mark.parametrize(
    ("attributes", "bucket", "base"),
    [
        ({}, "b-1", "https://b-1.s3.us-east-1.amazonaws.com/"),
        ({"REGION": "eu-west-1"}, "b-1", "https://b-1.s3.eu-west-1.amazonaws.com/"),
        ({"REGION": "cn-north-1"}, "b-1", "https://b-1.s3.cn-north-1.amazonaws.com.cn/"),
        ({"FORCE_PATH_STYLE": "YES"}, "b-1", "https://s3.us-east-1.amazonaws.com/b-1/"),
        # No certificate is for the first, and the others are no names of hosts.
        ({}, "b.1", "https://s3.us-east-1.amazonaws.com/b.1/"),
        ({}, "B_1", "https://s3.us-east-1.amazonaws.com/B_1/"),
        ({"ENDPOINT": "http://rgw:7480"}, "b-1", "http://rgw:7480/b-1/"),
        ({"ENDPOINT": "HTTPS://rgw/s3//"}, "b-1", "https://rgw/s3/b-1/"),
        ({"ENDPOINT": " http://bob:canary@rgw/ "}, "b-1", "http://rgw/b-1/"),
        ({"ENDPOINT": "http://rgw", "AWS": "no"}, "b-1", "http://rgw/b-1/"),
        ({"ENDPOINT": "http://rgw", "AWS": "YES"}, "b-1", "http://b-1.rgw/"),
        ({"ENDPOINT": "http://rgw:80/p", "FORCE_PATH_STYLE": "no"}, "b-1", "http://b-1.rgw:80/p/"),
        (
            {"ENDPOINT": "http://rgw", "AWS": "yes", "FORCE_PATH_STYLE": "yes"},
            "b-1",
            "http://rgw/b-1/",
        ),
        ({"ENDPOINT": "http://127.0.0.1:80", "AWS": "yes"}, "b-1", "http://127.0.0.1:80/b-1/"),
        ({"ENDPOINT": "http://[::1]:80", "AWS": "yes"}, "b-1", "http://[::1]:80/b-1/"),
        ({"ENDPOINT": "http://rgw", "AWS": "yes"}, "b.1", "http://rgw/b.1/"),
    ],
)
async def test_a_bucket_is_a_host_or_the_path_begins_with_it(app, attributes, bucket, base):
    made = await offer(app, f"s3://{bucket}/marketapp-7", **attributes)
    (content,) = made.contents
    assert content.locator.transport == "s3"
    assert content.locator.address == base + "marketapp-7"
    options = dict(content.locator.options)
    assert (options["base"], options["bucket"]) == (base, bucket)


async def test_what_the_transport_has_to_know_is_not_shown(app):
    made = await offer(app, "s3://images/marketapp-7", REGION="eu", SIGNATURE_VERSION="s3")
    (content,) = made.contents
    options = dict(content.locator.options)
    assert options["access-key-id"] == "canary-id"
    assert options["secret-access-key"] == "canary-secret"
    assert (options["region"], options["signature"]) == ("eu", "s3")
    assert "canary" not in repr(made) + content.locator.shown + content.identity


async def test_other_keys_are_the_same_bytes(app):
    before = await offer(app, "s3://images/marketapp-7")
    after = await offer(app, "s3://images/marketapp-7", SECRET_ACCESS_KEY="other")
    assert before.contents[0].identity == after.contents[0].identity


async def test_without_keys_none_are_passed_on(app):
    made = await offer(app, "s3://images/k", ACCESS_KEY_ID="", SECRET_ACCESS_KEY="")
    assert {"access-key-id", "secret-access-key"}.isdisjoint(dict(made.contents[0].locator.options))


@pytest.mark.parametrize(
    ("key", "sent"),
    [
        ("a/b/marketapp-1", "a/b/marketapp-1"),
        ("100%+?#&=é", "100%25%2B%3F%23%26%3D%C3%A9"),
        ("a//b", "a//b"),
        ("~-_.x", "~-_.x"),
    ],
)
async def test_a_key_is_encoded_as_signatures_want_it(app, key, sent):
    made = await offer(app, f"s3://images/{key}", ENDPOINT="http://rgw")
    assert made.contents[0].locator.address == f"http://rgw/images/{sent}"


@pytest.mark.parametrize("signature", ["", "v5", "canary"])
async def test_a_signature_that_nobody_knows_is_none(app, signature):
    made = await offer(app, "s3://images/k", SIGNATURE_VERSION=signature)
    assert "signature" not in dict(made.contents[0].locator.options)


@pytest.mark.parametrize(
    "source",
    ["s3://images", "s3://images/", "s3://bob:1@images/k", "s3://bob@images/k", "s3://i?a/k"],
)
async def test_a_source_that_names_no_object(app, source):
    made = await offer(app, source)
    assert made.contents == ()
    assert made.trouble.errno == errno.EIO
    assert "SOURCE" in made.trouble.reason


@pytest.mark.parametrize("key", ["../k", "a/../../k", "a/./k", ".."])
async def test_a_key_with_a_way_through_folders_is_not_asked_for(app, key):
    made = await offer(app, f"s3://images/{key}")
    assert made.contents == ()
    assert "cannot be asked for" in made.trouble.reason


@pytest.mark.parametrize(
    "attributes",
    [
        {"ENDPOINT": "rgw.example.org"},
        {"ENDPOINT": "ftp://rgw"},
        {"ENDPOINT": "http://"},
        {"ENDPOINT": "http://rgw:port"},
        {"ENDPOINT": "http://rgw/?canary=1"},
        {"ENDPOINT": "http://rgw\r\nHost: other"},
        {"ENDPOINT": "http://a canary"},
        {"REGION": "evil.example.org/"},
        {"REGION": "x" * 65},
    ],
)
async def test_a_template_that_names_no_store_fails_the_marketplace(app, attributes):
    with pytest.raises(Unsupported, match=r"ENDPOINT|REGION") as caught:
        await offer(app, "s3://images/k", **attributes)
    assert "canary" not in str(caught.value)
