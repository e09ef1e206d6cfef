"""What should be there, in plain Python: places, apps, images, names, bytes and versions.

Nothing of nebfs is used here: what it promises is written down a second time, as short as it can
be. Times are seconds on the clock of whoever drives.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import random
import struct
from dataclasses import dataclass, field

SLOT = 128 << 10
CLUSTER = 64 << 10

ENCODED = {
    "alpine": "alpine",
    "debian": "debian",
    "a/b": "a%2Fb",
    "..": "%2E%2E",
    "100%": "100%25",
    "disk.raw": "disk.raw",
    "alpine~11": "alpine~11",
    "\u00e9t\u00e9": "\u00e9t\u00e9",
}
"""Names that people give, and what they are called in the mount."""

EXTENSIONS = {"raw": "raw", "qcow2": "qcow2", "gz": "raw.gz"}

SIZES = (1, 4096, SLOT - 1, SLOT, SLOT + 1, 300_000, 5 * SLOT, 1_500_000)


@dataclass(frozen=True, eq=False)
class Version:
    """Bytes that were published once. `disk` is what the raw face shows of them."""

    number: int
    kind: str
    data: bytes = field(repr=False)
    disk: bytes = field(repr=False)

    @property
    def md5(self) -> str:
        return hashlib.md5(self.data, usedforsecurity=False).hexdigest()


class Versions:
    """Makes versions; no two have the same number, nor (but for very short ones) the same bytes."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def make(self, kind: str, size: int) -> Version:
        """Make a version whose disk has `size` bytes: random ones, and every third slot zeros."""
        number = next(self._numbers)
        disk = bytearray(random.Random(number).randbytes(size))
        for at in range(2 * SLOT, size, 3 * SLOT):
            disk[at : at + SLOT] = bytes(len(disk[at : at + SLOT]))
        packed = {"raw": bytes, "gz": _gz, "qcow2": _qcow2}[kind](bytes(disk))
        return Version(number, kind, packed, bytes(disk))


def _gz(disk: bytes) -> bytes:
    return gzip.compress(disk, 1, mtime=0)


def _qcow2(disk: bytes) -> bytes:
    """An image as QEMU's docs/interop/qcow2.txt has it, version 2: the header, L1, one L2, data."""
    count = -(-len(disk) // CLUSTER)
    header = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, 16, len(disk), 0, 1, CLUSTER, 0, 0, 0, 0
    )
    entries, clusters = [], []
    for number in range(count):
        cluster = disk[number * CLUSTER : (number + 1) * CLUSTER]
        if any(cluster):
            entries.append((3 + len(clusters)) * CLUSTER)
            clusters.append(cluster.ljust(CLUSTER, b"\0"))
        else:
            entries.append(0)
    tables = [header, struct.pack(">Q", 2 * CLUSTER), struct.pack(f">{count}Q", *entries)]
    return b"".join(part.ljust(CLUSTER, b"\0") for part in tables) + b"".join(clusters)


@dataclass
class Thing:
    """An app or an image. `home` is its place; `current` is what is published at its address."""

    id: int
    name: str
    home: int
    current: Version
    with_md5: bool = False
    seen: bool = True
    """Whether the user of the mount may use it."""
    recorded: Version | None = None
    """Of which bytes the front-end's record speaks: silent changes are not in it."""
    revision: int = 0
    """Grows with each change of the record."""
    past: list[tuple[float, Version]] = field(default_factory=list)
    """What was published before, and until when."""
    missing: bool = False
    """Whether its bytes are gone."""

    @property
    def facts(self) -> tuple[object, ...]:
        """What of its record is about its bytes."""
        return (self.id, self.revision)

    def replace(self, version: Version, now: float) -> None:
        self.past.append((now, self.current))
        self.current = version

    def recent(self, now: float, window: float) -> set[Version]:
        """Return what was current at some moment of the last `window` seconds."""
        return {self.current} | {version for until, version in self.past if until > now - window}

    def ever(self) -> set[Version]:
        return {self.current} | {version for _, version in self.past}


@dataclass
class Place:
    """A marketplace or a datastore. `asks`: to list it its own service is asked, too."""

    id: int
    name: str
    asks: bool = False


@dataclass(frozen=True)
class Shown:
    """A thing as a listing shows it: what its record and its place said at that time. `blocked`:
    only that it exists is known.
    """

    thing: Thing
    name: str
    recorded: Version
    listed: Version
    blocked: bool = False

    @property
    def md5(self) -> str:
        """What was published about its bytes; or empty."""
        return self.recorded.md5 if self.thing.with_md5 else ""


@dataclass
class Listing:
    """The last good listing: by name of the place, by name of the thing. None: the place was never
    listed, as it has not answered yet.
    """

    marketplaces: dict[str, dict[str, Shown] | None] = field(default_factory=dict)
    datastores: dict[str, dict[str, Shown] | None] = field(default_factory=dict)


def called(wanted: list[tuple[int, str, str]]) -> dict[int, str]:
    """Name (id, stem, suffix): the lowest id has the plain name, the others carry their own."""
    names: dict[int, str] = {}
    for number, stem, suffix in sorted(wanted):
        if stem + suffix not in names.values():
            names[number] = stem + suffix
    for number, stem, suffix in sorted(wanted):
        if number not in names:
            tail = f"~{number}"
            while stem + tail + suffix in names.values():
                tail = "~" + tail
            names[number] = stem + tail + suffix
    return names


def stem_and_suffix(name: str, extension: str) -> tuple[str, str]:
    """Split what a file is called: an extension that the name has is not doubled."""
    suffix = f".{extension}"
    if name.lower().endswith(suffix) and len(name) > len(suffix):
        return name[: -len(suffix)], suffix
    return name, suffix


def raw_names(published: dict[str, str]) -> dict[str, str]:
    """Return the name on the raw face of each published file; `published`: name to extension."""
    files = sorted(published)
    wanted = [
        (n, stem_and_suffix(name, published[name])[0], ".raw") for n, name in enumerate(files)
    ]
    names = called(wanted)
    return {name: names[number] for number, name in enumerate(files)}


class Reference:
    """The truth, and of it what the mount should show."""

    def __init__(self) -> None:
        self.versions = Versions()
        self.marketplaces: dict[int, Place] = {}
        self.datastores: dict[int, Place] = {}
        self.apps: dict[int, Thing] = {}
        self.images: dict[int, Thing] = {}
        self.shown: Listing | None = None
        self._known: dict[int, tuple[object, ...]] = {}
        """The facts of each shown app of which it is known where its bytes are."""
        self._listed: set[int] = set()
        """The marketplaces that have answered since they are there."""

    def forget(self) -> None:
        """Take note that nothing was kept of what was shown."""
        self.shown = None
        self._known, self._listed = {}, set()

    def refreshed(self, *, services_answer: bool) -> None:
        """Take note that the front-end has answered, and whether the marketplaces' services did."""
        shown = Listing()
        known: dict[int, tuple[object, ...]] = {}
        listed = set()
        for place, name in _named(self.marketplaces):
            things = [a for a in self.apps.values() if a.home == place.id and a.seen]
            if services_answer or not place.asks:
                listed.add(place.id)
                known |= {thing.id: thing.facts for thing in things}
            else:
                listed |= {place.id} & self._listed
                kept = [t for t in things if self._known.get(t.id) == t.facts]
                known |= {thing.id: thing.facts for thing in kept}
            names = called([(t.id, ENCODED[t.name], "") for t in things])
            shown.marketplaces[name] = (
                {names[t.id]: _shown(t, names[t.id], blocked=t.id not in known) for t in things}
                if place.id in listed
                else None
            )
        for place, name in _named(self.datastores):
            things = [i for i in self.images.values() if i.home == place.id and i.seen]
            wanted = [
                (t.id, *stem_and_suffix(ENCODED[t.name], EXTENSIONS[t.current.kind]))
                for t in things
            ]
            names = called(wanted)
            shown.datastores[name] = {names[t.id]: _shown(t, names[t.id]) for t in things}
        self.shown, self._known, self._listed = shown, known, listed


def _named(places: dict[int, Place]) -> list[tuple[Place, str]]:
    names = called(
        [(place.id, ENCODED.get(place.name, place.name), "") for place in places.values()]
    )
    return [(place, names[place.id]) for place in places.values()]


def _shown(thing: Thing, name: str, *, blocked: bool = False) -> Shown:
    recorded = thing.recorded or thing.current
    return Shown(thing, name, recorded, thing.current, blocked=blocked)
