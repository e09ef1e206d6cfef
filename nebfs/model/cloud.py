"""What is in an OpenNebula cloud, in its own terms: marketplaces, apps, datastores, images, users.

Sizes in ``*_mb`` are MiB as OpenNebula gives them; every other size is bytes. Times are seconds
since the epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from nebfs.model.states import (
    AppState,
    AppType,
    DatastoreType,
    DiskType,
    ImageState,
    ImageType,
    MachineState,
)


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
