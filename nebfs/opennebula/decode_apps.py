"""MARKETPLACE and MARKETPLACEAPP documents.

Older versions: no STATE of a marketplace before 6.0 (they could not be disabled then).
"""

from __future__ import annotations

import base64
import binascii

from nebfs.model import App, AppState, AppType, Marketplace
from nebfs.opennebula.document import Node, objects


def decode_marketplaces(document: str) -> tuple[Marketplace, ...]:
    """Read a MARKETPLACE_POOL or a single MARKETPLACE, by ascending id.

    Their templates may hold a bucket's secret key in clear. Raises MalformedDocument.
    """
    found = (_marketplace(node) for node in objects(document, "MARKETPLACE"))
    return tuple(sorted(found, key=lambda marketplace: marketplace.id))


def decode_apps(document: str) -> tuple[App, ...]:
    """Read a MARKETPLACEAPP_POOL or a single MARKETPLACEAPP, by ascending id.

    Raises MalformedDocument.
    """
    found = (_app(node) for node in objects(document, "MARKETPLACEAPP"))
    return tuple(sorted(found, key=lambda app: app.id))


def decode_template64(text: str) -> str:
    """Return the text in a ``...64`` attribute; what cannot be decoded is left out.

    Feeds write these by hand: line breaks, missing padding and broken UTF-8 all occur.
    """
    packed = "".join(text.split())
    if not packed.isascii():
        return ""
    kept = packed.rstrip("=")
    if len(kept) % 4 == 1:
        kept = kept[:-1]  # a lone last character holds six bits: no whole byte
    try:
        data = base64.b64decode(kept + "=" * (-len(kept) % 4))
    except binascii.Error:
        return ""
    return data.decode("utf-8", "replace")


def _marketplace(node: Node) -> Marketplace:
    return Marketplace(
        **node.identity(),
        driver=node.text("MARKET_MAD"),
        enabled=node.number("STATE") == 0,
        zone_id=node.number("ZONE_ID"),
        total_mb=node.number("TOTAL_MB"),
        free_mb=node.number("FREE_MB"),
        used_mb=node.number("USED_MB"),
        app_ids=node.ids("MARKETPLACEAPPS"),
        template=node.template(),
    )


def _app(node: Node) -> App:
    template = node.template()
    return App(
        **node.identity(),
        marketplace_id=node.number("MARKETPLACE_ID", -1),
        marketplace=node.text("MARKETPLACE"),
        state=AppState(node.number("STATE", -1)),
        type=AppType(node.number("TYPE", -1)),
        source=node.text("SOURCE"),
        md5=node.text("MD5"),
        size_mb=node.number("SIZE"),
        format=node.text("FORMAT"),
        version=node.text("VERSION"),
        description=node.text("DESCRIPTION"),
        regtime=node.number("REGTIME"),
        zone_id=node.number("ZONE_ID"),
        origin_id=node.number("ORIGIN_ID", -1),
        app_template=decode_template64(node.text("APPTEMPLATE64") or template.get("APPTEMPLATE64")),
        lock=node.lock(),
        template=template,
    )
