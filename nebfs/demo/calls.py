"""The calls that read: which objects a user may see, and what each call returns of them.

Each function gets one Call and returns the text of a success. oned's ways are kept: pools come in
descending order of ids, `end` below -1 means a page, rights are permission bits or the default
rules that every group gets (which make permission bits of apps hide nothing).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from nebfs.demo import documents
from nebfs.demo.cloud import Cloud
from nebfs.demo.records import AppRecord, ImageRecord, MarketplaceRecord, Record, UserRecord

_AUTHORIZATION, _NO_EXISTS, _RPC_API = 512, 1024, 4096
_ADMINISTRATORS = 0
"""The group whose members may do everything."""
_MINE_AND_GROUPS, _ALL, _MINE, _PRIMARY_GROUP = -1, -2, -3, -4
_USE = 4

_R = TypeVar("_R", bound=Record)


class FailureError(Exception):
    """The call ran and failed: an array that begins with false."""

    def __init__(self, text: str, code: int, object_id: int = -1) -> None:
        super().__init__(text)
        self.text, self.code, self.object_id = text, code, object_id


class FaultError(Exception):
    """The call could not be run: an XML-RPC fault."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


@dataclass(frozen=True, slots=True)
class Call:
    """One authenticated call; `parameters` begin with the session."""

    cloud: Cloud
    user: UserRecord
    method: str
    parameters: tuple[object, ...] = field(repr=False)

    def integer(self, index: int) -> int:
        """Return parameter `index`; fault -501 when it is missing or something else."""
        if index >= len(self.parameters):
            raise FaultError(-501, "Not enough parameters")
        value = self.parameters[index]
        if isinstance(value, bool) or not isinstance(value, int):
            raise FaultError(-501, "Parameter that is supposed to be integer is not")
        return value

    def may_use(self, record: Record) -> bool:
        """Say whether the calling user has USE on `record`."""
        user, bits = self.user, record.permissions
        if _ADMINISTRATORS in user.groups:
            return True
        if isinstance(record, (AppRecord, MarketplaceRecord)):
            ruled = user.uses_all_apps
        else:  # the default VDC speaks of datastores, not of the images in them
            ruled = user.uses_all_datastores and not isinstance(record, ImageRecord)
        return bool(
            ruled
            or bits.other & _USE
            or (bits.group & _USE and record.gid in user.groups)
            or (bits.owner & _USE and record.uid == user.id)
        )

    def one(self, table: dict[int, _R], kind: str) -> _R:
        """Return the object that parameter 1 names, if the user may see it."""
        number = self.integer(1)
        record = table.get(number)
        if record is None:
            raise self.not_there(number, kind)
        if not self.may_use(record):
            raise self.not_allowed(number, kind)
        return record

    def not_there(self, number: int, kind: str) -> FailureError:
        """Return the failure for an object that does not exist."""
        which = f"[{number}]" if number >= 0 else "Pool"  # a negative id reads as "the pool"
        return FailureError(
            f"[{self.method}] Error getting {kind} {which}.", _NO_EXISTS, max(number, -1)
        )

    def not_allowed(self, number: int, kind: str) -> FailureError:
        """Return the failure for an object that the user may not use."""
        return FailureError(
            f"[{self.method}] User [{self.user.id}] : Not authorized to perform "
            f"USE {kind.upper()} [{number}].",
            _AUTHORIZATION,
        )

    def pool(self, records: Iterable[_R]) -> list[_R]:
        """Return the visible ones of `records`, newest id first."""
        return sorted(filter(self.may_use, records), key=lambda r: r.id, reverse=True)

    def filtered(self, records: Iterable[_R]) -> list[_R]:
        """Return the pool that the parameters filter, start and end ask for."""
        flag, start, end = self.integer(1), self.integer(2), self.integer(3)
        if flag < _PRIMARY_GROUP:
            raise FailureError(f"[{self.method}] Incorrect filter_flag", _RPC_API)
        visible = [record for record in self.pool(records) if self._passes(record, flag)]
        if end < -1:
            offset = max(start, 0)
            return visible[offset : offset - end]
        return [r for r in visible if r.id >= start and (end == -1 or r.id <= end)]

    def _passes(self, record: Record, flag: int) -> bool:
        user = self.user
        if flag == _MINE:
            return record.uid == user.id
        if flag == _MINE_AND_GROUPS:
            return record.uid == user.id or record.gid in user.groups
        if flag == _PRIMARY_GROUP:
            return record.gid == user.gid
        return flag in (_ALL, record.uid)


def _version(call: Call) -> str:
    return call.cloud.version


def _marketplace(call: Call, record: MarketplaceRecord) -> str:
    return documents.marketplace(record, call.cloud.app_ids(record.id))


def _market_pool(call: Call) -> str:
    records = call.pool(call.cloud.marketplaces.values())
    return documents.wrap("MARKETPLACE_POOL", (_marketplace(call, r) for r in records))


def _market(call: Call) -> str:
    return _marketplace(call, call.one(call.cloud.marketplaces, "marketplace"))


def _app_pool(call: Call) -> str:
    records = call.filtered(call.cloud.apps.values())
    return documents.wrap("MARKETPLACEAPP_POOL", map(documents.app, records))


def _app(call: Call) -> str:
    return documents.app(call.one(call.cloud.apps, "marketplaceapp"))


def _datastore_pool(call: Call) -> str:
    records = call.pool(call.cloud.datastores.values())
    return documents.wrap(
        "DATASTORE_POOL",
        (documents.datastore(r, call.cloud.image_ids(r.id)) for r in records),
    )


def _datastore(call: Call) -> str:
    record = call.one(call.cloud.datastores, "datastore")
    return documents.datastore(record, call.cloud.image_ids(record.id))


def _image_pool(call: Call) -> str:
    records = call.filtered(call.cloud.images.values())
    return documents.wrap("IMAGE_POOL", map(documents.image, records))


def _image(call: Call) -> str:
    return documents.image(call.one(call.cloud.images, "image"))


def _zone_pool(call: Call) -> str:
    zones = sorted(call.cloud.zones.values(), key=lambda zone: zone.id, reverse=True)
    return documents.wrap("ZONE_POOL", map(documents.zone, zones))


def _zone(call: Call) -> str:
    number = call.integer(1)
    if number not in call.cloud.zones:
        raise call.not_there(number, "zone")
    return documents.zone(call.cloud.zones[number])


def _user(call: Call) -> str:
    number = call.integer(1)
    if number in (-1, call.user.id):
        return documents.user(call.user)
    record = next((u for u in call.cloud.users.values() if u.id == number), None)
    if record is None:
        raise call.not_there(number, "user")
    if _ADMINISTRATORS not in call.user.groups:
        raise call.not_allowed(number, "user")
    return documents.user(record)


METHODS: dict[str, Callable[[Call], str]] = {
    "one.datastore.info": _datastore,
    "one.datastorepool.info": _datastore_pool,
    "one.image.info": _image,
    "one.imagepool.info": _image_pool,
    "one.market.info": _market,
    "one.marketapp.info": _app,
    "one.marketapppool.info": _app_pool,
    "one.marketpool.info": _market_pool,
    "one.system.version": _version,
    "one.user.info": _user,
    "one.zone.info": _zone,
    "one.zonepool.info": _zone_pool,
}
