"""``netapp``: images are LUNs of a NetApp array, found by ONTAP's REST API.

The volume of an image holds one LUN, ``<volume>_lun``. NETAPP_HOST, NETAPP_USER, NETAPP_PASS and
NETAPP_SVM say where it is; NETAPP_SUFFIX belongs to the volume's name. How bytes are read is in
arrays.py.
NETAPP_TARGET and NETAPP_IGROUP are of OpenNebula's hosts; by which target and which group we are
let in the array itself is asked. No machine of NetApp's was at hand: this is written by the API's
description, and tested against a fake that answers by it.
Source: ONTAP 9 REST API (docs.netapp.com), endpoints storage/luns, protocols/san/igroups,
protocols/san/iscsi/services and network/ip/interfaces. WWIDs: ``3600a0980``, then the serial number
in hexadecimal, which is what a LUN of ONTAP calls itself (NAA 6, NetApp's OUI 00:a0:98).
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from nebfs.datastores.arrays import (
    Reach,
    Settings,
    Unit,
    address_of,
    host_trouble,
    is_size,
)
from nebfs.datastores.rest import Api, Login, base_of
from nebfs.fetcher.messages import Call
from nebfs.model import Datastore, Holding, Image, Trouble, shown_line

TRANSPORT = "ontap"

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_SERIAL = re.compile(r"[\x21-\x7e]{12}")
_PAGE = 1000
_MOST_PAGES = 100
_FIELDS = "serial_number,space.size,status,location,lun_maps,create_time,svm.uuid"

Query = list[tuple[str, str]]


class NetappDatastore:
    """Asks the array what its LUNs are."""

    def __init__(
        self,
        *,
        paths: Mapping[str, str],  # noqa: ARG002 - it has no directories
        call: Call | None,
        settings: Settings | None = None,
    ) -> None:
        """See DriverFactory."""
        self._call = call
        self._reach = Reach(settings or {})

    async def holdings(self, datastore: Datastore, images: Sequence[Image]) -> tuple[Holding, ...]:
        """See DatastoreDriver. Raises what the array says about all of it, such as Refused."""
        suffix = datastore.template.get("NETAPP_SUFFIX").strip()
        return await self._reach.hold(datastore, images, self._array(datastore), suffix)

    def _array(self, datastore: Datastore) -> Ontap | Trouble:
        template = datastore.template
        base = base_of(template.get("NETAPP_HOST"))
        if not base:
            return host_trouble("NETAPP_HOST")
        if self._call is None:
            return Trouble(errno.EOPNOTSUPP, "an array cannot be reached from here")
        user, password = template.get("NETAPP_USER"), template.get("NETAPP_PASS")
        login = Login.of_user(user, password, base, "NETAPP_PASS")
        api = Api(self._call, TRANSPORT, base, login, "the array")
        return Ontap(api, login, template.get("NETAPP_SVM").strip())


class Ontap:
    """The Array; `svm` is the UUID or the name of a storage VM, or empty for all that are seen."""

    def __init__(self, api: Api, login: Login, svm: str) -> None:
        self.login = login
        self._api = api
        key = "svm.uuid" if _UUID.fullmatch(svm) else "svm.name"
        self._svm: Query = [(key, svm)] if svm else []
        self._luns: list[tuple[str, Mapping[str, Any]]] = []
        """WWID and record of each LUN that was told of."""

    async def units(self, prefix: str) -> Mapping[str, Unit | Trouble]:
        """See Array."""
        query = [*self._svm, ("location.volume.name", f"{prefix}*"), ("fields", _FIELDS)]
        units: dict[str, Unit | Trouble] = {}
        for record in await self._records("/api/storage/luns", query):
            name, volume = _text(record, "name"), _text(record, "location", "volume", "name")
            if name.rpartition("/")[2] != f"{volume}_lun":
                continue  # not one that OpenNebula has made
            if volume in units:
                units[volume] = _TWICE
                continue
            units[volume] = unit = _unit(record)
            if isinstance(unit, Unit):
                self._luns.append((unit.wwid, record))
        return units

    async def ways(self, initiator: str) -> Mapping[str, str]:
        """See Array."""
        query = [*self._svm, ("initiators.name", initiator), ("fields", "uuid")]
        groups = {
            _text(record, "uuid") for record in await self._records(f"{_SAN}/igroups", query)
        } - {""}
        if not groups:
            return {}
        services = await self._records(
            f"{_SAN}/iscsi/services",
            [*self._svm, ("enabled", "true"), ("fields", "target.name,svm.uuid")],
        )
        targets = {_text(r, "svm", "uuid"): _text(r, "target", "name") for r in services}
        portals = await self._records(
            "/api/network/ip/interfaces",
            [
                *self._svm,
                ("services", "data_iscsi"),
                ("state", "up"),
                ("fields", "ip.address,location,svm.uuid"),
            ],
        )
        ways = {}
        for wwid, record in self._luns:
            svm = _text(record, "svm", "uuid")
            numbers = [
                one.get("logical_unit_number")
                for one in _list(record, "lun_maps")
                if _text(one, "igroup", "uuid") in groups
            ]
            portal = _portal(portals, svm, _text(record, "location", "node", "name"))
            address = address_of(portal, targets.get(svm, ""), numbers[0]) if numbers else ""
            if address:
                ways[wwid] = address
        return ways

    async def _records(self, path: str, query: Query) -> list[Mapping[str, Any]]:
        """Return every record of a collection, page by page."""
        records: list[Mapping[str, Any]] = []
        query = [*query, ("max_records", str(_PAGE))]
        for _ in range(_MOST_PAGES):
            answer = await self._api.get(path, query)
            if not isinstance(answer.get("records"), list):
                raise self._api.not_understood("a list")
            records += _list(answer, "records")
            following = _text(answer, "_links", "next", "href")
            if not following:
                return records
            parts = urlsplit(following)
            # It is a path of the same host, or it is nothing that we follow.
            if parts.netloc or parts.path != path:
                break
            query = parse_qsl(parts.query)
        raise self._api.not_understood("the next page of a list")


_SAN = "/api/protocols/san"
_TWICE = Trouble(errno.EIO, "the array has two volumes of this name: NETAPP_SVM says in which SVM")


def _unit(record: Mapping[str, Any]) -> Unit | Trouble:
    serial, uuid = _text(record, "serial_number"), _text(record, "uuid")
    size = record["space"].get("size") if isinstance(record.get("space"), dict) else None
    if not _SERIAL.fullmatch(serial) or not is_size(size):
        return Trouble(errno.EIO, "the array's answer about its LUN is not understood")
    for where in ("container_state", "state"):
        state = _text(record, "status", where)
        if state not in {"online", ""}:
            return Trouble(errno.EIO, f"the array has its LUN in state {shown_line(state)}")
    version = f"{serial}.{uuid}.{_text(record, 'create_time')}"
    return Unit(f"3600a0980{serial.encode('ascii').hex()}", size, version)


def _portal(portals: Sequence[Mapping[str, Any]], svm: str, node: str) -> str:
    """Return an address by which the LUN of a node is seen; ONTAP may hide it on other nodes."""
    usable = [one for one in portals if _text(one, "svm", "uuid") == svm]
    near = [one for one in usable if node and _text(one, "location", "node", "name") == node]
    addresses = sorted(_text(one, "ip", "address") for one in near or usable)
    address = next(filter(None, addresses), "")
    return f"[{address}]" if ":" in address else address


def _text(record: Mapping[str, Any], *keys: str) -> str:
    found: Any = record
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, str) else ""


def _list(record: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = record.get(key)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
