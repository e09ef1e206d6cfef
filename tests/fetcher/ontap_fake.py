"""A fake of ONTAP's REST API: it answers as NetApp's published description of it says.

The description: https://docs.netapp.com/us-en/ontap-restapi/ , which the package netapp-ontap 9.19
holds with examples. What of it is here:

- storage/luns (endpoint overview, "Retrieving details for a specific LUN"): the records' form;
  ``serial_number`` has twelve characters. A record of a collection has its identifiers and what
  ``fields`` names ("Retrieving LUNs"; "Requesting specific fields"), and a filter's value may have
  ``*`` in it (docs.netapp.com/us-en/ontap-automation/rest/input_variables.html).
- protocols/san/igroups: ``initiators.name`` filters; groups report nested groups' initiators, too.
- protocols/san/iscsi/services ("Retrieving details"): ``target.name``.
- network/ip/interfaces: ``services`` with ``data_iscsi``, ``ip.address``, ``location.node.name``.
- "Getting started": HTTP Basic authentication; ``max_records`` and ``_links.next.href``; errors are
  ``{"error": {"message", "code"}}``.
"""

from __future__ import annotations

import base64
import fnmatch
import json
import uuid
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from tests.fetcher.service import Asked, Told

SVM = "6bf967fd-2a1c-11e9-b682-005056bbc17d"
GROUP = "2b9d57e1-2a66-11e9-b682-005056bbc17d"
TARGET = "iqn.1992-08.com.netapp:sn.6bf967fd2a1c11e9b682005056bbc17d:vs.3"

_PATHS = {
    "/api/storage/luns": "luns",
    "/api/protocols/san/igroups": "groups",
    "/api/protocols/san/iscsi/services": "services",
    "/api/network/ip/interfaces": "interfaces",
}


def serial_of(number: int) -> str:
    return f"wf0I?+N4{number:04d}"


def wwid_of(number: int) -> str:
    return "3600a0980" + serial_of(number).encode().hex()


@dataclass
class OntapFake:
    """One array with one SVM. `portal` is the address of its only iSCSI interface."""

    user: str = "admin"
    password: str = "canary-password"
    portal: str = "10.0.0.7"
    target: str = TARGET
    page: int = 1000
    requests: list[Asked] = field(default_factory=list)
    forbidden: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        svm = {"uuid": SVM, "name": "svm1"}
        self.luns: list[dict[str, Any]] = []
        self.groups = [
            {
                "svm": svm,
                "uuid": GROUP,
                "name": "nebfs",
                "initiators": [{"name": "iqn.2026-01.x:me"}],
            }
        ]
        self.services = [
            {"svm": svm, "enabled": True, "target": {"name": self.target, "alias": "svm1"}}
        ]
        self.interfaces = [
            {
                "svm": svm,
                "name": "lif1",
                "state": "up",
                "services": ["data_core", "data_iscsi"],
                "ip": {"address": self.portal},
                "location": {"node": {"name": "node1"}},
            }
        ]

    def put(self, volume: str, number: int, size: int, *, mapped: int | None = None, **changes):
        """Add a volume with its LUN, as OpenNebula makes them; `mapped` is its number in GROUP."""
        record = {
            "uuid": str(uuid.uuid5(uuid.NAMESPACE_OID, volume)),
            "svm": {"uuid": SVM, "name": "svm1"},
            "name": f"/vol/{volume}/{volume}_lun",
            "serial_number": serial_of(number),
            "create_time": "2026-06-04T19:00:00+00:00",
            "os_type": "linux",
            "space": {"size": size, "used": 0},
            "status": {"state": "online", "container_state": "online", "read_only": False},
            "location": {
                "logical_unit": f"{volume}_lun",
                "volume": {"name": volume},
                "node": {"name": "node1"},
            },
            "lun_maps": [
                {"logical_unit_number": 99, "igroup": {"uuid": "other", "name": "hosts"}},
                *(
                    [{"logical_unit_number": mapped, "igroup": {"uuid": GROUP, "name": "nebfs"}}]
                    if mapped is not None
                    else []
                ),
            ],
        }
        self.luns.append({**record, **changes})

    def respond(self, asked: Asked) -> Told:
        self.requests.append(asked)
        pair = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        if asked.headers.get("authorization") != f"Basic {pair}":
            return _error(401, "6691623", "User is not authorized.")
        kind = _PATHS.get(asked.path, "")
        if asked.path in self.forbidden:
            return _error(403, "6", "not authorized for that command")
        if asked.method != "GET" or not kind:
            return _error(404, "3", "API not found")
        records: list[dict[str, Any]] = getattr(self, kind)
        fields = asked.query.get("fields", "").split(",")
        filters = {
            name: value
            for name, value in asked.query.items()
            if name not in ("fields", "max_records", "start.index")
        }
        found = [_shown(r, fields) for r in records if _fits(r, filters)]
        most = min(int(asked.query.get("max_records", 10000)), self.page)
        start = int(asked.query.get("start.index", 0))
        answer: dict[str, Any] = {"records": found[start : start + most], "_links": {}}
        answer["num_records"] = len(answer["records"])
        if start + most < len(found):
            query = urlencode({**asked.query, "start.index": str(start + most)})
            answer["_links"]["next"] = {"href": f"{asked.path}?{query}"}
        return Told(200, json.dumps(answer).encode(), {"Content-Type": "application/hal+json"})


def _error(status: int, code: str, message: str) -> Told:
    return Told(status, json.dumps({"error": {"code": code, "message": message}}).encode())


def _shown(record: dict[str, Any], fields: list[str]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for field_name in ("uuid", "name", "svm.name", *fields):
        source, target = record, shown
        *path, last = field_name.split(".")
        for key in path:
            source, target = source.get(key) or {}, target.setdefault(key, {})
        if last in source:
            target[last] = source[last]
    return shown


def _fits(record: dict[str, Any], filters: dict[str, str]) -> bool:
    return all(
        any(fnmatch.fnmatchcase(text, wanted) for text in _values(record, name.split(".")))
        for name, wanted in filters.items()
    )


def _values(found: Any, keys: list[str]) -> list[str]:
    if isinstance(found, list):
        return [text for one in found for text in _values(one, keys)]
    if keys:
        return _values(found[keys[0]], keys[1:]) if keys[0] in found else []
    return [str(found).lower() if isinstance(found, bool) else str(found)]
