"""A fake of a FlashArray's REST API 2.9: it answers as Pure's published description of it says.

The description: https://support.purestorage.com/ (FlashArray REST 2.x Reference), which Pure's
client py-pure-client 1.96 holds as models and doc comments (pypureclient/flasharray). What is here:

- login and logout (api_token_manager.py): POST with the header ``api-token``; the session is the
  answer's header ``x-auth-token``, and every other request carries it.
- volumes (models/volume_v_2_9.py): ``serial``, ``provisioned`` in bytes, ``created`` in ms,
  ``destroyed``; ``filter`` with ``*`` in a string.
- hosts (models/host_v_2_1.py): ``iqns``. connections (models/connection_v_2_1.py): one item for
  each host and volume, with ``lun``. ports (models/port_v_2_2.py): ``iqn``, ``portal``, each null
  where the port is of another kind.
- answers (models/volume_get_response_v_2_9.py): ``items``, ``more_items_remaining`` and
  ``continuation_token``; errors are ``{"errors": [{"message", "context"}]}``.
"""

from __future__ import annotations

import fnmatch
import json
import re
from dataclasses import dataclass, field
from typing import Any

from tests.fetcher.service import Asked, Told

TARGET = "iqn.2010-06.com.purestorage:flasharray.2b3c4d5e6f"
API = "/api/2.9"


def serial_of(number: int) -> str:
    return f"A21265762DB64ECE{number:08X}"


def wwid_of(number: int) -> str:
    return "3624a9370" + serial_of(number).lower()


@dataclass
class PurityFake:
    """One array. `portal` is that of its only iSCSI port."""

    token: str = "canary-0f2e2884-9486"
    portal: str = "10.0.0.9:3260"
    target: str = TARGET
    page: int = 1000
    requests: list[Asked] = field(default_factory=list)
    sessions: set[str] = field(default_factory=set)
    logins: int = 0

    def __post_init__(self) -> None:
        self.volumes: list[dict[str, Any]] = []
        self.connections: list[dict[str, Any]] = []
        self.hosts = [
            {"name": "node1", "iqns": ["iqn.2026-01.x:node1"], "nqns": [], "wwns": []},
            {"name": "nebfs", "iqns": ["iqn.2026-01.x:me"], "nqns": [], "wwns": []},
        ]
        self.ports = [
            {"name": "CT0.FC0", "iqn": None, "portal": None, "wwn": "52:4A", "failover": None},
            {
                "name": "CT0.ETH4",
                "iqn": self.target,
                "portal": self.portal,
                "wwn": None,
                "failover": None,
            },
        ]

    def put(self, name: str, number: int, size: int, *, mapped: int | None = None, **changes):
        """Add a volume; `mapped` is the LUN by which the host ``nebfs`` sees it."""
        volume = {
            "name": name,
            "id": f"id-{name}",
            "serial": serial_of(number),
            "provisioned": size,
            "created": 1_780_000_000_000 + number,
            "destroyed": False,
            "subtype": "regular",
        }
        self.volumes.append({**volume, **changes})
        self._connect("node1", name, 200 + number)
        if mapped is not None:
            self._connect("nebfs", name, mapped)

    def _connect(self, host: str, volume: str, lun: int) -> None:
        self.connections.append(
            {"host": {"name": host}, "host_group": {}, "lun": lun, "volume": {"name": volume}}
        )

    def respond(self, asked: Asked) -> Told:
        self.requests.append(asked)
        if not asked.path.startswith(f"{API}/"):
            return _error(404, "there is no such version of the API")
        what = asked.path.removeprefix(f"{API}/")
        if what == "login":
            return self._login(asked)
        session = asked.headers.get("x-auth-token", "")
        if session not in self.sessions:
            return _error(401, "Unauthorized")
        if what == "logout":
            self.sessions.discard(session)
            return Told(200)
        if asked.method != "GET" or what not in ("volumes", "hosts", "connections", "ports"):
            return _error(404, "no such endpoint")
        return self._list(getattr(self, what), asked.query)

    def _login(self, asked: Asked) -> Told:
        self.logins += 1
        if asked.method != "POST" or asked.headers.get("api-token") != self.token:
            return _error(400, "Invalid api-token")
        session = f"canary-session-{self.logins}"
        self.sessions.add(session)
        return Told(200, b'{"items": [{"username": "nebfs"}]}', {"x-auth-token": session})

    def _list(self, items: list[dict[str, Any]], query: dict[str, str]) -> Told:
        if "filter" in query:
            found = re.fullmatch(r"name='([^']*)'", query["filter"])
            if found is None:
                return _error(400, "Invalid filter")
            items = [one for one in items if fnmatch.fnmatchcase(one["name"], found[1])]
        if "destroyed" in query:
            items = [one for one in items if str(one["destroyed"]).lower() == query["destroyed"]]
        if "host_names" in query:
            hosts = query["host_names"].split(",")
            items = [one for one in items if one["host"]["name"] in hosts]
        start = int(query.get("continuation_token", 0))
        stop = start + min(int(query.get("limit", 1000)), self.page)
        more = stop < len(items)
        answer = {
            "items": items[start:stop],
            "more_items_remaining": more,
            "continuation_token": str(stop) if more else None,
        }
        return Told(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})


def _error(status: int, message: str) -> Told:
    return Told(status, json.dumps({"errors": [{"message": message, "context": ""}]}).encode())
