"""The documents are written by strangers: whatever is in them, good images are still listed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from nebfs.errors import BadAnswer
from nebfs.marketplaces.simplestreams import (
    MAX_DOCUMENTS,
    age,
    by_directory,
    read_index,
    read_products,
)

TEXT = st.text(st.characters(codec=None), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.just(10**40) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
ITEM = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("size", "sha256", "md5", "delta_base"), JSON),
        "ftype": st.sampled_from(["root.tar.xz", "squashfs", "a/b"]) | JSON,
        "path": st.sampled_from(["images/a/b/c/d/1/root", "../x", "/etc/passwd"]) | JSON,
    },
)
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("os", "release", "arch", "variant", "release_title"), JSON),
        "versions": JSON
        | st.dictionaries(
            st.just("20261121_05:24") | TEXT,
            JSON | st.fixed_dictionaries({"items": JSON | st.dictionaries(TEXT, ITEM | JSON)}),
            max_size=3,
        ),
    },
)


def make_product(*serials: str, **facts: object) -> dict:
    def items(serial: str) -> dict:
        path = f"images/debian/bookworm/amd64/default/{serial}/rootfs.tar.xz"
        return {"r": {"ftype": "root.tar.xz", "path": path, "size": 1, "sha256": "a" * 64}}

    return {**facts, "versions": {serial: {"items": items(serial)} for serial in serials}}


GOOD = make_product("20261121_05:24")


def products(**entries: object) -> bytes:
    return json.dumps({"format": "products:1.0", "products": entries}).encode()


def with_path(path: object, **more: object) -> bytes:
    item = {"ftype": "root.tar.xz", "path": path, **more}
    return products(one={"versions": {"1": {"items": {"x": item}}}})


@settings(deadline=None)
@given(entries=st.dictionaries(TEXT.filter(lambda key: key != "good"), ENTRY | JSON, max_size=4))
def test_the_good_image_among_any_others_is_read(entries):
    with capture_logs() as lines:
        found = read_products(products(**{**entries, "good": GOOD}))
    assert [one for one in found if one.id == "good"]
    assert len(found) + len(lines) == len(entries) + 1
    for product in found:
        product.id.encode()
        for version in product.versions:
            for item in version.items:
                parts = item.path.split("/")
                assert not {"", ".", ".."} & set(parts)
                item.path.encode()


@settings(deadline=None)
@given(document=JSON)
def test_whatever_is_no_list_is_a_bad_answer(document):
    body = json.dumps(document).encode()
    with pytest.raises(BadAnswer):
        read_products(body)
    with pytest.raises(BadAnswer):
        read_index(body)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[" * 100_000, b"\xff\xfe", b'{"a":'])
def test_what_is_not_json_is_a_bad_answer(body):
    with pytest.raises(BadAnswer):
        read_products(body)
    with pytest.raises(BadAnswer):
        read_index(body)


def test_a_number_that_python_refuses_costs_nobody_the_list():
    body = products(good=GOOD)[:-1] + b', "more": ' + b"9" * 5000 + b"}"
    assert [one.id for one in read_products(body)] == ["good"]


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/passwd",
        "images/../../x",
        "images/./x",
        "/etc/passwd",
        "//evil.example.org/x",
        "http://evil.example.org/x",
        "images//x",
        "images/",
        "images\\..\\x",
        "images/a\nb",
        "images/a\x00b",
        "images/\ud800",
        "x" * 2000,
        "",
        None,
        7,
        ["images/x"],
    ],
)
def test_a_path_that_may_lead_elsewhere_is_left_out(path):
    found = read_products(with_path(path))
    # Half of a surrogate pair becomes a question mark, and a path that nobody has.
    assert found == () or found[0].versions[0].items[0].path == "images/?"


def test_a_path_is_kept_as_it_is():
    (product,) = read_products(with_path("images/a b/20261121_05:24/50%25?x#y"))
    assert product.newest.items[0].path == "images/a b/20261121_05:24/50%25?x#y"


def test_the_newest_version_is_that_of_the_highest_serial_wherever_it_is_in_the_file():
    serials = ("20261121_13:00", "20261121_05:24", "20261122_05:24", "20251231_23:59")
    (product,) = read_products(products(one=make_product(*serials)))
    assert product.newest.serial == "20261122_05:24"
    assert [one.serial for one in product.versions] == sorted(serials)
    assert product.version("20261121_05:24").serial == "20261121_05:24"
    assert product.version("20000101_00:00") is None


def test_serials_of_other_servers_are_ordered_by_their_numbers():
    wanted = ["rolling", "20230107", "20230107.1", "20230107.2", "20230107.10", "20240101"]
    assert sorted(set(wanted), key=age) == wanted


def test_differences_to_other_files_are_left_out():
    assert read_products(with_path("images/a/x", delta_base="20261120_05:24")) == ()


def test_what_is_no_digest_is_no_checksum():
    sums = {"sha256": "A" * 64, "md5": "not one"}
    (product,) = read_products(with_path("images/a/x", **sums))
    (checksum,) = product.newest.items[0].checksums
    assert (checksum.algorithm, checksum.digest) == ("sha256", "a" * 64)


def test_facts_are_in_the_key_and_else_in_the_entry():
    entry = {**GOOD, "os": "Ubuntu", "release": "jammy", "arch": "amd64", "release_title": "22.04"}
    body = products(**{"debian:bookworm:arm64:cloud": entry, "com.ubuntu.cloud:x": entry})
    key, other = read_products(body)
    assert (key.os, key.release, key.arch, key.variant) == ("debian", "bookworm", "arm64", "cloud")
    assert (other.os, other.release, other.arch) == ("Ubuntu", "jammy", "amd64")
    assert (other.variant, other.title) == ("default", "22.04")


def test_thousands_of_broken_products_fill_no_log():
    with capture_logs() as lines:
        assert read_products(products(**{str(n): n for n in range(3000)})) == ()
    assert len(lines) == 21
    assert lines[-1]["count"] == 2980


def test_the_index_names_documents_of_images_and_of_nothing_else():
    entries = {
        "images": {"datatype": "image-downloads", "path": "streams/v1/images.json"},
        "again": {"datatype": "image-downloads", "path": "streams/v1/images.json"},
        "ids": {"datatype": "image-ids", "path": "streams/v1/ids.json"},
        "far": {"datatype": "image-downloads", "path": "http://evil.example.org/x.json"},
        "up": {"datatype": "image-downloads", "path": "../x.json"},
        "more": {"datatype": "image-downloads", "path": "streams/v1/more:x.json"},
        "odd": 7,
    }
    body = json.dumps({"index": entries}).encode()
    assert read_index(body) == ("streams/v1/images.json", "streams/v1/more:x.json")


def test_an_index_of_thousands_of_documents_is_bounded():
    entries = {str(n): {"datatype": "image-downloads", "path": f"{n}.json"} for n in range(3000)}
    with capture_logs() as lines:
        assert len(read_index(json.dumps({"index": entries}).encode())) == MAX_DOCUMENTS
    assert lines[0]["count"] == 3000 - MAX_DOCUMENTS


def test_a_product_is_found_by_where_its_versions_are():
    found = by_directory(read_products(products(good=GOOD)))
    assert {where: one.id for where, one in found.items()} == {
        "images/debian/bookworm/amd64/default": "good"
    }
