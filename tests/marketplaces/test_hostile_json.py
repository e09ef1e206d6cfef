"""The catalogue is written by strangers: whatever is in it, good appliances are still offered."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from nebfs.errors import BadAnswer
from nebfs.fetcher.messages import CallAnswer
from nebfs.marketplaces.appliances import read_catalogue
from nebfs.marketplaces.one import OneMarketplace
from nebfs.marketplaces.template_text import template_text
from nebfs.model import Marketplace

SURROGATES = st.text(st.characters(codec=None), max_size=20)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.integers(min_value=10**30, max_value=10**40)
    | SURROGATES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SURROGATES, inner, max_size=4),
    max_leaves=10,
)
KEYS = (
    *("_id", "name", "version", "type", "format", "creation_time", "publisher"),
    *("short_description", "tags", "os-arch", "hypervisor", "opennebula_template"),
    *("disks", "roles", "files"),
)
FILE = st.fixed_dictionaries(
    {},
    optional={
        key: JSON | st.just("disk")
        for key in ("name", "url", "type", "size", "checksum", "md5", "format", "driver")
    },
)
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(KEYS, JSON),
        "_id": st.just({"$oid": "id-1"}) | JSON,
        "name": SURROGATES | JSON,
        "type": st.sampled_from(["IMAGE", "VMTEMPLATE", "SERVICE_TEMPLATE", ""]) | JSON,
        "files": st.lists(FILE | JSON, max_size=3) | JSON,
        "opennebula_template": JSON.map(json.dumps) | JSON,
    },
)
GOOD = {
    "_id": {"$oid": "good"},
    "name": "good",
    "files": [{"name": "disk", "url": "http://files.example.org/d", "size": 1 << 20}],
}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=st.lists(ENTRY | JSON, max_size=4))
def test_the_good_appliance_among_any_others_is_read(entries):
    body = json.dumps({"appliances": [*entries, GOOD]}).encode()
    with capture_logs() as lines:
        found = read_catalogue(body)
    assert [one for one in found if one.id == "good"]
    assert len(found) + len(lines) == len(entries) + 1
    for one in found:
        one.name.encode()
        one.published.encode()
        json.loads(one.published)


@settings(deadline=None, max_examples=40)
@given(entries=st.lists(ENTRY, max_size=4))
async def test_offers_of_any_catalogue_are_well_formed(entries):
    async def call(_):
        return CallAnswer(200, (), json.dumps({"appliances": [*entries, GOOD]}).encode())

    with capture_logs():
        offers = await OneMarketplace(call=call, version="").offers(Marketplace(0, "m"), None)
    assert "good" in {offer.app.name for offer in offers}
    for offer in offers:
        assert not (offer.contents and offer.trouble)
        labels = [content.label for content in offer.contents]
        assert len(set(labels)) == len(labels)
        assert offer.app.size_mb >= 0
        offer.app.app_template.encode()
        repr(offer)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>a page for people</html>",
        b"[]",
        b"{}",
        b"null",
        b'{"appliances": {}}',
        b'{"appliances": null}',
        b'{"appliances": [',
        b"[" * 200_000,
        b'{"appliances": ' + b"[" * 200_000,
        b"\xff\xfe\x00",
    ],
    ids=lambda body: repr(body[:20]),
)
def test_a_body_that_is_no_catalogue_is_a_bad_answer(body):
    with pytest.raises(BadAnswer):
        read_catalogue(body)


def test_a_number_of_ten_thousand_digits_spoils_only_itself():
    digits = "9" * 10_000
    body = b'{"appliances": [{"_id": {"$oid": "a"}, "name": "x", "creation_time": %s}]}'
    (one,) = read_catalogue(body % digits.encode())
    assert one.created == 0


def test_what_json_itself_does_not_have_is_not_passed_on():
    body = b'{"appliances": [{"_id": {"$oid": "a"}, "name": "x", "k": [NaN, Infinity, 1e999]}]}'
    (one,) = read_catalogue(body)
    assert json.loads(one.published, parse_constant=pytest.fail)["k"] == [None, None, None]


@pytest.mark.parametrize("identity", ["../../x", "a/b", "", "-x", "x?y", "x y", 7, None, {}])
def test_an_id_that_would_change_the_url_is_skipped_and_named(identity):
    body = json.dumps({"appliances": [{"_id": {"$oid": identity}, "name": "Evil"}]}).encode()
    with capture_logs() as lines:
        assert read_catalogue(body) == ()
    assert [(line["event"], line["name"]) for line in lines] == [("appliance.skipped", "Evil")]


def test_a_catalogue_of_ten_thousand_bad_entries_does_not_fill_the_log():
    body = json.dumps({"appliances": [None] * 10_000}).encode()
    with capture_logs() as lines:
        assert read_catalogue(body) == ()
    assert len(lines) == 21
    assert lines[-1]["count"] == 9_980


def test_the_second_appliance_of_one_id_is_skipped():
    again = {**GOOD, "name": "impostor"}
    with capture_logs():
        (one,) = read_catalogue(json.dumps({"appliances": [GOOD, again]}).encode())
    assert one.name == "good"


@pytest.mark.parametrize("packed", ["", "null", "[]", "7", "{", "[" * 200_000])
def test_a_template_that_is_no_object_is_empty(packed):
    assert template_text(packed) == ""


def test_a_template_cannot_break_out_of_its_quotes():
    packed = json.dumps({"NAME": 'x"\nEVIL="y', "bad key =": "1", "NIC": [{"A": 1}, {"B": True}]})
    assert template_text(packed) == (
        'NAME = "x\\"\nEVIL=\\"y"\nNIC = [ A = "1" ]\nNIC = [ B = "YES" ]\n'
    )
