"""A boot profile: which parts of an image boots read, in order; and its form as JSON.

The form is described for others in docs/profiles.md. What is read in may be anybody's work, so
every number in it is checked and bounded.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from nebfs.blocks import SLOT_SIZE
from nebfs.errors import BadAnswer
from nebfs.model import Content, Revision
from nebfs.units import MIB

FORMAT = "nebfs-boot-profile"
VERSION = 1

LARGEST_DOCUMENT = 1 * MIB
"""Bytes of JSON: MOST_PARTS of the largest numbers take a quarter of it."""

MOST_PARTS = 4096
"""Ten times what a small Linux reads while it boots."""

MOST_SUMS = 64
"""Checksums in one profile: enough to tell another layout, and hashed in milliseconds."""

LARGEST = 512 * MIB
"""The most that one profile may have fetched."""

BOOTS = 8
"""How many of the last boots are remembered of each part, as bits of a byte."""

MOST_BOOTS = 1 << 32
"""Where counting ends."""

LATEST = 1 << 40
"""Seconds since the epoch: the latest time that is believed."""

_TEXT = 4096
_KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PASSING = re.compile(r"auth|cred|date|expir|key|pass|secret|sign|token", re.IGNORECASE)
"""Words in the names of query parameters that are secrets, or another's at each time."""
_DAY = re.compile(
    r"(?<!\d)20\d\d([-_.]?)[01]\d\1[0-3]\d([-_.T:]?[0-2]\d:?[0-5]\d(:?[0-5]\d)?)?(?!\d)"
)


@dataclass(frozen=True, slots=True)
class Part:
    """A range of bytes, and which of the last boots have read of it: bit 0 is the last one."""

    offset: int
    length: int
    boots: int = 1

    @property
    def end(self) -> int:
        """The offset of the first byte behind it."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class Profile:
    """`parts` are in the order in which they are read, those that several boots share first.

    `key` is the image's lineage, `image` its address for people, and `revision` the version that
    was read last. `boots` were recorded, the last at `recorded` (seconds since the epoch). `sums`
    are offsets of slots with the xxh3_64 of their bytes, by which another version is compared.
    """

    key: str
    image: str
    revision: Revision
    boots: int
    recorded: float
    parts: tuple[Part, ...]
    sums: tuple[tuple[int, int], ...] = ()

    @property
    def length(self) -> int:
        """How many bytes its parts have, counted as often as they are named."""
        return sum(part.length for part in self.parts)

    def slots(self) -> Iterator[int]:
        """Yield the slots that its parts touch, each once, in order."""
        seen: set[int] = set()
        for part in self.parts:
            for slot in range(part.offset // SLOT_SIZE, -(-part.end // SLOT_SIZE)):
                if slot not in seen:
                    seen.add(slot)
                    yield slot

    def record(self) -> dict[str, object]:
        """Return it as what JSON is made of."""
        version = self.revision
        return {
            "format": FORMAT,
            "version": VERSION,
            "id": self.key,
            "image": self.image,
            "size": version.size,
            "etag": version.etag,
            "modified": version.modified,
            "boots": self.boots,
            "recorded": self.recorded,
            "ranges": [[part.offset, part.length, part.boots] for part in self.parts],
            "checksums": [[offset, f"{digest:016x}"] for offset, digest in self.sums],
        }

    def encode(self) -> bytes:
        """Return it as a document."""
        return json.dumps(self.record()).encode()

    @classmethod
    def decode(cls, raw: bytes) -> Profile:
        """Return the profile in `raw`. Raises BadAnswer, saying what is wrong with it."""
        if len(raw) > LARGEST_DOCUMENT:
            raise BadAnswer("it is too long for a boot profile", limit=LARGEST_DOCUMENT)
        try:
            found = json.loads(raw)
        except (ValueError, RecursionError) as exc:
            raise BadAnswer("it is not JSON") from exc
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise BadAnswer("it is no boot profile")
        if found.get("version") != VERSION:
            raise BadAnswer("it is a boot profile of another version of nebfs")
        key = found.get("id")
        if not is_key(key):
            raise BadAnswer("its id is none")
        size = _number(found.get("size"), "size", 1)
        texts = [_text(found.get(name), name) for name in ("image", "etag", "modified")]
        recorded = found.get("recorded")
        if isinstance(recorded, bool) or not isinstance(recorded, (int, float)):
            raise BadAnswer("recorded is no time")
        if not 0 <= recorded < LATEST:  # no NaN is
            raise BadAnswer("recorded is no time")
        profile = cls(
            key=str(key),
            image=texts[0],
            revision=Revision(size, texts[1], texts[2]),
            boots=_number(found.get("boots"), "boots", 1, MOST_BOOTS),
            recorded=float(recorded),
            parts=tuple(_parts(found.get("ranges"), size)),
            sums=tuple(_sums(found.get("checksums"), size)),
        )
        if profile.length > LARGEST:
            raise BadAnswer("its ranges are more than a boot reads", limit=LARGEST)
        return profile


def lineage(content: Content) -> str:
    """Return what all versions of an image have in common, as 64 hex digits.

    That is where its bytes are, without what tells versions apart: no checksum, no version, and no
    date in the address, as several marketplaces have there; and without what says who asks, or
    until when he may. A view is of the same file. Two images that meet here by chance set each
    other's profile aside; worse cannot happen.
    """
    locator = content.locator
    facts = (locator.transport, _DAY.sub("*", locator.shown), *_query(locator.address))
    return hashlib.sha256("\0".join(facts).encode("utf-8", "surrogatepass")).hexdigest()


def _query(address: str) -> list[str]:
    """Return what the query of an address asks for."""
    try:
        asked = parse_qsl(urlsplit(address).query, keep_blank_values=True, max_num_fields=100)
    except ValueError:
        return []
    return [f"{name}={value}" for name, value in asked if not _PASSING.search(name)]


def allowance(size: int) -> int:
    """Return how many bytes may be fetched for a profile of an image of `size` bytes: somebody who
    reads more than a quarter does something else than booting.
    """
    return min(LARGEST, size // 4)


def is_key(key: object) -> bool:
    """Whether `key` is the id of a profile. It becomes a part of a file's name."""
    return isinstance(key, str) and _KEY.fullmatch(key) is not None


def _number(value: object, name: str, least: int, most: int = 1 << 62) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise BadAnswer(f"{name} is no number, or none that can be")
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or len(value) > _TEXT:
        raise BadAnswer(f"{name} is no text, or too long")
    return value


def _parts(found: object, size: int) -> Iterator[Part]:
    if not isinstance(found, list) or not found or len(found) > MOST_PARTS:
        raise BadAnswer("it has no ranges, or too many", limit=MOST_PARTS)
    for entry in found:
        if not isinstance(entry, list) or len(entry) != 3:
            raise BadAnswer("a range is not [offset, length, boots]")
        offset = _number(entry[0], "the offset of a range", 0, size - 1)
        length = _number(entry[1], "the length of a range", 1, size - offset)
        yield Part(offset, length, _number(entry[2], "the boots of a range", 1, (1 << BOOTS) - 1))


def _sums(found: object, size: int) -> Iterator[tuple[int, int]]:
    if not isinstance(found, list) or len(found) > MOST_SUMS:
        raise BadAnswer("it has no checksums, or too many", limit=MOST_SUMS)
    for entry in found:
        if not isinstance(entry, list) or len(entry) != 2:
            raise BadAnswer("a checksum is not [offset, digits]")
        offset = _number(entry[0], "the offset of a checksum", 0, size - 1)
        digits = entry[1]
        if offset % SLOT_SIZE or not isinstance(digits, str):
            raise BadAnswer("a checksum is not of a slot")
        if not re.fullmatch(r"[0-9a-f]{16}", digits, re.ASCII):
            raise BadAnswer("a checksum has 16 hex digits")
        yield offset, int(digits, 16)
