"""What an image of a container registry consists of: manifests, read with distrust.

A tag leads to a manifest (a configuration and layers, each by its digest), or to an index of one
manifest for each platform. Pure: the bytes of an answer in, records or an error out.
Source: the OCI image specification 1.1, and Docker's "Image Manifest Version 2, Schema 2", which
differs in its media types only.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from nebfs.errors import BadAnswer, Missing, Unsupported
from nebfs.model import Checksum

Json = object
"""Whatever json.loads() returns: each value is looked at before it is believed."""

_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_KINDS = {**dict.fromkeys(_INDEXES, "index"), **dict.fromkeys(_MANIFESTS, "manifest")}
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+"

ACCEPTED = ", ".join((*_MANIFESTS, *_INDEXES))
"""The Accept header that asks for what can be read here; without it registries give schema 1."""

MAX_LAYERS = 1000
"""Container tools themselves stop at 127."""
_MAX_VARIANTS = 1000

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_ATTESTS = "vnd.docker.reference.type"
"""The annotation of what is in an index and describes an image instead of being one."""
_NUMBERED = re.compile(r"v(\d{1,3})")
# What goes without saying (containerd's rules for platforms).
_VARIANTS = {"amd64": "v1", "arm": "v7", "arm64": "v8"}


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One blob of an image."""

    digest: str
    media_type: str = ""

    @property
    def checksum(self) -> Checksum:
        """The digest in our words."""
        algorithm, _, digest = self.digest.partition(":")
        return Checksum(algorithm, digest)

    @property
    def format(self) -> str:
        """What is in it, compression aside, by its media type; empty when that says nothing."""
        words = re.split(r"[.+/]", self.media_type.lower())
        if "encrypted" in words:
            return ""
        return next((name for name in ("tar", "json") if name in words), "")


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image of one platform. The layers are in order, the lowest first."""

    config: Descriptor | None
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on, in Go's words: ``linux``, ``arm``, ``v7``."""

    system: str
    architecture: str
    variant: str = ""

    @classmethod
    def of(cls, text: str) -> Platform:
        """Read ``linux/amd64`` or ``linux/arm/v7``."""
        system, _, rest = text.partition("/")
        architecture, _, variant = rest.partition("/")
        return cls(system, architecture, variant)

    def __str__(self) -> str:
        return "/".join(filter(None, (self.system, self.architecture, self.variant)))

    def rank(self, other: Platform) -> int | None:
        """Say how well an image for `other` suits this platform; None: not at all.

        Newer variants run what was made for older ones.
        """
        if (self.system, self.architecture) != (other.system, other.architecture):
            return None
        usual = _VARIANTS.get(self.architecture, "")
        mine, theirs = self.variant or usual, other.variant or usual
        mine_number, their_number = _NUMBERED.fullmatch(mine), _NUMBERED.fullmatch(theirs)
        if mine_number is None or their_number is None:
            return 0 if mine == theirs else None
        number = int(their_number[1])
        return number if number <= int(mine_number[1]) else None


@dataclass(frozen=True, slots=True)
class Index:
    """Manifests (or further indexes) by platform; None where none is said."""

    variants: tuple[tuple[Platform | None, str], ...]


def read(body: bytes, content_type: str) -> Manifest | Index:
    """Read what a registry answers for a tag or a digest.

    Raises BadAnswer, or Unsupported for Docker's schema 1 and for what is no image at all.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise BadAnswer("the manifest is not JSON", length=len(body)) from exc
    if not isinstance(document, dict):
        raise BadAnswer("the manifest is not an object")
    said = _text(document.get("mediaType"))
    announced = content_type.partition(";")[0].strip().lower()
    if document.get("schemaVersion") == 1 or said.startswith(_SCHEMA_1):
        raise Unsupported("the image's manifest is of Docker's schema 1: push the image again")
    # The same bytes must not be one thing to us and another one to whoever checks images.
    if "manifests" in document and ("layers" in document or "config" in document):
        raise BadAnswer("the manifest is an index and an image at once")
    if said in _KINDS and announced in _KINDS and _KINDS[said] != _KINDS[announced]:
        raise BadAnswer("the manifest is of another type than the registry says")
    kind = _KINDS.get(said) or _KINDS.get(announced)
    if kind is None and not said:
        kind = "index" if "manifests" in document else "manifest" if "layers" in document else None
    if kind is None:
        raise Unsupported("the manifest is of a type that nebfs does not know", type=said[:100])
    return _index(document) if kind == "index" else _manifest(document)


def chosen(index: Index, platform: Platform) -> str:
    """Return the digest of the manifest for `platform`. Raises Missing, which names the others."""
    best: tuple[int, str] | None = None
    for theirs, digest in index.variants:
        rank = platform.rank(theirs) if theirs is not None else None
        if rank is not None and (best is None or rank > best[0]):
            best = rank, digest
    if best is not None:
        return best[1]
    if len(index.variants) == 1 and index.variants[0][0] is None:
        return index.variants[0][1]
    others = sorted({str(theirs) for theirs, _ in index.variants if theirs is not None})
    raise Missing(
        "the image is not there for this platform",
        platform=platform,
        there=" ".join(others)[:400] or "none",
    )


def is_digest(text: str) -> bool:
    """Whether `text` is a digest of a kind that can be checked."""
    return _DIGEST.fullmatch(text) is not None


def check(body: bytes, digest: str) -> None:
    """Raise BadAnswer unless `digest` is that of `body`."""
    algorithm, _, wanted = digest.partition(":")
    if hashlib.new(algorithm, body).hexdigest() != wanted:
        raise BadAnswer("the manifest differs from its digest", digest=digest)


def digest_of(body: bytes) -> str:
    """Return the digest by which registries know `body`."""
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def _manifest(document: dict[str, Json]) -> Manifest:
    layers = _list(document.get("layers"), MAX_LAYERS)
    config = document.get("config")
    return Manifest(
        None if config is None else _descriptor(config),
        tuple(_descriptor(layer) for layer in layers),
    )


def _descriptor(value: Json) -> Descriptor:
    """Read one; an image with a blob that cannot be named would be shown with a hole in it."""
    if not isinstance(value, dict):
        raise BadAnswer("the manifest names a blob without a digest")
    digest = _text(value.get("digest"))
    if not is_digest(digest):
        raise BadAnswer("the manifest names a blob by something else than a digest")
    return Descriptor(digest, _text(value.get("mediaType")))


def _index(document: dict[str, Json]) -> Index:
    found: list[tuple[Platform | None, str]] = []
    for entry in _list(document.get("manifests"), _MAX_VARIANTS):
        if not isinstance(entry, dict):
            continue
        digest = _text(entry.get("digest"))
        kind = _text(entry.get("mediaType"))
        notes = entry.get("annotations")
        attests = isinstance(notes, dict) and _ATTESTS in notes
        # One bad entry is that platform's trouble.
        if is_digest(digest) and not attests and (not kind or kind in _KINDS):
            found.append((_platform(entry.get("platform")), digest))
    return Index(tuple(one for one in found if one[0] != Platform("unknown", "unknown")))


def _platform(value: Json) -> Platform | None:
    if not isinstance(value, dict):
        return None
    system, architecture = _text(value.get("os")), _text(value.get("architecture"))
    if not system or not architecture:
        return None
    return Platform(system, architecture, _text(value.get("variant")))


def _list(value: Json, limit: int) -> Sequence[Json]:
    if not isinstance(value, list):
        raise BadAnswer("the manifest has no list where one belongs")
    if len(value) > limit:
        raise BadAnswer("the manifest is longer than any image's", count=len(value))
    return value


def _text(value: Json) -> str:
    """Return a word; what has blanks or control characters in it is none."""
    plain = isinstance(value, str) and len(value) <= 255 and value.isascii() and value.isprintable()
    return value if plain and isinstance(value, str) and " " not in value else ""
