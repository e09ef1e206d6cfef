"""The app that OpenNebula would make of an appliance, for a mount without a front-end.

Source: OpenNebula's own ``one`` marketplace driver: which attributes it writes, its defaults
(VERSION 0.0, kvm).
"""

from __future__ import annotations

import hashlib

from nebfs.marketplaces.appliances import Appliance, ApplianceFile
from nebfs.marketplaces.own_app import ARCHITECTURES, own_app, packed
from nebfs.marketplaces.template_text import assignment, template_text
from nebfs.model import App, AppType, Marketplace, Template, without_credentials
from nebfs.units import MIB

# What OpenNebula records for an app without a version; it is also how the two are compared.
NO_VERSION = "0.0"

_ARCHITECTURES = {"": "all", **ARCHITECTURES}


def app_of(appliance: Appliance, number: int, marketplace: Marketplace, source: str) -> App:
    """Return `appliance` as an app with the id `number` whose bytes are at `source`."""
    first = appliance.files[0] if appliance.files else ApplianceFile()
    image = appliance.type is AppType.IMAGE
    text = _image_text(first) if image else _template_text(appliance)
    return own_app(
        number,
        appliance.name,
        marketplace,
        _attributes(appliance, text, source),
        type=appliance.type,
        source=source if image else "",
        md5=next((c.digest for c in first.checksums if c.algorithm == "md5"), ""),
        size_mb=-(-(first.size or 0) // MIB),
        format=(appliance.format or first.format) if image else "",
        version=appliance.version or NO_VERSION,
        description=appliance.short_description,
        regtime=appliance.created,
        app_template=text,
    )


def _image_text(file: ApplianceFile) -> str:
    pairs = (("DEV_PREFIX", file.dev_prefix), ("DRIVER", file.driver), ("TYPE", file.type))
    return "".join(f"{assignment(key, value)}\n" for key, value in pairs if value)


def _template_text(appliance: Appliance) -> str:
    # A service's template stays JSON: that is what OneFlow takes.
    if appliance.type is AppType.SERVICE_TEMPLATE:
        return appliance.template
    return template_text(appliance.template)


def _attributes(appliance: Appliance, text: str, source: str) -> list[tuple[str, str | Template]]:
    hypervisor = appliance.hypervisor.lower()
    simple = (
        ("APPTEMPLATE64", packed(text)),
        ("ARCHITECTURE", _ARCHITECTURES.get(appliance.architecture, appliance.architecture)),
        ("DESCRIPTION", appliance.short_description),
        ("HYPERVISOR", "kvm" if hypervisor in {"", "all"} else hypervisor),
        ("IMPORT_ID", appliance.id),
        ("LINK", without_credentials(source).partition("/download/")[0]),
        ("PUBLISHER", appliance.publisher),
        ("TAGS", ", ".join(appliance.tags)),
        ("VERSION", appliance.version),
    )
    found: list[tuple[str, str | Template]] = [(key, value) for key, value in simple if value]
    if appliance.type is AppType.IMAGE and (vm := template_text(appliance.template)):
        found.append(("VMTEMPLATE64", packed(vm)))
    for place, disk in enumerate(appliance.disks):
        # OpenNebula labels a disk with ten random digits; ours stay the same at every refresh.
        label = hashlib.sha256(f"{appliance.id}:{place}".encode()).hexdigest()[:10]
        found.append(("DISK", Template((("APP", disk), ("NAME", label)))))
    found.extend(
        ("ROLE", Template((("APP", app), ("NAME", role)))) for role, app in appliance.roles
    )
    return found
