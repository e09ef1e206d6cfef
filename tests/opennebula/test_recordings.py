"""Every recording of a real front-end: its answer reads, or fails, as its README says."""

from __future__ import annotations

import json
import re
import xmlrpc.client
from pathlib import Path

import pytest

from nebfs.errors import BadAnswer, Missing, Refused, Unsupported
from nebfs.opennebula import (
    AlreadyTaken,
    BadCall,
    CannotSend,
    NotAuthenticated,
    NotAuthorised,
    RpcError,
    decode,
    decode_apps,
    decode_datastores,
    decode_images,
    decode_marketplaces,
    decode_user,
    decode_zones,
    encode,
)

ONED = Path(__file__).parents[1] / "fixtures" / "oned"
NAMES = sorted(path.name.removesuffix(".response.xml") for path in ONED.glob("*.response.xml"))
# README: | name | method | parameters | HTTP | bytes | shows |
ROWS = {
    row[0]: row
    for line in (ONED / "README.md").read_text().splitlines()
    if len(row := [cell.strip() for cell in line.strip("|").split(" | ")]) >= 6 and "." in row[1]
}
DECODERS = {
    "one.market.info": decode_marketplaces,
    "one.marketpool.info": decode_marketplaces,
    "one.marketapp.info": decode_apps,
    "one.marketapppool.info": decode_apps,
    "one.datastore.info": decode_datastores,
    "one.datastorepool.info": decode_datastores,
    "one.image.info": decode_images,
    "one.imagepool.info": decode_images,
    "one.zone.info": decode_zones,
    "one.zonepool.info": decode_zones,
    "one.user.info": decode_user,
}
BY_MEANING = {
    "error-bad-password": NotAuthenticated,
    "error-unknown-user": NotAuthenticated,
    "error-empty-session": NotAuthenticated,
    "error-session-without-colon": NotAuthenticated,
    "error-version-bad-password": NotAuthenticated,
    "error-no-such-image": Missing,
    "error-no-such-image-negative": Missing,
    "error-no-such-marketapp": Missing,
    "error-no-such-market": Missing,
    "error-no-such-datastore": Missing,
    "error-zone-no-such": Missing,
    "error-image-not-authorised-alice": NotAuthorised,
    "error-marketapp-not-authorised-carol": Refused,
    "error-market-not-authorised-carol": NotAuthorised,
    "error-datastore-not-authorised-carol": NotAuthorised,
    "error-image-delete-not-authorised-alice": NotAuthorised,
    "error-market-allocate-not-authorised-alice": NotAuthorised,
    "error-image-allocate-invalid-name": RpcError,
    "error-image-allocate-duplicate-name": AlreadyTaken,
    "error-no-such-method": Unsupported,
    "error-too-few-params": BadCall,
    "error-wrong-param-type": BadCall,
    "error-no-params": CannotSend,
    "error-malformed-xml": BadCall,
    "error-truncated-xml": BadCall,
    "error-empty-body": BadAnswer,
    "imagepool.info-bad-filter": BadCall,
    "marketapppool.info-session-only": BadCall,
    "fault-marketapppool.info-non-bmp-character": CannotSend,
    "fault-marketapp.info-non-bmp-character": CannotSend,
    "fault-image.allocate-non-bmp-name": BadCall,
}


def test_the_readme_and_the_recordings_are_about_the_same_calls():
    assert len(NAMES) == 204
    assert set(NAMES) - set(ROWS) == {
        "error-malformed-xml",
        "error-empty-body",
        "error-truncated-xml",
    }  # raw bodies, not calls
    assert set(BY_MEANING) <= set(NAMES)
    assert {name for name in NAMES if name.startswith(("error-", "fault-"))} <= set(BY_MEANING)


@pytest.mark.parametrize("name", NAMES)
def test_the_recorded_answer_reads_or_fails_as_recorded(name):
    body = (ONED / f"{name}.response.xml").read_bytes()
    code = re.search(
        rb"<name>faultCode</name>\s*<value><i4>(-\d+)|<boolean>0</boolean></value>\s*"
        rb"<value><string>[^<]*</string></value>\s*<value><i4>(\d+)",
        body,
    )
    if body.startswith(b"<HTML>"):  # HTTP 400
        with pytest.raises(BadAnswer, match="HTML"):
            decode(body)
    elif code:
        with pytest.raises(BY_MEANING.get(name, RpcError)) as caught:
            decode(body)
        assert caught.value.code == int(code[1] or code[2])
    else:
        assert name not in BY_MEANING
        value = decode(body)
        ((flag, expected, zero),), _ = xmlrpc.client.loads(body)
        assert (flag, zero) == (True, 0)
        assert value == expected
        _, method = xmlrpc.client.loads((ONED / f"{name}.request.xml").read_bytes())
        if method in DECODERS:
            DECODERS[method](value)


def recorded_ids(name: str) -> list[int]:
    ((_, document, _),), _ = xmlrpc.client.loads((ONED / f"{name}.response.xml").read_bytes())
    tag = re.match("<([A-Z]+)_POOL>", document)[1]
    return sorted(int(number) for number in re.findall(rf"<{tag}><ID>(\d+)</ID>", document))


@pytest.mark.parametrize("name", [name for name in NAMES if "pool.info" in name])
def test_every_object_of_a_recorded_pool_is_there(name):
    _, method = xmlrpc.client.loads((ONED / f"{name}.request.xml").read_bytes())
    if method not in DECODERS or name in BY_MEANING:
        return
    found = DECODERS[method](decode((ONED / f"{name}.response.xml").read_bytes()))
    assert [one.id for one in found] == recorded_ids(name)


def readable(name: str) -> bool:
    return (ONED / f"{name}.request.xml").read_bytes().startswith(b"<?xml") and name in ROWS


@pytest.mark.parametrize(
    "name", [name for name in NAMES if readable(name) and "allocate-non-bmp" not in name]
)
def test_a_call_is_encoded_as_the_recorded_request(name):
    recorded = xmlrpc.client.loads((ONED / f"{name}.request.xml").read_bytes())
    params, method = recorded
    assert xmlrpc.client.loads(encode(method, params)) == recorded


def test_every_recording_was_answered_with_the_http_status_of_its_readme():
    headers = json.loads((ONED / "http-headers.json").read_text())
    assert headers["http"]["POST /other"][0] == 404
    assert {row[3] for row in ROWS.values()} == {"200"}
