"""What a front-end keeps of each object: mutable records, so that a test can change the world.

The fields are those of oned's XML documents (7.4), in the words of nebfs.model; the defaults are
what a new object has. A text may hold ``{front_end}``, ``{appliances}`` or ``{files}``: they stand
for the addresses of the running servers, which are known only once they listen.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nebfs.model import (
    AppState,
    AppType,
    DatastoreType,
    ImageState,
    ImageType,
    Increment,
    Lock,
    Permissions,
    Snapshot,
    Template,
)

NOTHING = Template()
PRIVATE = Permissions(6, 0, 0)
SHARED = Permissions(6, 4, 4)
"""What the apps of public marketplaces have: everybody may use them."""


@dataclass(slots=True)
class Record:
    """What every object has: who it is, whose, and its template."""

    id: int
    name: str
    uid: int = 0
    gid: int = 0
    uname: str = "oneadmin"
    gname: str = "oneadmin"
    permissions: Permissions = PRIVATE
    template: Template = NOTHING


@dataclass(slots=True)
class MarketplaceRecord(Record):
    """A MARKETPLACE; capacities in MiB."""

    driver: str = "http"
    enabled: bool = True
    zone_id: int = 0
    total_mb: int = 0
    free_mb: int = 0
    used_mb: int = 0


@dataclass(slots=True)
class AppRecord(Record):
    """A MARKETPLACEAPP; `size_mb` is the virtual size in MiB, rounded up."""

    marketplace_id: int = 0
    marketplace: str = ""
    state: AppState = AppState.READY
    type: AppType = AppType.IMAGE
    source: str = ""
    md5: str = ""
    size_mb: int = 0
    format: str = ""
    version: str = "0.0"
    description: str = ""
    regtime: int = 0
    zone_id: int = 0
    origin_id: int = -1
    app_template64: str = ""
    lock: Lock | None = None
    lock_request: int = 0


@dataclass(slots=True)
class DatastoreRecord(Record):
    """A DATASTORE; capacities in MiB."""

    driver: str = "fs"
    transfer: str = "local"
    base_path: str = ""
    type: DatastoreType = DatastoreType.IMAGE
    disk_type: int = 0
    enabled: bool = True
    clusters: tuple[int, ...] = (0,)
    total_mb: int = 0
    free_mb: int = 0
    used_mb: int = 0


@dataclass(slots=True)
class ImageRecord(Record):
    """An IMAGE; `size_mb` is the virtual size in MiB, rounded up."""

    datastore_id: int = 1
    datastore: str = ""
    type: ImageType = ImageType.OS
    disk_type: int = 0
    persistent: bool = False
    regtime: int = 0
    modtime: int = 0
    source: str = ""
    path: str = ""
    format: str = ""
    filesystem: str = ""
    size_mb: int = 0
    state: ImageState = ImageState.READY
    previous_state: ImageState | None = None
    """None: the same as `state`."""
    cloning_ops: int = 0
    cloning_id: int = -1
    target_snapshot: int = -1
    vms: tuple[int, ...] = ()
    running_vms: int = 0
    clones: tuple[int, ...] = ()
    app_clones: tuple[int, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()
    allow_orphans: str = "NO"
    current_base: int = -1
    next_snapshot: int = 0
    increments: tuple[Increment, ...] = ()
    disk_ids: tuple[int, ...] = ()
    lock: Lock | None = None
    lock_request: int = 0


@dataclass(slots=True)
class ZoneRecord:
    """A ZONE; its template holds the endpoint."""

    id: int
    name: str
    enabled: bool = True
    template: Template = NOTHING


@dataclass(frozen=True, slots=True)
class Token:
    """A login token: `expires` in epoch seconds, `egid` the group it is bound to or -1."""

    secret: str = field(repr=False)
    expires: int
    egid: int = -1


@dataclass(slots=True)
class UserRecord:
    """A USER with its rights, as far as reading is concerned."""

    id: int
    name: str
    password: str = field(repr=False)
    gid: int = 1
    gname: str = "users"
    groups: tuple[int, ...] = (1,)
    tokens: list[Token] = field(default_factory=list, repr=False)
    template: Template = NOTHING
    datastore_quota: Template = NOTHING
    uses_all_apps: bool = True
    """The default ACL rule ``* MARKETPLACE+MARKETPLACEAPP/* USE``: permission bits hide nothing."""
    uses_all_datastores: bool = True
    """What the default VDC gives to every new group."""
