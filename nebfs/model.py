"""The nouns that every room shares: frozen, without behaviour beyond reading themselves.

OpenNebula's terms are kept (App, Image, Marketplace, Datastore, their states and types). Sizes in
``*_mb`` are MiB as OpenNebula gives them; every other size is bytes. Times are seconds since the
epoch. Enumerations are from OpenNebula's own include files (7.4): unknown numbers of newer versions
become ``UNKNOWN`` instead of failing a whole pool.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, Self
from urllib.parse import urlsplit, urlunsplit


class Tolerant(IntEnum):
    """An enumeration in which a number that we do not know is UNKNOWN, not an error."""

    @classmethod
    def _missing_(cls, value: object) -> Self:  # noqa: ARG003 - whatever it is
        return cls(-1)


class AppState(Tolerant):
    """MARKETPLACEAPP/STATE."""

    UNKNOWN = -1
    INIT = 0
    READY = 1
    LOCKED = 2
    ERROR = 3
    DISABLED = 4


class AppType(Tolerant):
    """MARKETPLACEAPP/TYPE. OpenNebula itself calls 0 UNKNOWN."""

    UNKNOWN = -1
    NONE = 0
    IMAGE = 1
    VMTEMPLATE = 2
    SERVICE_TEMPLATE = 3


class ImageState(Tolerant):
    """IMAGE/STATE."""

    UNKNOWN = -1
    INIT = 0
    READY = 1
    USED = 2
    DISABLED = 3
    LOCKED = 4
    ERROR = 5
    CLONE = 6
    DELETE = 7
    USED_PERS = 8
    LOCKED_USED = 9
    LOCKED_USED_PERS = 10


class ImageType(Tolerant):
    """IMAGE/TYPE."""

    UNKNOWN = -1
    OS = 0
    CDROM = 1
    DATABLOCK = 2
    KERNEL = 3
    RAMDISK = 4
    CONTEXT = 5
    BACKUP = 6
    FILESYSTEM = 7


class DiskType(Tolerant):
    """IMAGE/DISK_TYPE. OpenNebula has 255 for none."""

    UNKNOWN = -1
    FILE = 0
    CD_ROM = 1
    BLOCK = 2
    RBD = 3
    RBD_CDROM = 4
    GLUSTER = 5
    GLUSTER_CDROM = 6
    SHEEPDOG = 7
    SHEEPDOG_CDROM = 8
    ISCSI = 9
    FILESYSTEM = 10
    NONE = 255


class MachineState(Tolerant):
    """VM/STATE."""

    UNKNOWN = -1
    INIT = 0
    PENDING = 1
    HOLD = 2
    ACTIVE = 3
    STOPPED = 4
    SUSPENDED = 5
    DONE = 6
    POWEROFF = 8
    UNDEPLOYED = 9
    CLONING = 10
    CLONING_FAILURE = 11


class DatastoreType(Tolerant):
    """DATASTORE/TYPE."""

    UNKNOWN = -1
    IMAGE = 0
    SYSTEM = 1
    FILE = 2
    BACKUP = 3


@dataclass(frozen=True, slots=True)
class Template:
    """An OpenNebula template: attributes in order, keys may repeat, values are text or templates.

    Its repr shows keys only: marketplace templates hold secrets in clear text.
    """

    items: tuple[tuple[str, str | Template], ...] = field(default=(), repr=False)

    def get(self, key: str, default: str = "") -> str:
        """Return the first text value of `key`, or `default`."""
        return next((v for k, v in self.items if k == key and isinstance(v, str)), default)

    def all(self, key: str) -> tuple[str | Template, ...]:
        """Return every value of `key`, in order."""
        return tuple(v for k, v in self.items if k == key)

    def __iter__(self) -> Iterator[tuple[str, str | Template]]:
        return iter(self.items)


@dataclass(frozen=True, slots=True)
class Permissions:
    """USE (4), MANAGE (2) and ADMIN (1) bits for owner, group and other, as `chmod 640` reads."""

    owner: int = 0
    group: int = 0
    other: int = 0

    @property
    def octal(self) -> str:
        """The three digits that ``oneimage chmod`` takes."""
        return f"{self.owner}{self.group}{self.other}"


@dataclass(frozen=True, slots=True)
class Owned:
    """What every OpenNebula object has: who it is and whose."""

    id: int
    name: str
    uid: int = 0
    gid: int = 0
    uname: str = ""
    gname: str = ""
    permissions: Permissions = Permissions()


@dataclass(frozen=True, slots=True)
class Lock:
    """A user's lock on an object: level 1 USE, 2 MANAGE, 3 ADMIN; unrelated to a LOCKED state."""

    level: int
    owner: int
    time: int


@dataclass(frozen=True, slots=True)
class Marketplace(Owned):
    """A MARKETPLACE. `driver` is MARKET_MAD; capacities are 0 where the driver knows none."""

    driver: str = ""
    enabled: bool = True
    zone_id: int = 0
    total_mb: int = 0
    free_mb: int = 0
    used_mb: int = 0
    app_ids: tuple[int, ...] = ()
    template: Template = Template()


@dataclass(frozen=True, slots=True)
class App(Owned):
    """A MARKETPLACEAPP. `size_mb` is the virtual disk's size, never the file's length."""

    marketplace_id: int = -1
    marketplace: str = ""
    state: AppState = AppState.UNKNOWN
    type: AppType = AppType.UNKNOWN
    source: str = ""
    md5: str = ""
    size_mb: int = 0
    format: str = ""
    version: str = ""
    description: str = ""
    regtime: int = 0
    zone_id: int = 0
    origin_id: int = -1
    app_template: str = ""
    lock: Lock | None = None
    template: Template = Template()
    unreadable: str = ""
    """Why the front-end could not tell us about it (only its id is then known); else empty."""


@dataclass(frozen=True, slots=True)
class Datastore(Owned):
    """A DATASTORE. `driver` is DS_MAD, `transfer` is TM_MAD."""

    driver: str = ""
    transfer: str = ""
    base_path: str = ""
    type: DatastoreType = DatastoreType.UNKNOWN
    enabled: bool = True
    total_mb: int = 0
    free_mb: int = 0
    used_mb: int = 0
    image_ids: tuple[int, ...] = ()
    template: Template = Template()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One SNAPSHOTS/SNAPSHOT of an image; `parent` -1 is the image itself."""

    id: int
    name: str
    date: int
    size_mb: int
    parent: int
    active: bool


@dataclass(frozen=True, slots=True)
class Increment:
    """One BACKUP_INCREMENTS/INCREMENT. `source` is its id where backups are kept; `parent` -1 is
    none. The first one need not be 0: older ones are merged into it.
    """

    id: int
    parent: int
    full: bool
    date: int
    source: str
    size_mb: int


@dataclass(frozen=True, slots=True)
class Image(Owned):
    """An IMAGE. `size_mb` is the virtual size rounded up, never the file's length."""

    datastore_id: int = -1
    datastore: str = ""
    type: ImageType = ImageType.UNKNOWN
    disk_type: DiskType = DiskType.UNKNOWN
    state: ImageState = ImageState.UNKNOWN
    persistent: bool = False
    source: str = ""
    path: str = ""
    format: str = ""
    filesystem: str = ""
    size_mb: int = 0
    regtime: int = 0
    modtime: int = 0
    running_vms: int = 0
    vm_ids: tuple[int, ...] = ()
    """The VMs that use it; of a backup, the VM that it is of."""
    lock: Lock | None = None
    snapshots: tuple[Snapshot, ...] = ()
    current_base: int = -1
    """SNAPSHOTS/CURRENT_BASE: the snapshot that its content goes on from."""
    next_snapshot: int = 0
    """SNAPSHOTS/NEXT_SNAPSHOT: together these move when the content is reverted or flattened, which
    MODTIME does not tell."""
    increments: tuple[Increment, ...] = ()
    """Empty in a backup of mode full."""
    disk_ids: tuple[int, ...] = ()
    """A backup's disks, since 6.10."""
    template: Template = Template()
    unreadable: str = ""
    """Why the front-end could not tell us about it (only its id is then known); else empty."""


@dataclass(frozen=True, slots=True)
class MachineDisk:
    """One disk of a VM: what its record says. `source` is its image's, empty where it has none."""

    id: int
    type: str = ""
    """In OpenNebula's words: FILE, CDROM, RBD, BLOCK, swap, fs..."""
    format: str = ""
    image_id: int = -1
    source: str = ""
    size_mb: int = 0


@dataclass(frozen=True, slots=True)
class VirtualMachine(Owned):
    """A VM, as far as its disks go. Where it was last: `host`, `datastore_id` and `transfer`
    (TM_MAD).
    """

    state: MachineState = MachineState.UNKNOWN
    datastore_id: int = -1
    transfer: str = ""
    host: str = ""
    disks: tuple[MachineDisk, ...] = ()


@dataclass(frozen=True, slots=True)
class Zone:
    """A ZONE of the federation and the URL of its front-end."""

    id: int
    name: str
    endpoint: str = ""
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class User:
    """The user of a session, without its secrets and quotas."""

    id: int
    name: str
    gid: int
    gname: str = ""
    groups: tuple[int, ...] = ()


_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)


_NESTED = re.compile(r"(?:[a-z][a-z0-9+.-]*://)+(?=[a-z][a-z0-9+.-]*:/)", re.IGNORECASE)


def without_credentials(url: str) -> str:
    """Return `url` as it may be shown: no user, password, query or fragment.

    Of what only looks like a URL nothing can be told apart, so nothing is shown. OpenNebula puts
    one URL behind the scheme of another (``lxd://https://...``): what holds for one holds for both.
    """
    nested = _NESTED.match(url)
    outer = nested[0] if nested is not None else ""
    url = url.removeprefix(outer)
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{outer}[a broken URL]"
    if not parts.netloc:
        return f"{outer}[a broken URL]" if outer else url
    host = parts.netloc.rpartition("@")[2]
    return outer + urlunsplit((parts.scheme, host, parts.path, "", ""))


def kind_and_url(text: str) -> tuple[str, str]:
    """Read ``KIND+URL``, as in ``linuxcontainers+https://...``; the kind is empty in a bare URL."""
    kind, plus, url = text.partition("+")
    return (kind, url) if plus and "/" not in kind else ("", text)


def shown_text(text: str) -> str:
    """Return somebody's text as it may be shown: the URLs in it lose their credentials."""
    return _URL.sub(lambda found: without_credentials(found[0]), text) if "://" in text else text


def shown_line(text: str) -> str:
    """Return somebody's text as one line of at most 400 characters that may be shown.

    For a log, an attribute or a shell: OpenNebula's own errors repeat whole command lines.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return shown_text(line)[:400]


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
