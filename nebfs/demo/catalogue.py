"""The public marketplace: each app in the front-end, and its appliance in the REST service.

The two belong together as the monitoring of a marketplace of the driver `one` makes them: the app's
SOURCE leads to the appliance's first file, IMPORT_ID is the appliance's id.
"""

from __future__ import annotations

import base64
import hashlib
import json

from nebfs.demo.cloud import Cloud, JsonObject
from nebfs.demo.images import EPOCH, DemonstrationImages, MadeImage
from nebfs.demo.records import SHARED, AppRecord
from nebfs.model import AppType, Template

PUBLIC = 0
"""The marketplace's id."""

_VERSIONS = "6.8, 6.10, 7.0, 7.2, 7.4"
_VM_TEMPLATE = 'CPU = "1"\nMEMORY = "768"\nGRAPHICS = [ LISTEN = "0.0.0.0", TYPE = "vnc" ]\n'


def attributes(**values: str) -> Template:
    """Return a template of text attributes, sorted by name as oned keeps them."""
    return Template(tuple(sorted(values.items())))


def base64_text(text: str) -> str:
    """Return `text` as the templates of apps hold it."""
    return base64.b64encode(text.encode()).decode()


def add_public_apps(cloud: Cloud, images: DemonstrationImages) -> None:
    """Fill the public marketplace: disks of every kind, a VM template, a service."""
    disks: list[tuple[int, str, str, list[tuple[str, MadeImage]]]] = [
        (0, "Alpine Linux 3.20", "OS", [("alpine.qcow2", images.qcow2)]),
        (1, "Debian 12", "OS", [("debian-12.raw", images.raw)]),
        (2, "Rescue CD", "CDROM", [("rescue.iso", images.iso)]),
        (3, "Big Sparse Disk", "DATABLOCK", [("big.raw", images.sparse)]),
        (4, "Two Disks", "OS", [("two-system.qcow2", images.qcow2), ("two.raw", images.data)]),
        (5, "Data Disk", "DATABLOCK", [("data.raw.gz", images.data_gz)]),
        (8, "..", "DATABLOCK", [("dots.raw", images.data)]),
        (9, "Slash/in name", "DATABLOCK", [("slash.raw", images.data)]),
        (10, '100% \N{LATIN SMALL LETTER N WITH TILDE}"and" <b>', "OS", [("p.raw", images.data)]),
    ]
    for number, name, kind, files in disks:
        _publish_disks(cloud, number, name, kind, files)
    _publish_template(
        cloud, 6, "Alpine with Data", AppType.VMTEMPLATE, ["Alpine Linux 3.20", "Data Disk"]
    )
    _publish_template(
        cloud,
        7,
        "Web Cluster",
        AppType.SERVICE_TEMPLATE,
        {"front": "Alpine with Data", "worker": "Alpine with Data"},
    )


def appliance_id(number: int) -> str:
    """Return the id in the REST service of the public app `number`."""
    return f"00000000-0000-4000-8000-{number:012d}"


def _appliance(number: int, name: str) -> JsonObject:
    identity = appliance_id(number)
    return {
        "_id": {"$oid": identity},
        "links": {"download": {"href": f"{{appliances}}/appliance/{identity}/download"}},
        "name": name,
        "version": "7.4.0-1",
        "publisher": "OpenNebula Systems",
        "description": f"{name}: made by `nebfs demo`.\n\n* never leaves this machine\n",
        "short_description": f"{name} for KVM hosts",
        "tags": ["demonstration"],
        "creation_time": EPOCH,
        "os-id": "Demonstration",
        "os-arch": "x86_64",
        "hypervisor": "ALL",
        "opennebula_version": _VERSIONS,
        "roles": [],
        "disks": [],
    }


def _publish_disks(
    cloud: Cloud, number: int, name: str, kind: str, files: list[tuple[str, MadeImage]]
) -> None:
    """Add an IMAGE app; the first of `files` is what its SOURCE leads to."""
    appliance = _appliance(number, name)
    appliance["format"] = files[0][1].format
    appliance["opennebula_template"] = json.dumps({"CPU": "1", "MEMORY": "768"})
    appliance["files"] = []
    for index, (file_name, made) in enumerate(files):
        cloud.published[f"/public/{file_name}"] = made.path
        appliance["files"].append(
            {
                "name": file_name.partition(".")[0],
                "url": f"{{files}}/public/{file_name}",
                "type": kind if index == 0 else "DATABLOCK",
                "dev_prefix": "hd" if kind == "CDROM" else "vd",
                "driver": made.format,
                "size": made.virtual_size,
                "checksum": {"md5": made.md5, "sha256": made.sha256},
                "md5": made.md5,
                "format": made.format,
            }
        )
    first = files[0][1]
    definition = f'DEV_PREFIX="vd"\nTYPE="{kind}"\n'
    record = _public_app(number, appliance, definition, VMTEMPLATE64=base64_text(_VM_TEMPLATE))
    record.md5, record.size_mb, record.format = first.md5, first.size_mb, first.format
    cloud.appliances[appliance_id(number)] = appliance
    cloud.add_app(record)


def _publish_template(
    cloud: Cloud, number: int, name: str, kind: AppType, parts: list[str] | dict[str, str]
) -> None:
    """Add a VMTEMPLATE (parts: names of disk apps) or a SERVICE_TEMPLATE (role to app name)."""
    appliance = _appliance(number, name)
    appliance["type"] = kind.name
    if isinstance(parts, dict):
        appliance["roles"] = parts
        service = {
            "name": name,
            "deployment": "straight",
            "roles": [{"name": role, "cardinality": 1} for role in parts],
        }
        definition, key = json.dumps(service), "ROLE"
        appliance["opennebula_template"] = definition
        labels = list(parts.items())
    else:
        appliance["disks"] = parts
        appliance["opennebula_template"] = json.dumps({"CPU": "1", "MEMORY": "768"})
        definition, key = _VM_TEMPLATE, "DISK"
        # OpenNebula's labels for the disks of public apps are ten random hex digits.
        labels = [(hashlib.sha256(app.encode()).hexdigest()[:10], app) for app in parts]
    record = _public_app(number, appliance, definition)
    vectors = [(key, attributes(APP=app, NAME=label)) for label, app in labels]
    items = [*record.template, *vectors]
    record.template = Template(tuple(sorted(items, key=lambda item: item[0])))
    record.type = kind
    cloud.appliances[appliance_id(number)] = appliance
    cloud.add_app(record)


def _public_app(number: int, appliance: JsonObject, definition: str, **more: str) -> AppRecord:
    """Return the record that the monitoring of a public marketplace makes of an appliance."""
    link = f"{{appliances}}/appliance/{appliance_id(number)}"
    description, version = appliance["short_description"], appliance["version"]
    return AppRecord(
        number,
        appliance["name"],
        permissions=SHARED,
        marketplace_id=PUBLIC,
        regtime=EPOCH,
        # Template apps have it too, though it leads nowhere.
        source=f"{link}/download/0",
        description=description,
        version=version,
        app_template64=base64_text(definition),
        template=attributes(
            APPTEMPLATE64=base64_text(definition),
            ARCHITECTURE="x86_64",
            DESCRIPTION=description,
            HYPERVISOR="kvm",
            IMPORT_ID=appliance_id(number),
            LINK=link,
            PUBLISHER=appliance["publisher"],
            TAGS=", ".join(appliance["tags"]),
            VERSION=version,
            **more,
        ),
    )
