"""Records as the XML documents that oned 7.4 writes: its element order, its CDATA, its escaping.

Source: recordings of a real oned 7.4.0 (the tests replay them against this module). Names of
objects and owners are escaped, free text is in CDATA, numbers are bare. oned sorts nothing here:
templates come in the order in which the record holds them.
"""

from __future__ import annotations

from collections.abc import Iterable

from nebfs.demo.records import (
    AppRecord,
    DatastoreRecord,
    ImageRecord,
    MarketplaceRecord,
    Record,
    UserRecord,
    ZoneRecord,
)
from nebfs.model import Permissions, Template

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&apos;"})
_USE, _MANAGE, _ADMIN = 4, 2, 1
# one.user.info shows a digest; a demonstration has no reason to show a real one.
_DIGEST = "0" * 64


def element(tag: str, value: object) -> str:
    """Return ``<tag>value</tag>`` with the five predefined entities escaped."""
    return f"<{tag}>{str(value).translate(_ESCAPES)}</{tag}>"


def cdata(tag: str, value: object) -> str:
    """Return ``<tag><![CDATA[value]]></tag>``; a ``]]>`` in it is split over two sections."""
    inner = str(value).replace("]]>", "]]]]><![CDATA[>")
    return f"<{tag}><![CDATA[{inner}]]></{tag}>"


def wrap(tag: str, parts: Iterable[str]) -> str:
    """Return `parts` between ``<tag>`` and ``</tag>``; oned never writes ``<tag/>``."""
    return f"<{tag}>{''.join(parts)}</{tag}>"


def template(tag: str, attributes: Template) -> str:
    """Return a template: vector attributes nest, every value is CDATA."""
    return wrap(
        tag,
        (template(k, v) if isinstance(v, Template) else cdata(k, v) for k, v in attributes),
    )


def _ids(tag: str, ids: Iterable[int]) -> str:
    return wrap(tag, (element("ID", number) for number in ids))


def _permissions(bits: Permissions) -> str:
    return wrap(
        "PERMISSIONS",
        (
            element(f"{who}_{letter}", int(bool(digit & bit)))
            for who, digit in (("OWNER", bits.owner), ("GROUP", bits.group), ("OTHER", bits.other))
            for letter, bit in (("U", _USE), ("M", _MANAGE), ("A", _ADMIN))
        ),
    )


def _owner(record: Record) -> list[str]:
    return [
        element("ID", record.id),
        element("UID", record.uid),
        element("GID", record.gid),
        element("UNAME", record.uname),
        element("GNAME", record.gname),
    ]


def _lock(record: AppRecord | ImageRecord) -> list[str]:
    if record.lock is None:
        return []
    return [
        wrap(
            "LOCK",
            (
                element("LOCKED", record.lock.level),
                element("OWNER", record.lock.owner),
                element("TIME", record.lock.time),
                element("REQ_ID", record.lock_request),
            ),
        )
    ]


def _capacity(record: MarketplaceRecord | DatastoreRecord) -> list[str]:
    return [
        element("TOTAL_MB", record.total_mb),
        element("FREE_MB", record.free_mb),
        element("USED_MB", record.used_mb),
    ]


def marketplace(record: MarketplaceRecord, app_ids: Iterable[int]) -> str:
    """Return the MARKETPLACE document."""
    return wrap(
        "MARKETPLACE",
        [
            *_owner(record),
            element("NAME", record.name),
            element("STATE", int(not record.enabled)),
            cdata("MARKET_MAD", record.driver),
            cdata("ZONE_ID", record.zone_id),
            *_capacity(record),
            _ids("MARKETPLACEAPPS", app_ids),
            _permissions(record.permissions),
            template("TEMPLATE", record.template),
        ],
    )


def app(record: AppRecord) -> str:
    """Return the MARKETPLACEAPP document."""
    return wrap(
        "MARKETPLACEAPP",
        [
            *_owner(record),
            *_lock(record),
            element("REGTIME", record.regtime),
            element("NAME", record.name),
            cdata("ZONE_ID", record.zone_id),
            cdata("ORIGIN_ID", record.origin_id),
            cdata("SOURCE", record.source),
            cdata("MD5", record.md5),
            element("SIZE", record.size_mb),
            cdata("DESCRIPTION", record.description),
            cdata("VERSION", record.version),
            cdata("FORMAT", record.format),
            cdata("APPTEMPLATE64", record.app_template64),
            element("MARKETPLACE_ID", record.marketplace_id),
            element("MARKETPLACE", record.marketplace),
            element("STATE", int(record.state)),
            element("TYPE", int(record.type)),
            _permissions(record.permissions),
            template("TEMPLATE", record.template),
        ],
    )


def datastore(record: DatastoreRecord, image_ids: Iterable[int]) -> str:
    """Return the DATASTORE document."""
    return wrap(
        "DATASTORE",
        [
            *_owner(record),
            element("NAME", record.name),
            _permissions(record.permissions),
            cdata("DS_MAD", record.driver),
            cdata("TM_MAD", record.transfer),
            cdata("BASE_PATH", record.base_path),
            element("TYPE", int(record.type)),
            element("DISK_TYPE", record.disk_type),
            element("STATE", int(not record.enabled)),
            _ids("CLUSTERS", record.clusters),
            *_capacity(record),
            _ids("IMAGES", image_ids),
            template("TEMPLATE", record.template),
        ],
    )


def _snapshots(record: ImageRecord) -> str:
    parts = [
        cdata("ALLOW_ORPHANS", record.allow_orphans),
        cdata("CURRENT_BASE", record.current_base),
        cdata("NEXT_SNAPSHOT", record.next_snapshot),
    ]
    for one in record.snapshots:
        children = ",".join(str(s.id) for s in record.snapshots if s.parent == one.id)
        # The keys of a vector attribute are sorted on the wire; absent ones are left out.
        fields = [
            ("ACTIVE", "YES" if one.active else ""),
            ("CHILDREN", children),
            ("DATE", one.date),
            ("ID", one.id),
            ("NAME", one.name),
            ("PARENT", one.parent),
            ("SIZE", one.size_mb),
        ]
        parts.append(wrap("SNAPSHOT", (cdata(k, v) for k, v in fields if v != "")))
    return wrap("SNAPSHOTS", parts)


def _increments(record: ImageRecord) -> str:
    parts = []
    for one in record.increments:
        fields = {
            "DATE": one.date,
            "ID": one.id,
            "PARENT_ID": one.parent,
            "SIZE": one.size_mb,
            "SOURCE": one.source,
            "TYPE": "FULL" if one.full else "INCREMENT",
        }
        parts.append(wrap("INCREMENT", (cdata(k, v) for k, v in fields.items())))
    return wrap("BACKUP_INCREMENTS", parts)


def image(record: ImageRecord) -> str:
    """Return the IMAGE document."""
    before = record.state if record.previous_state is None else record.previous_state
    return wrap(
        "IMAGE",
        [
            *_owner(record),
            element("NAME", record.name),
            *_lock(record),
            _permissions(record.permissions),
            element("TYPE", int(record.type)),
            element("DISK_TYPE", record.disk_type),
            element("PERSISTENT", int(record.persistent)),
            element("REGTIME", record.regtime),
            element("MODTIME", record.modtime),
            cdata("SOURCE", record.source),
            cdata("PATH", record.path),
            cdata("FORMAT", record.format),
            cdata("FS", record.filesystem),
            element("SIZE", record.size_mb),
            element("STATE", int(record.state)),
            element("PREV_STATE", int(before)),
            element("RUNNING_VMS", record.running_vms),
            element("CLONING_OPS", record.cloning_ops),
            element("CLONING_ID", record.cloning_id),
            element("TARGET_SNAPSHOT", record.target_snapshot),
            element("DATASTORE_ID", record.datastore_id),
            element("DATASTORE", record.datastore),
            _ids("VMS", record.vms),
            _ids("CLONES", record.clones),
            _ids("APP_CLONES", record.app_clones),
            template("TEMPLATE", record.template),
            _snapshots(record),
            _increments(record),
            _ids("BACKUP_DISK_IDS", record.disk_ids),
        ],
    )


def zone(record: ZoneRecord) -> str:
    """Return the ZONE document."""
    return wrap(
        "ZONE",
        [
            element("ID", record.id),
            element("NAME", record.name),
            element("STATE", int(not record.enabled)),
            template("TEMPLATE", record.template),
            wrap("SERVER_POOL", ()),
        ],
    )


def user(record: UserRecord) -> str:
    """Return the USER document, quotas included."""
    no_quotas = [wrap(tag, ()) for tag in ("NETWORK_QUOTA", "VM_QUOTA", "IMAGE_QUOTA")]
    tokens = (
        wrap(
            "LOGIN_TOKEN",
            (
                element("TOKEN", token.secret),
                element("EXPIRATION_TIME", token.expires),
                element("EGID", token.egid),
            ),
        )
        for token in record.tokens
    )
    return wrap(
        "USER",
        [
            element("ID", record.id),
            element("GID", record.gid),
            _ids("GROUPS", record.groups),
            element("GNAME", record.gname),
            element("NAME", record.name),
            cdata("PASSWORD", _DIGEST),
            cdata("AUTH_DRIVER", "core"),
            element("ENABLED", 1),
            *tokens,
            template("TEMPLATE", record.template),
            template("DATASTORE_QUOTA", record.datastore_quota),
            *no_quotas,
            wrap("DEFAULT_USER_QUOTAS", [wrap("DATASTORE_QUOTA", ()), *no_quotas]),
        ],
    )
