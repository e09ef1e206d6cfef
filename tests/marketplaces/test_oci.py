"""Manifests, indexes and names of container images, read with distrust."""

from __future__ import annotations

import hashlib
import json

import pytest

from nebfs.errors import BadAnswer, Missing, Unsupported
from nebfs.marketplaces.oci import (
    Descriptor,
    Index,
    Manifest,
    Platform,
    check,
    chosen,
    digest_of,
    is_digest,
    read,
)
from nebfs.marketplaces.oci_names import is_repository, name_in, registry_at, source_of
from nebfs.model import Checksum, Marketplace, Template

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
OWN = "http://registry.example.org:5000"


def manifest(layers=(A, B), **changes) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": C},
        "layers": [
            {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": one}
            for one in layers
        ],
    }
    return json.dumps({k: v for k, v in {**document, **changes}.items() if v is not None}).encode()


def index(*variants: tuple[str, str], **changes) -> bytes:
    entries = []
    for text, digest in variants:
        system, architecture, *variant = text.split("/")
        platform = {"os": system, "architecture": architecture}
        platform |= {"variant": variant[0]} if variant else {}
        entries.append({"mediaType": OCI_MANIFEST, "digest": digest, "platform": platform})
    return json.dumps(
        {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries, **changes}
    ).encode()


# --- manifests ---


@pytest.mark.parametrize("kind", [OCI_MANIFEST, DOCKER_MANIFEST])
@pytest.mark.parametrize("said", [True, False])
def test_a_manifest_by_its_own_word_or_the_registrys(kind, said):
    body = manifest(mediaType=kind if said else None)
    for content_type in (kind, f"{kind}; charset=utf-8", "application/octet-stream", ""):
        found = read(body, content_type)
        assert isinstance(found, Manifest)
        assert [one.digest for one in found.layers] == [A, B]
        assert found.config.digest == C
        assert found.config.format == "json"


@pytest.mark.parametrize("kind", [OCI_INDEX, DOCKER_LIST])
def test_an_index_of_either_kind(kind):
    body = index(("linux/amd64", A), ("linux/arm64/v8", B), mediaType=kind)
    expected = ((Platform("linux", "amd64"), A), (Platform("linux", "arm64", "v8"), B))
    assert read(body, kind) == Index(expected)
    assert read(index(("linux/amd64", A), mediaType=""), "") == Index(expected[:1])


def test_what_only_describes_an_image_is_not_one():
    entries = json.loads(index(("linux/amd64", A), ("unknown/unknown", B)))["manifests"]
    entries.append(
        {**entries[0], "digest": C, "annotations": {"vnd.docker.reference.type": "attestation"}}
    )
    assert read(index(manifests=entries), OCI_INDEX) == Index(((Platform("linux", "amd64"), A),))


@pytest.mark.parametrize(
    "entry",
    [None, 7, {}, {"digest": "md5:1"}, {"digest": A, "mediaType": "text/plain"}, {"digest": [A]}],
)
def test_a_bad_entry_of_an_index_is_that_platforms_trouble(entry):
    good = json.loads(index(("linux/amd64", A)))["manifests"]
    assert read(index(manifests=[entry, *good]), "") == Index(((Platform("linux", "amd64"), A),))


@pytest.mark.parametrize(
    "document",
    [
        {"schemaVersion": 1, "name": "x", "tag": "y", "fsLayers": [], "history": []},
        {"mediaType": "application/vnd.docker.distribution.manifest.v1+prettyjws"},
    ],
)
def test_schema_1_is_refused_by_name(document):
    with pytest.raises(Unsupported, match="schema 1"):
        read(json.dumps(document).encode(), "")


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"", BadAnswer, "JSON"),
        (b"<html>", BadAnswer, "JSON"),
        (b"[" * 100_000, BadAnswer, "JSON"),
        (b'{"size": ' + b"9" * 5000 + b"}", BadAnswer, "JSON"),
        (b"\xff\xfe", BadAnswer, "JSON"),
        (b"[]", BadAnswer, "object"),
        (b"{}", Unsupported, "type"),
        (b'{"mediaType": "application/vnd.cncf.something"}', Unsupported, "type"),
        (manifest(layers=("../../etc/passwd",)), BadAnswer, "digest"),
        (manifest(layers=("sha256:" + "A" * 64,)), BadAnswer, "digest"),
        (manifest(layers=("sha256:" + "a" * 64 + "\n",)), BadAnswer, "digest"),
        (manifest(layers=("sha1:" + "a" * 40,)), BadAnswer, "digest"),
        (manifest(layers=(A,) * 1001), BadAnswer, "longer"),
        (manifest(config="x"), BadAnswer, "digest"),
        (json.dumps({"mediaType": OCI_MANIFEST, "layers": {}}).encode(), BadAnswer, "list"),
        (json.dumps({"mediaType": OCI_INDEX}).encode(), BadAnswer, "list"),
        # The same bytes as two different things (CVE-2021-41190).
        (manifest(manifests=[]), BadAnswer, "at once"),
        (index(("linux/amd64", A), layers=[]), BadAnswer, "at once"),
    ],
)
def test_what_is_no_image_is_said_to_be_none(body, kind, words):
    with pytest.raises(kind, match=words):
        read(body, "")


def test_a_manifest_is_what_the_registry_says_it_is():
    with pytest.raises(BadAnswer, match="another type"):
        read(manifest(), OCI_INDEX)
    with pytest.raises(BadAnswer, match="another type"):
        read(index(("linux/amd64", A)), DOCKER_MANIFEST)


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        ("application/vnd.oci.image.layer.v1.tar", "tar"),
        ("application/vnd.oci.image.layer.v1.tar+zstd", "tar"),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", "tar"),
        ("application/vnd.docker.container.image.v1+json", "json"),
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", ""),
        ("application/octet-stream", ""),
        ("", ""),
    ],
)
def test_the_format_is_told_by_the_media_type(media_type, expected):
    assert Descriptor(A, media_type).format == expected


def test_digests_of_both_kinds():
    long = "sha512:" + hashlib.sha512(b"x").hexdigest()
    assert is_digest(long)
    assert Descriptor(long).checksum == Checksum("sha512", long.partition(":")[2])
    check(b"x", long)
    check(b"x", digest_of(b"x"))
    with pytest.raises(BadAnswer, match="differs"):
        check(b"y", long)


# --- the platform ---


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("linux/amd64", A),
        ("linux/amd64/v1", A),
        ("linux/amd64/v3", B),
        ("linux/arm64", C),
        ("linux/arm64/v8", C),
        ("linux/arm/v7", "sha256:" + "7" * 64),
        ("linux/arm", "sha256:" + "7" * 64),
        ("linux/arm/v6", "sha256:" + "6" * 64),
        ("linux/s390x", "sha256:" + "3" * 64),
    ],
)
def test_the_best_variant_that_runs_is_chosen(wanted, expected):
    found = read(
        index(
            ("windows/amd64", "sha256:" + "9" * 64),
            ("linux/amd64", A),
            ("linux/amd64/v3", B),
            ("linux/amd64/v4", "sha256:" + "4" * 64),
            ("linux/arm/v6", "sha256:" + "6" * 64),
            ("linux/arm/v7", "sha256:" + "7" * 64),
            ("linux/arm64/v8", C),
            ("linux/arm64/v9", "sha256:" + "9" * 64),
            ("linux/s390x", "sha256:" + "3" * 64),
        ),
        "",
    )
    assert chosen(found, Platform.of(wanted)) == expected


@pytest.mark.parametrize("wanted", ["linux/riscv64", "linux/arm/v5", "linux/arm/soft"])
def test_a_platform_that_is_not_there_is_missing_and_the_others_are_named(wanted):
    found = read(index(("linux/amd64", A), ("linux/arm/v6", B)), "")
    with pytest.raises(Missing, match="linux/amd64 linux/arm/v6"):
        chosen(found, Platform.of(wanted))


def test_the_only_manifest_of_an_index_without_platforms_is_it():
    plain = [{"mediaType": OCI_MANIFEST, "digest": A}]
    assert chosen(read(index(manifests=plain), ""), Platform.of("linux/amd64")) == A
    with pytest.raises(Missing):
        chosen(read(index(manifests=plain * 2), ""), Platform.of("linux/amd64"))
    with pytest.raises(Missing, match="none"):
        chosen(read(index(), ""), Platform.of("linux/amd64"))


# --- names ---


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("docker://alpine?size=2048&filesystem=ext4", "hub library/alpine latest"),
        ("docker://alpine?size=1&tag=3.20", "hub library/alpine 3.20"),
        ("docker://grafana/grafana?tag=", "hub grafana/grafana latest"),
        ("docker://docker.io/alpine", "hub library/alpine latest"),
        ("docker://index.docker.io/a/b", "hub a/b latest"),
        ("docker://registry.example.org:5000/demo/app?size=1", f"{OWN} demo/app latest"),
        ("docker://REGISTRY.example.org:5000/tiny", f"{OWN} tiny latest"),
        ("docker://quay.io/a/b/c", "https://quay.io a/b/c latest"),
        ("docker://localhost/a", "https://localhost a latest"),
        ("docker://[::1]:5000/a", "https://[::1]:5000 a latest"),
    ],
)
def test_a_source_names_registry_repository_and_tag(source, expected):
    name = name_in(source, OWN, "hub")
    assert f"{name.registry} {name.repository} {name.tag}" == expected


def test_a_registry_without_a_dot_is_known_as_the_marketplaces_own():
    assert name_in("docker://registry/a", "http://user:pw@registry", "hub").registry == (
        "http://user:pw@registry"
    )
    assert name_in("docker://registry/a", OWN, "hub").repository == "registry/a"


@pytest.mark.parametrize(
    "source",
    [
        "docker://../../etc/passwd",
        "docker://registry.example.org:5000/../v2/_catalog",
        "docker://registry.example.org:5000/a//b",
        "docker://registry.example.org:5000/",
        "docker://registry.example.org:5000",
        "docker://quay.io",
        "docker://a/%2e%2e/b",
        "docker://Alpine",
        "docker://alpine?tag=../x",
        "docker://alpine?tag=a%0d%0ab",
        "docker://alpine?tag=" + "x" * 129,
        "docker://user:secret@quay.io/a",
        "docker://evil.example.org\\@quay.io/a",
        "docker://" + "a" * 300,
        "docker://a.b:123456/c",
        "dockerfile://x",
        "docker://x?" + "&".join(f"a{n}=1" for n in range(200)),
    ],
)
def test_what_is_not_spelled_as_a_name_is_none(source):
    with pytest.raises(ValueError, match=r"\w") as caught:
        name_in(source, OWN, "hub")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["a", "a.b", "a__b", "a--b/c_d", "0", "library/alpine"])
def test_names_of_repositories(text):
    assert is_repository(text)


@pytest.mark.parametrize("text", ["", "/", "a/", "/a", "a..b", "a___b", ".a", "a:b", "a b", "é"])
def test_names_that_no_repository_has(text):
    assert not is_repository(text)


def test_the_source_that_opennebula_would_record():
    place = Marketplace(1, "x", template=Template((("IMAGE_SIZE_MB", "512"), ("FORMAT", "qcow2"))))
    assert source_of("host:5000/a/b", place) == (
        "docker://host:5000/a/b?size=512&filesystem=ext4&format=qcow2"
    )


@pytest.mark.parametrize(
    "address",
    ["", "x", "ftp://x", "http://", "http://[::1", "http://h:x", "http://h/path", "http://h/?a=b"],
)
def test_an_address_that_is_no_registrys(address):
    with pytest.raises(Unsupported, match="BASE_URL"):
        registry_at(address, "BASE_URL", Marketplace(1, "x"))


def test_a_registrys_address_loses_its_slash():
    assert registry_at("HTTP://h:5000/", "BASE_URL", Marketplace(1, "x")) == "http://h:5000"
