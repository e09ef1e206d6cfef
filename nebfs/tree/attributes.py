"""``user.one.*``: what OpenNebula knows about an object, under OpenNebula's own element names."""

from __future__ import annotations

from collections.abc import Mapping

from nebfs.model import (
    App,
    Datastore,
    Image,
    Marketplace,
    Owned,
    Template,
    VirtualMachine,
    shown_text,
    without_credentials,
)
from nebfs.tree.documents import is_secret

LONGEST_VALUE = 4096
"""A description can be pages long; the whole of it is in app.json."""


def _owned(item: Owned) -> dict[str, object]:
    return {
        "ID": item.id,
        "NAME": item.name,
        "UID": item.uid,
        "GID": item.gid,
        "UNAME": item.uname,
        "GNAME": item.gname,
        "PERMISSIONS": item.permissions.octal,
    }


def _template(template: Template) -> dict[str, object]:
    return {
        f"TEMPLATE.{key}": shown_text(value)
        for key, value in template
        if isinstance(value, str) and not is_secret(key) and not key.endswith("64")
    }


def _finish(facts: Mapping[str, object]) -> dict[str, str]:
    return {
        f"user.one.{key}": str(value)[:LONGEST_VALUE]
        for key, value in facts.items()
        if value not in {"", None} and len(key) < 200
    }


def of_marketplace(market: Marketplace) -> dict[str, str]:
    """Return the attributes of a marketplace's directory."""
    return _finish(
        _owned(market)
        | {
            "MARKET_MAD": market.driver,
            "STATE": "ENABLED" if market.enabled else "DISABLED",
            "ZONE_ID": market.zone_id,
            "TOTAL_MB": market.total_mb,
            "FREE_MB": market.free_mb,
            "USED_MB": market.used_mb,
        }
        | _template(market.template)
    )


def of_app(app: App) -> dict[str, str]:
    """Return the attributes of an app's directory and of the files in it."""
    return _finish(
        _owned(app)
        | {
            "MARKETPLACE_ID": app.marketplace_id,
            "MARKETPLACE": app.marketplace,
            "STATE": app.state.name,
            "TYPE": app.type.name,
            "SOURCE": without_credentials(app.source),
            "MD5": app.md5,
            "SIZE": app.size_mb,
            "FORMAT": app.format,
            "VERSION": app.version,
            "DESCRIPTION": shown_text(app.description),
            "REGTIME": app.regtime,
            "ZONE_ID": app.zone_id,
            "ORIGIN_ID": app.origin_id,
            "LOCK": None if app.lock is None else app.lock.level,
        }
        | _template(app.template)
    )


def of_datastore(store: Datastore) -> dict[str, str]:
    """Return the attributes of a datastore's directory."""
    return _finish(
        _owned(store)
        | {
            "DS_MAD": store.driver,
            "TM_MAD": store.transfer,
            "BASE_PATH": store.base_path,
            "TYPE": store.type.name,
            "STATE": "READY" if store.enabled else "DISABLED",
            "TOTAL_MB": store.total_mb,
            "FREE_MB": store.free_mb,
            "USED_MB": store.used_mb,
        }
        | _template(store.template)
    )


def of_machine(machine: VirtualMachine) -> dict[str, str]:
    """Return the attributes of a VM's directory and of the disks in it."""
    return _finish(
        _owned(machine)
        | {
            "STATE": machine.state.name,
            "DATASTORE_ID": machine.datastore_id,
            "TM_MAD": machine.transfer,
            "HOSTNAME": machine.host,
        }
    )


def of_image(image: Image) -> dict[str, str]:
    """Return the attributes of an image's file."""
    return _finish(
        _owned(image)
        | {
            "DATASTORE_ID": image.datastore_id,
            "DATASTORE": image.datastore,
            "STATE": image.state.name,
            "TYPE": image.type.name,
            "PERSISTENT": int(image.persistent),
            "SOURCE": without_credentials(image.source),
            "PATH": without_credentials(image.path),
            "FORMAT": image.format,
            "FS": image.filesystem,
            "SIZE": image.size_mb,
            "REGTIME": image.regtime,
            "MODTIME": image.modtime,
            "RUNNING_VMS": image.running_vms,
            "LOCK": None if image.lock is None else image.lock.level,
        }
        | _template(image.template)
    )
