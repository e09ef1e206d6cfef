"""``purefa``: images are volumes of a Pure Storage FlashArray, found by its REST API.

PUREFA_HOST, PUREFA_API_TOKEN and PUREFA_VERSION (of the API) say where and how it is asked;
PUREFA_SUFFIX belongs to the volume's name, PUREFA_TARGET is the iSCSI target of OpenNebula's hosts.
How bytes are read is in arrays.py. No machine of Pure's was at hand: this is written by the API's
description, and tested against a fake that answers by it.
Source: FlashArray REST API 2.9, as Pure's client py-pure-client has it: volumes, hosts, connections
and ports. WWIDs: ``3624a9370``, then the volume's serial number in small letters, which is what a
volume calls itself (NAA 6, Pure's OUI 24:a9:37).
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping, Sequence
from typing import Any

from nebfs.datastores.arrays import Reach, Settings, Unit, address_of, host_trouble, is_size
from nebfs.datastores.rest import Api, Login, base_of
from nebfs.fetcher.messages import Call
from nebfs.model import Datastore, Holding, Image, Trouble

TRANSPORT = "purity"
_VERSION = "2.9"  # OpenNebula's default
_IS_VERSION = re.compile(r"2\.[0-9]{1,3}")
_SERIAL = re.compile(r"[0-9A-Fa-f]{24}")
_PAGE = 500
_MOST_PAGES = 200

Query = list[tuple[str, str]]
Items = list[Mapping[str, Any]]


class PurefaDatastore:
    """Asks the array what its volumes are."""

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
        suffix = datastore.template.get("PUREFA_SUFFIX").strip()
        return await self._reach.hold(datastore, images, self._array(datastore), suffix)

    def _array(self, datastore: Datastore) -> FlashArray | Trouble:
        template = datastore.template
        base = base_of(template.get("PUREFA_HOST"))
        if not base:
            return host_trouble("PUREFA_HOST")
        version = template.get("PUREFA_VERSION").strip() or _VERSION
        if not _IS_VERSION.fullmatch(version):
            return Trouble(errno.EIO, "the datastore's PUREFA_VERSION is none of REST API 2")
        if self._call is None:
            return Trouble(errno.EOPNOTSUPP, "an array cannot be reached from here")
        login = Login.of_token(template.get("PUREFA_API_TOKEN").strip(), base, "PUREFA_API_TOKEN")
        api = Api(self._call, TRANSPORT, f"{base}/api/{version}", login, "the array")
        return FlashArray(api, login, template.get("PUREFA_TARGET").strip())


class FlashArray:
    """The Array; `target` is the iSCSI target to use, if the array has it."""

    def __init__(self, api: Api, login: Login, target: str) -> None:
        self.login = login
        self._api = api
        self._target = target
        self._wwids: dict[str, str] = {}
        """By the volume's name, of each that was told of."""

    async def units(self, prefix: str) -> Mapping[str, Unit | Trouble]:
        """See Array."""
        query = [("filter", f"name='{prefix}*'"), ("destroyed", "false")]
        units: dict[str, Unit | Trouble] = {}
        for item in await self._items("/volumes", query):
            name = _text(item, "name")
            units[name] = unit = _unit(item)
            if isinstance(unit, Unit):
                self._wwids[name] = unit.wwid
        return units

    async def ways(self, initiator: str) -> Mapping[str, str]:
        """See Array."""
        # Not by a filter: what the API understands of one about lists is not described.
        hosts = [
            _text(item, "name")
            for item in await self._items("/hosts")
            if initiator in _list(item, "iqns")
        ]
        if not hosts:
            return {}
        portal = _portal(await self._items("/ports"), self._target)
        if portal is None:
            return {}
        ways = {}
        query = [("host_names", ",".join(hosts))]
        for item in await self._items("/connections", query):
            wwid = self._wwids.get(_text(item, "volume", "name"))
            if wwid is not None and _text(item, "host", "name") in hosts:
                address = address_of(*portal, item.get("lun"))
                if address:
                    ways[wwid] = address
        return ways

    async def _items(self, path: str, query: Sequence[tuple[str, str]] = ()) -> Items:
        """Return every item of a collection, page by page."""
        items: Items = []
        following: Query = []
        for _ in range(_MOST_PAGES):
            answer = await self._api.get(path, [*query, ("limit", str(_PAGE)), *following])
            if not isinstance(answer.get("items"), list):
                raise self._api.not_understood("a list")
            items += [one for one in _list(answer, "items") if isinstance(one, dict)]
            if answer.get("more_items_remaining") is not True:
                return items
            token = _text(answer, "continuation_token")
            if not token:
                break
            following = [("continuation_token", token)]
        raise self._api.not_understood("the next page of a list")


def _unit(item: Mapping[str, Any]) -> Unit | Trouble:
    serial, size = _text(item, "serial"), item.get("provisioned")
    if not _SERIAL.fullmatch(serial) or not is_size(size):
        return Trouble(errno.EIO, "the array's answer about its volume is not understood")
    version = f"{serial}.{item.get('created')}"
    return Unit(f"3624a9370{serial.lower()}", size, version)


def _portal(ports: Items, wanted: str) -> tuple[str, str] | None:
    """Return portal and target of a port that speaks iSCSI; None if there is none."""
    found = sorted(
        # One that has failed over is better left alone.
        (_text(one, "iqn") != wanted, bool(_text(one, "failover")), _text(one, "portal"), target)
        for one in ports
        if (target := _text(one, "iqn")) and _text(one, "portal")
    )
    return (found[0][2], found[0][3]) if found else None


def _text(item: Mapping[str, Any], *keys: str) -> str:
    found: Any = item
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, str) else ""


def _list(item: Mapping[str, Any], key: str) -> list[Any]:
    found = item.get(key)
    return found if isinstance(found, list) else []
