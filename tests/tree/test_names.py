"""Names: safe, stable, unique, whatever people and feeds come up with."""

from __future__ import annotations

import json
import unicodedata
import xmlrpc.client
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebfs.tree.names import LONGEST, distinct, encode, fit, with_extension

ONED = Path(__file__).parents[1] / "fixtures/oned"


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("plain", "plain"),
        (".", "%2E"),
        ("..", "%2E%2E"),
        ("...", "..."),
        ("", "unnamed"),
        ("a/b", "a%2Fb"),
        ("a%2Fb", "a%252Fb"),
        ("a\0b", "a%00b"),
        ("a\nb", "a%0Ab"),
        ("a\x7fb", "a%7Fb"),
        ("a\x85b", "a%C2%85b"),
        ("a\u202ebidi", "a%E2%80%AEbidi"),
        ("a\u2028b", "a%E2%80%A8b"),
        (" padded ", " padded "),
        ("-rf", "-rf"),
        ("日本語", "日本語"),
        ("a／b", "a／b"),
        ("\ud800", "%ED%A0%80"),
    ],
)
def test_known_names(name, safe):
    assert encode(name) == safe


@given(st.text(st.characters(), max_size=200))
def test_any_name_is_one_safe_component_and_can_be_had_back(name):
    safe = encode(name)
    assert safe not in {"", ".", ".."}
    assert "/" not in safe
    assert "\0" not in safe
    assert not any(unicodedata.category(c) == "Cc" for c in safe)
    safe.encode()  # valid UTF-8
    if name and not any(unicodedata.category(c) == "Cs" for c in name):
        assert unquote(safe) == name


@given(
    st.lists(st.text(st.characters(codec="utf-8"), max_size=300), max_size=40),
    st.sampled_from(["", ".raw", ".qcow2.gz"]),
)
def test_distinct_names_are_distinct_and_short_enough(names, suffix):
    wanted = [(number, encode(name), suffix) for number, name in enumerate(names)]
    found = distinct(wanted)
    assert len(set(found.values())) == len(names)
    for name in found.values():
        assert len(name.encode()) <= LONGEST
        assert name.endswith(suffix)


def test_the_lowest_id_keeps_the_plain_name():
    assert distinct([(9, "n", ".raw"), (4, "n", ".raw")]) == {4: "n.raw", 9: "n~9.raw"}


def test_a_real_name_that_looks_like_a_made_one():
    found = distinct([(1, "n", ""), (2, "n~3", ""), (3, "n", "")])
    assert found == {1: "n", 2: "n~3", 3: "n~~3"}


def test_a_newcomer_renames_nobody():
    before = distinct([(1, "n", ""), (5, "n", "")])
    after = distinct([(1, "n", ""), (5, "n", ""), (7, "n", "")])
    assert {i: after[i] for i in before} == before


def test_cutting_leaves_no_half_character_and_no_half_escape():
    assert fit("é" * 200, "~1") == "é" * 126 + "~1"
    cut = fit("%2F" * 100, "~1")
    assert unquote(cut[:-2]).strip("/") == ""
    assert len(cut.encode()) <= LONGEST


def test_an_extension_is_not_doubled():
    assert with_extension("boot.iso", "iso") == ("boot", ".iso")
    assert with_extension("BOOT.ISO", "iso") == ("BOOT", ".ISO")
    assert with_extension("x", "raw.gz") == ("x", ".raw.gz")
    assert with_extension(".iso", "iso") == (".iso", ".iso")


def recorded_names():
    for recording, tag in (
        ("imagepool.info-oneadmin", "IMAGE"),
        ("marketapppool.info-oneadmin", "MARKETPLACEAPP"),
    ):
        body = (ONED / f"{recording}.response.xml").read_text(encoding="utf-8")
        (answer,), _ = xmlrpc.client.loads(body)
        yield [
            (int(i.findtext("ID")), i.findtext("NAME"))
            for i in ET.fromstring(answer[1])
            if i.tag == tag
        ]


def test_every_name_a_real_front_end_let_through():
    for objects in recorded_names():
        found = distinct((number, encode(name), "") for number, name in objects)
        assert len(set(found.values())) == len(objects)
        text = json.dumps(found, ensure_ascii=False)
        assert "\u202e" not in text
        names = dict(objects)
        if 74 in names:  # ".." and "."; NFC and NFD; by case only
            assert (found[74], found[75]) == ("%2E%2E", "%2E")
            assert found[78] != found[79]
            assert found[80] != found[81]
            assert found[1] == "tiny qcow2"
            assert found[23] == "tiny qcow2~23"
        else:
            assert found[11] == "Slash%2Fin name"
            assert (found[7], found[8]) == ("%2E%2E", "%2E")
