"""What a locator of the transport ``iscsi`` says, and what its target is shown.

The address is ``iscsi://HOST[:PORT]/TARGET/LUN``, an IPv6 address in brackets, TARGET
percent-encoded where it needs to be. Options: ``user``, the name for CHAP; ``initiator``, the name
by which the target knows us. The password, and a user that counts more, are in the file of
credentials, under ``iscsi://HOST[:PORT]`` or ``iscsi://HOST[:PORT]/TARGET``.
Source: RFC 7143 (iSCSI), sections 4.2.7 (names) and 12.1 (CHAP); RFC 7144 has the LUNs of SAM-4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import quote, unquote, urlsplit

from nebfs.errors import Refused, Unsupported
from nebfs.fetcher.access import Accesses
from nebfs.fetcher.transports.qsd import Node

PORT = 3260
MAX_LUN = 16383  # what a flat LUN has room for

# More than the standard allows: OpenNebula's own documentation has iqn.2014.01.192.168.50.61:x.
_NAME = re.compile(r"[!-.0-~]{1,223}")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}")
_PASSWORD = "chap"  # noqa: S105 - the id of QEMU's object


@dataclass(frozen=True, slots=True)
class Place:
    """A logical unit of a target, and how it is entered."""

    portal: str
    target: str
    lun: int
    user: str = ""
    initiator: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def at(cls, address: str, options: Mapping[str, str], accesses: Accesses) -> Self:
        """Read a locator. Raises Unsupported, or Refused when there is no password for its user."""
        try:
            parts = urlsplit(address)
            host, port = parts.hostname or "", parts.port or PORT
        except ValueError as exc:
            raise Unsupported("that is no address of an iSCSI unit") from exc
        name, _, lun = parts.path.removeprefix("/").partition("/")
        target = unquote(name)
        if (
            parts.scheme != "iscsi"
            or not _HOST.fullmatch(host)
            or not _NAME.fullmatch(target)
            or not re.fullmatch(r"[0-9]{1,5}", lun)
            or int(lun) > MAX_LUN
        ):
            raise Unsupported("that is no address of an iSCSI unit")
        initiator = options.get("initiator", "")
        if initiator and not _NAME.fullmatch(initiator):
            raise Unsupported("the initiator's name is not one that iSCSI allows")
        portal = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        # As they are compared, however the locator spells it.
        access = accesses.of(f"iscsi://{portal}/{quote(target, safe=':')}/{int(lun)}")
        user = access.user or options.get("user", "")
        if user and not access.password:
            raise Refused(
                "there is no CHAP password: the file of credentials is to have one for"
                f" iscsi://{portal}",
                user=user,
            )
        if access.password and not user:
            raise Refused(
                "the file of credentials has a CHAP password for it and no user", portal=portal
            )
        return cls(portal, target, int(lun), user, initiator, access.password)

    @property
    def shown(self) -> str:
        """The place as it may be shown."""
        return f"iscsi://{self.portal}/{self.target}/{self.lun}"

    def node(self) -> Node:
        """Return it as a node of QEMU's."""
        options: dict[str, object] = {
            "driver": "iscsi",
            "transport": "tcp",
            "portal": self.portal,
            "target": self.target,
            "lun": self.lun,
        }
        secrets = {}
        if self.initiator:
            options["initiator-name"] = self.initiator
        if self.user:
            options |= {"user": self.user, "password-secret": _PASSWORD}
            secrets[_PASSWORD] = self.password
        return Node.of(options, secrets, self.shown)
