"""An app that no front-end has recorded: what OpenNebula would record of it.

For drivers that list by themselves. Source: what OpenNebula's monitoring makes of every app of a
public marketplace (owner oneadmin, um-u--u--, READY), and its names for architectures.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable

from nebfs.model import App, AppState, AppType, Marketplace, Permissions, Template

ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
"""OpenNebula's name for what others call so."""


def own_app(
    number: int,
    name: str,
    marketplace: Marketplace,
    attributes: Iterable[tuple[str, str | Template]],
    *,
    source: str,
    version: str,
    type: AppType = AppType.IMAGE,  # noqa: A002 - as in App
    md5: str = "",
    size_mb: int = 0,
    format: str = "",  # noqa: A002
    description: str = "",
    regtime: int = 0,
    app_template: str = "",
) -> App:
    """Return the app with the id `number`; of its `attributes` the empty ones are left out."""
    return App(
        id=number,
        name=name,
        permissions=Permissions(6, 4, 4),
        marketplace_id=marketplace.id,
        marketplace=marketplace.name,
        state=AppState.READY,
        type=type,
        source=source,
        md5=md5,
        size_mb=size_mb,
        format=format,
        version=version,
        description=description,
        regtime=regtime,
        app_template=app_template,
        template=Template(tuple((key, value) for key, value in attributes if value)),
    )


def packed(text: str) -> str:
    """Return `text` as the templates of apps hold it: base64."""
    return base64.b64encode(text.encode("utf-8", "replace")).decode("ascii")
