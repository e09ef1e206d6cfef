"""What an answer may be: bytes of one version, or an error that there is a reason for."""

from __future__ import annotations

import errno
from collections import Counter
from dataclasses import dataclass, field

from tests.promises.model.reference import EXTENSIONS, Shown, Thing, Version, stem_and_suffix

REVALIDATED = 61.0
"""Seconds for which what a place said of an image is believed when it is opened (60), and one."""

REMEMBERED = 30.0
"""Seconds for which a failure may go on to be answered from memory: 10 in the prober, 10 in the
tree, 5 in the kernel, and 5 that one of them may be late."""

TROUBLES = frozenset({errno.EIO, errno.ETIMEDOUT})
"""What is said of a place that does not answer as it should."""

GONE = frozenset({errno.ENOENT, errno.ESTALE, errno.EIO})


class WrongError(AssertionError):
    """A promise was broken."""


@dataclass
class Tally:
    """What happened in all histories together."""

    steps: int = 0
    histories: int = 0
    rules: Counter[str] = field(default_factory=Counter)
    reads: int = 0
    bytes: int = 0
    opens: int = 0
    listings: int = 0
    cancelled: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def error(self, exc: OSError) -> None:
        self.errors[errno.errorcode.get(exc.errno or 0, str(exc.errno))] += 1

    def __str__(self) -> str:
        rules = ", ".join(f"{name} {count}" for name, count in self.rules.most_common())
        errors = ", ".join(f"{name} {count}" for name, count in self.errors.most_common())
        return (
            f"{self.steps} steps in {self.histories} histories: {rules}\n"
            f"{self.opens} opens, {self.listings} listings, {self.reads} reads that were answered, "
            f"{self.bytes} bytes compared, {self.cancelled} reads cancelled\n"
            f"errors, each with a reason: {errors or 'none'}"
        )


@dataclass
class Weather:
    """What is wrong now, and when something was last wrong."""

    bad: bool = False
    """Whether the place of the bytes does not answer as it should."""
    bad_until: float = -1e9
    disk_bad_until: float = -1e9
    """When the cache disk refused something last."""
    crowded: bool = False
    """Whether pins leave little room in the cache."""

    def troubled(self, now: float, memory: float = REMEMBERED) -> bool:
        return self.bad or now - self.bad_until < memory

    def disk_troubled(self, now: float) -> bool:
        return self.crowded or now - self.disk_bad_until < 15.0


@dataclass(eq=False)
class Handle:
    """An open file, and the versions that it can be of: each read leaves fewer."""

    fh: int
    shown: Shown
    raw: bool
    candidates: set[Version]
    ino: int = 0

    @property
    def thing(self) -> Thing:
        return self.shown.thing

    def bytes_of(self, version: Version) -> bytes:
        return version.disk if self.raw else version.data

    @property
    def size(self) -> int:
        """The length of the shortest version that it can be of."""
        return min(len(self.bytes_of(version)) for version in self.candidates)

    @property
    def is_decoded(self) -> bool:
        return self.raw and self.shown.listed.kind == "gz"

    @property
    def is_local(self) -> bool:
        return self.shown.thing.home >= 200

    def judge(self, offset: int, length: int, got: bytes) -> None:
        """Raises WrongError when no version has these bytes there."""
        left = {v for v in self.candidates if self.bytes_of(v)[offset : offset + length] == got}
        if not left:
            numbers = sorted(version.number for version in self.candidates)
            raise WrongError(
                f"{len(got)} bytes at {offset} (asked: {length}) of {self} are of none of its "
                f"versions {numbers}; {_difference(self, offset, got)}"
            )
        self.candidates = left

    def may_fail(self, number: int | None, weather: Weather, now: float) -> bool:
        """Whether there is a reason for this error of a read."""
        if number == errno.ESTALE:
            return self.thing.missing or self.candidates != {self.thing.current}
        if self.thing.missing and number in GONE:
            return True
        if self.is_local and not self.is_decoded:
            return False
        if self.shown.md5 and any(v.md5 != self.shown.md5 for v in self.candidates):
            return number == errno.EIO
        if self.is_decoded and weather.disk_troubled(now) and number == errno.EIO:
            return True
        return weather.bad and number in TROUBLES

    def __repr__(self) -> str:
        face = "raw" if self.raw else "published"
        return f"the {face} {self.shown.listed.kind} of {self.shown.name} ({self.thing.id})"


def _difference(handle: Handle, offset: int, got: bytes) -> str:
    version = max(handle.candidates, key=lambda v: v.number)
    right = handle.bytes_of(version)[offset : offset + len(got)]
    first = next(
        (n for n, (a, b) in enumerate(zip(got, right, strict=False)) if a != b), len(right)
    )
    zeros = "zeros" if not any(got[first : first + 512]) else "other bytes"
    return f"from {offset + first} on they are {zeros}"


def file_name(shown: Shown, *, app: bool, guessed: bool = False) -> str:
    """Return what the file of an app is called in its directory, or an image in its own.

    `guessed`: by what was claimed alone, as nobody has seen its first bytes.
    """
    if not app:
        return shown.name
    kind = shown.recorded.kind
    extension = "raw" if guessed and kind == "gz" else EXTENSIONS[kind]
    return "".join(stem_and_suffix(shown.name, extension))


def versions_at_open(shown: Shown, weather: Weather, now: float, *, local: bool) -> set[Version]:
    """Return of which versions a file may be that is opened now."""
    if local:
        return {shown.thing.current}
    if weather.troubled(now):
        return shown.thing.ever()
    return shown.thing.recent(now, REVALIDATED)
