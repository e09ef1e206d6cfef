"""The cloud's own documents: zones, the calling user, the version.

A USER document holds the hash of the password and login tokens in clear. They are never copied out.
"""

from __future__ import annotations

from nebfs.model import User, Zone
from nebfs.opennebula.document import Node, objects, parse


def decode_zones(document: str) -> tuple[Zone, ...]:
    """Read a ZONE_POOL or a single ZONE, by ascending id. Raises MalformedDocument."""
    return tuple(sorted(map(_zone, objects(document, "ZONE")), key=lambda zone: zone.id))


def decode_user(document: str) -> User:
    """Read a USER, without its secrets and quotas. Raises MalformedDocument."""
    node = parse(document, "USER")
    return User(
        id=node.object_id(),
        name=node.text("NAME"),
        gid=node.number("GID", -1),
        gname=node.text("GNAME"),
        groups=node.ids("GROUPS"),
    )


def _zone(node: Node) -> Zone:
    return Zone(
        id=node.object_id(),
        name=node.text("NAME"),
        endpoint=node.template().get("ENDPOINT"),
        enabled=node.number("STATE") == 0,
    )
