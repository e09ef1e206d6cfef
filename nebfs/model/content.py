"""What a file of the mount is: where its bytes are, in which version, and what is wrong with it.

Sizes are bytes, times seconds since the epoch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple

from nebfs.model.cloud import App, Image, VirtualMachine
from nebfs.model.shown import without_credentials


@dataclass(frozen=True, slots=True)
class Checksum:
    """A published digest of the stored bytes: `algorithm` as hashlib names it, hex digits."""

    algorithm: str
    digest: str


@dataclass(frozen=True, slots=True)
class Locator:
    """Where bytes are: which transport reaches them, the address it understands, its options.

    `transport` is a name in fetcher/transports, or for what is on this machine ``file`` (a path),
    ``device`` (a block device) or ``lvm`` (a logical volume).
    """

    transport: str
    address: str = field(repr=False)
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def shown(self) -> str:
        """The address as it may be logged or listed."""
        return without_credentials(self.address)


@dataclass(frozen=True, slots=True)
class Revision:
    """One version of some bytes: their exact length and what tells this version from another.

    `etag` and `modified` are compared as text. `ranges` is False where the place cannot give a part
    without everything before it.
    """

    size: int
    etag: str = ""
    modified: str = ""
    ranges: bool = True

    def differs_from(self, other: Revision) -> str:
        """Say how `other` is another version, or return an empty string when it is this one."""
        for what in ("size", "etag", "modified"):
            mine, theirs = getattr(self, what), getattr(other, what)
            if mine != theirs:
                return f"{what} was {mine!r} and is {theirs!r}"
        return ""


@dataclass(frozen=True, slots=True)
class Content:
    """What a driver says about one file: where its bytes are, what was published about them."""

    locator: Locator
    label: str = ""
    """Tells the files of one object apart; empty for its only or first file."""
    format: str = ""
    """The format that was claimed; the first bytes decide."""
    media: str = ""
    """``cdrom`` for what OpenNebula calls type CDROM, else empty."""
    virtual_size: int | None = None
    checksums: tuple[Checksum, ...] = ()
    version: str = ""
    revision: Revision | None = None
    """Known without asking (a local file), else None: ask when the directory is opened."""
    allocated: int | None = None
    """Bytes that the file takes on its disk, where that is known."""
    view: str = ""
    """``raw``: the disk inside the file, a qcow2 image, is meant; empty: the file as it is.
    What else is said here (`revision`, `allocated`, `checksums`) is about the file in any case."""
    backing: Content | None = None
    """With a view: what shows where the file has nothing of its own. The name of it that is in the
    file itself is somebody's text, and never followed."""
    volatile: bool = False
    """Others may write to it while it is read: nothing of it is kept, here or in the kernel."""
    mutable: bool = False
    """VMs write to it while nobody reads it (a persistent image): whoever opens it has it asked for
    what it is now, and gets nothing that was kept if there is no answer."""

    @property
    def identity(self) -> str:
        """A digest of everything that was said about these bytes: the key of what is remembered."""
        facts = (
            self.locator.transport,
            self.locator.address,
            self.version,
            *(f"{c.algorithm}:{c.digest}" for c in self.checksums),
            *((f"view:{self.view}",) if self.view else ()),
            *((f"over:{self.backing.identity}",) if self.backing is not None else ()),
        )
        return hashlib.sha256("\0".join(facts).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why an object gives no bytes now: what open() answers, and the reason in words."""

    errno: int
    reason: str


@dataclass(frozen=True, slots=True)
class Offer:
    """An app as its marketplace offers it. Either `contents`, `trouble`, `deferred`, or a template
    app.
    """

    app: App
    contents: tuple[Content, ...] = ()
    trouble: Trouble | None = None
    published: str = ""
    """The publisher's own description of the app (JSON text), where there is one."""
    deferred: bool = False
    """Its files are not known from the list: the marketplace is asked when the app is opened."""


@dataclass(frozen=True, slots=True)
class Part:
    """One of several files of an image: a snapshot, a disk in a backup. Either `content` or
    `trouble`. `name` has no extension; `date` is when it was made, 0 where that is not known.
    """

    name: str
    content: Content | None = None
    trouble: Trouble | None = None
    date: int = 0


@dataclass(frozen=True, slots=True)
class Holding:
    """An image as its datastore holds it: one of `content`, `trouble`, `disks` and `directory`."""

    image: Image
    content: Content | None = None
    trouble: Trouble | None = None
    snapshots: tuple[Part, ...] = ()
    """What the image was at earlier moments, beside what it is."""
    disks: tuple[Part, ...] = ()
    """A backup's disks, each at each moment that was kept."""
    deferred: bool = False
    """The disks are not known from the list: the driver is asked when the backup is opened."""
    directory: Locator | None = None
    """The image is a directory of a host (virtiofs), not a disk."""


@dataclass(frozen=True, slots=True)
class Parked:
    """A VM that does not run, and its disks as its system datastore has them."""

    machine: VirtualMachine
    disks: tuple[Part, ...] = ()


class Filled(NamedTuple):
    """One slot of a cache file is there now. A `zero` slot holds only zeros and was not written."""

    slot: int
    length: int
    checksum: int
    zero: bool
