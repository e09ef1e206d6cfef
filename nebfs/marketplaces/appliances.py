"""The appliance service's JSON, read with distrust: the catalogue as frozen records.

Source: the answers of OpenNebula's appmarket server to ``GET /appliance``. Absent keys are common
and entries of several ages live side by side, so an optional value of a wrong type counts as
absent, and an appliance that cannot be used at all is skipped with a line in the log.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass

import structlog

from nebfs.errors import BadAnswer
from nebfs.marketplaces.record import checksums
from nebfs.model import AppType, Checksum

log = structlog.get_logger()

Json = object
"""Whatever json.loads() returns: each value is looked at before it is believed."""

# UUIDs today, 24 hexadecimal digits in old entries. It becomes a part of URLs: nothing else may.
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")
# More than 64-bit sizes need; Python itself refuses numbers of more than 4300 digits, and with
# them the whole document.
_MAX_DIGITS = 20
_LARGEST = (1 << 63) - 1
# A broken catalogue of thousands must not fill the log at every refresh.
_MAX_LINES = 20

_TYPES = {
    "IMAGE": AppType.IMAGE,
    "VMTEMPLATE": AppType.VMTEMPLATE,
    "SERVICE_TEMPLATE": AppType.SERVICE_TEMPLATE,
}


@dataclass(frozen=True, slots=True)
class ApplianceFile:
    """One of an appliance's `files`. `size` is the exact virtual size in bytes where it is said."""

    name: str = ""
    offered: bool = False
    """Whether the service would answer with bytes: it needs a url, and a size that is not 0."""
    type: str = ""
    dev_prefix: str = ""
    driver: str = ""
    format: str = ""
    size: int | None = None
    checksums: tuple[Checksum, ...] = ()


@dataclass(frozen=True, slots=True)
class Appliance:
    """One entry of the catalogue. `published` is the entry itself, as JSON text."""

    id: str
    name: str
    published: str
    version: str = ""
    type: AppType = AppType.IMAGE
    format: str = ""
    created: int = 0
    publisher: str = ""
    short_description: str = ""
    tags: tuple[str, ...] = ()
    architecture: str = ""
    hypervisor: str = ""
    template: str = ""
    disks: tuple[str, ...] = ()
    roles: tuple[tuple[str, str], ...] = ()
    files: tuple[ApplianceFile, ...] = ()


class _Unusable(ValueError):
    """Why an entry cannot be used."""


def read_catalogue(body: bytes) -> tuple[Appliance, ...]:
    """Return the appliances in `body`, in its order. Raises BadAnswer when it is no catalogue.

    Call it in a worker thread: the public catalogue is about a megabyte of JSON.
    """
    try:
        document = json.loads(
            body, parse_int=_number, parse_float=_fraction, parse_constant=lambda _: None
        )
    except (ValueError, RecursionError) as exc:
        raise BadAnswer("the marketplace's answer is not JSON", length=len(body)) from exc
    entries = document.get("appliances") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise BadAnswer("the marketplace's answer is not a catalogue", length=len(body))
    found: dict[str, Appliance] = {}
    skipped = 0
    for position, entry in enumerate(entries):
        try:
            appliance = _appliance(entry)
            if appliance.id in found:
                raise _Unusable("an appliance before it has the same id")
            found[appliance.id] = appliance
        except (_Unusable, RecursionError) as exc:
            skipped += 1
            if skipped <= _MAX_LINES:
                log.warning(
                    "appliance.skipped", position=position, name=_name(entry), reason=str(exc)
                )
    if skipped > _MAX_LINES:
        log.warning("appliance.skipped_more", count=skipped - _MAX_LINES)
    return tuple(found.values())


def _appliance(entry: Json) -> Appliance:
    if not isinstance(entry, dict):
        raise _Unusable("it is not an object")
    number = entry.get("_id")
    identity = _text(number.get("$oid") if isinstance(number, dict) else number)
    if not _ID.fullmatch(identity):
        raise _Unusable("its id is missing or not usable in a URL")
    name = _text(entry.get("name"))
    if not name:
        raise _Unusable("it has no name")
    kind = _text(entry.get("type")) or "IMAGE"
    if kind not in _TYPES:
        raise _Unusable("its type is not known")
    files = entry.get("files")
    if files is not None and not isinstance(files, list):
        raise _Unusable("its files are not a list")
    return Appliance(
        id=identity,
        name=name,
        published=_clean(json.dumps(entry, ensure_ascii=False)),
        version=_text(entry.get("version")),
        type=_TYPES[kind],
        format=_text(entry.get("format")),
        created=_size(entry.get("creation_time")) or 0,
        publisher=_text(entry.get("publisher")),
        short_description=_text(entry.get("short_description")),
        tags=_texts(entry.get("tags")),
        architecture=_text(entry.get("os-arch")),
        hypervisor=_text(entry.get("hypervisor")),
        template=_text(entry.get("opennebula_template")),
        disks=_texts(entry.get("disks")),
        roles=_roles(entry.get("roles")),
        # Not filtered: the place in the list is what the download route counts by.
        files=tuple(_file(one) for one in files or ()),
    )


def _file(entry: Json) -> ApplianceFile:
    if not isinstance(entry, dict):
        return ApplianceFile()
    sums = entry.get("checksum")
    sums = sums if isinstance(sums, dict) else {}
    size = _size(entry.get("size"))
    return ApplianceFile(
        name=_text(entry.get("name")),
        offered=bool(_text(entry.get("url"))) and size != 0,
        type=_text(entry.get("type")),
        dev_prefix=_text(entry.get("dev_prefix")),
        driver=_text(entry.get("driver")),
        format=_text(entry.get("format")),
        size=size,
        checksums=checksums(
            {
                "sha256": _text(sums.get("sha256")),
                "md5": _text(sums.get("md5")) or _text(entry.get("md5")),
            }
        ),
    )


def _roles(value: Json) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict):  # an unused one is written as an empty list
        return ()
    return tuple((_clean(k), _text(v)) for k, v in value.items() if _text(v))


def _texts(value: Json) -> tuple[str, ...]:
    return tuple(filter(None, map(_text, value))) if isinstance(value, list) else ()


def _text(value: Json) -> str:
    return _clean(value) if isinstance(value, str) else ""


def _clean(text: str) -> str:
    # JSON can hold half of a surrogate pair, which can be neither a file name nor saved.
    return text.encode("utf-8", "replace").decode("utf-8")


def _size(value: Json) -> int | None:
    """Return a whole number that is not negative; very old entries have sizes as text."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < _MAX_DIGITS:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= _LARGEST else None


def _name(entry: Json) -> str:
    return _text(entry.get("name"))[:80] if isinstance(entry, dict) else ""


def _number(digits: str) -> int | None:
    return int(digits) if len(digits) <= _MAX_DIGITS else None


def _fraction(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None
