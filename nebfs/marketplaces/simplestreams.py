"""Simplestreams: the documents in which a server of container images lists them, with distrust.

``streams/v1/index.json`` (format ``index:1.0``) names the documents of products, and those (format
``products:1.0``) hold products, their versions by serial, and the files of each version. Paths are
relative to the server's address. Source: the documents of images.linuxcontainers.org, and what the
clients of LXC and Incus read of them. What cannot be used is left out, with a line in the log.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import structlog

from nebfs.errors import BadAnswer
from nebfs.marketplaces.record import checksums
from nebfs.model import Checksum

log = structlog.get_logger()

Json = object
"""Whatever json.loads() returns: each value is looked at before it is believed."""

MAX_DOCUMENTS = 8
"""How many documents of products an index may lead to; servers of images have one or two."""

_DOWNLOADS = "image-downloads"
_LONGEST_PATH = 1024
_SERIAL = re.compile(r"[0-9A-Za-z][0-9A-Za-z._:-]{0,63}")
_NUMBER = re.compile(r"[0-9]+")
_KIND = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")
# More than 64-bit sizes need; Python itself refuses numbers of more than 4300 digits, and with
# them the whole document.
_MAX_DIGITS = 20
# A broken index of thousands must not fill the log at every refresh.
_MAX_LINES = 20


@dataclass(frozen=True, slots=True)
class Item:
    """One file of a version. `path` is relative to the server's address and leads nowhere else."""

    kind: str
    """Its ftype, such as ``root.tar.xz``."""
    path: str
    size: int | None = None
    checksums: tuple[Checksum, ...] = ()


@dataclass(frozen=True, slots=True)
class Version:
    """One build of a product."""

    serial: str
    items: tuple[Item, ...]

    def item(self, *kinds: str) -> Item | None:
        """Return the file of the first of `kinds` that there is."""
        found = {item.kind: item for item in self.items}
        return next((found[kind] for kind in kinds if kind in found), None)


@dataclass(frozen=True, slots=True)
class Product:
    """One image: a release of a distribution for an architecture, in a variant."""

    id: str
    """Its key, such as ``debian:bookworm:amd64:default``."""
    os: str = ""
    release: str = ""
    arch: str = ""
    variant: str = ""
    title: str = ""
    versions: tuple[Version, ...] = field(default=(), repr=False)
    """The oldest first, by serial; never empty."""

    @property
    def newest(self) -> Version:
        """The version of the highest serial: the order in the file says nothing."""
        return self.versions[-1]

    def version(self, serial: str) -> Version | None:
        """Return the version of that serial, if it is still there."""
        return next((one for one in self.versions if one.serial == serial), None)


def read_index(body: bytes) -> tuple[str, ...]:
    """Return the paths of the documents of products. Raises BadAnswer when there are none."""
    entries = _object(_decoded(body).get("index"))
    paths = [
        _path(_object(entry).get("path"))
        for entry in entries.values()
        if _object(entry).get("datatype") == _DOWNLOADS
    ]
    usable = tuple(dict.fromkeys(path for path in paths if path))
    if not usable:
        raise BadAnswer("the index names no list of images", length=len(body))
    if len(usable) > MAX_DOCUMENTS:
        log.warning("simplestreams.documents_left_out", count=len(usable) - MAX_DOCUMENTS)
    return usable[:MAX_DOCUMENTS]


def read_products(body: bytes) -> tuple[Product, ...]:
    """Return the products in `body` that have a version. Raises BadAnswer when it is no list.

    Call it in a worker thread: the public list is some megabytes of JSON.
    """
    document = _decoded(body)
    entries = document.get("products")
    if not isinstance(entries, dict):
        raise BadAnswer("the marketplace's answer is not a list of images", length=len(body))
    found: list[Product] = []
    skipped = 0
    for key, entry in entries.items():
        product = _product(key, entry)
        if product is not None:
            found.append(product)
            continue
        skipped += 1
        if skipped <= _MAX_LINES:
            log.warning("simplestreams.product_skipped", product=_text(key))
    if skipped > _MAX_LINES:
        log.warning("simplestreams.products_skipped_more", count=skipped - _MAX_LINES)
    return tuple(found)


def by_directory(products: Iterable[Product]) -> Mapping[str, Product]:
    """Return the products by the directories in which their versions are."""
    found: dict[str, Product] = {}
    for product in products:
        for version in product.versions:
            for item in version.items:
                found.setdefault(directory_of(item.path), product)
    return found


def directory_of(path: str) -> str:
    """Return where the versions of a product are: the path without the serial and the file."""
    return "/".join(path.split("/")[:-2])


def age(serial: str) -> tuple[tuple[int, ...], str]:
    """Return what orders serials: ``20261121_05:24`` comes before ``20261121_13:00``."""
    return tuple(int(digits) for digits in _NUMBER.findall(serial)), serial


def _product(key: str, entry: Json) -> Product | None:
    facts = _object(entry)
    versions = sorted(_versions(facts.get("versions")), key=lambda version: age(version.serial))
    name = _text(key)
    if not name or not versions:
        return None
    # The servers of LXC say these twice; the key is what OpenNebula reads.
    words = name.split(":") if name.count(":") == 3 else ["", "", "", ""]
    return Product(
        id=name,
        os=words[0] or _text(facts.get("os")),
        release=words[1] or _text(facts.get("release")),
        arch=words[2] or _text(facts.get("arch")),
        variant=words[3] or _text(facts.get("variant")) or "default",
        title=_text(facts.get("release_title")),
        versions=tuple(versions),
    )


def _versions(value: Json) -> Iterator[Version]:
    for serial, entry in _object(value).items():
        if not _SERIAL.fullmatch(serial):
            continue
        found = map(_item, _object(_object(entry).get("items")).values())
        items = tuple(item for item in found if item is not None)
        if items:
            yield Version(serial, items)


def _item(entry: Json) -> Item | None:
    facts = _object(entry)
    kind, path = _text(facts.get("ftype")), _path(facts.get("path"))
    # A difference is of no use without the file that it is a difference to.
    if not path or not _KIND.fullmatch(kind) or "delta_base" in facts:
        return None
    return Item(
        kind=kind,
        path=path,
        size=_size(facts.get("size")),
        checksums=checksums({"sha256": _text(facts.get("sha256")), "md5": _text(facts.get("md5"))}),
    )


def _path(value: Json) -> str:
    """Return a path that stays below the server's address, or an empty text."""
    path = _text(value)
    if len(path) > _LONGEST_PATH or not path.isprintable() or "\\" in path:
        return ""
    # An empty part is also what an absolute path or another server's address would have.
    return path if all(part not in {"", ".", ".."} for part in path.split("/")) else ""


def _decoded(body: bytes) -> Mapping[str, Json]:
    try:
        document = json.loads(body, parse_int=_whole, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as exc:
        raise BadAnswer("the marketplace's answer is not JSON", length=len(body)) from exc
    return _object(document)


def _whole(digits: str) -> int | None:
    return int(digits) if len(digits) <= _MAX_DIGITS else None


def _object(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, dict) else {}


def _text(value: Json) -> str:
    # JSON can hold half of a surrogate pair, which can be neither a file name nor saved.
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else ""


def _size(value: Json) -> int | None:
    usable = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
    return value if usable and isinstance(value, int) else None
