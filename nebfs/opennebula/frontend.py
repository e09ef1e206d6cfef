"""The front-end's lists as model objects: what exists, as this session may see it.

Start reading here. Each function is one listing, whole or an error; nothing is remembered between
two but which unreadable objects the log was already told about.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import structlog

from nebfs.errors import BadAnswer
from nebfs.model import (
    App,
    Datastore,
    Image,
    MachineState,
    Marketplace,
    User,
    VirtualMachine,
    Zone,
)
from nebfs.opennebula.decode_apps import decode_apps, decode_marketplaces
from nebfs.opennebula.decode_cloud import decode_user, decode_zones
from nebfs.opennebula.decode_images import decode_datastores, decode_images
from nebfs.opennebula.decode_vms import decode_machines
from nebfs.opennebula.failures import UnknownMethod
from nebfs.opennebula.ranges import Range, survey
from nebfs.opennebula.rpc import Caller
from nebfs.opennebula.xmlrpc import Value

T = TypeVar("T")
O = TypeVar("O", App, Image)  # noqa: E741 - an object of a pool

log = structlog.get_logger()

# The filter flag of pool calls: everything that the session may USE, whoever owns it.
_ALL_VISIBLE = -2
_MYSELF = -1

AT_REST = (MachineState.STOPPED, MachineState.POWEROFF, MachineState.UNDEPLOYED)
"""The states in which nothing writes to a VM's disks. A suspended one has a part of them in the
memory that was saved.
"""


def app_homes(marketplaces: Iterable[Marketplace]) -> dict[int, int]:
    """Return the marketplace's id for every app id that a marketplace lists."""
    return {app: marketplace.id for marketplace in marketplaces for app in marketplace.app_ids}


def image_homes(datastores: Iterable[Datastore]) -> dict[int, int]:
    """Return the datastore's id for every image id that a datastore lists."""
    return {image: datastore.id for datastore in datastores for image in datastore.image_ids}


class FrontEnd:
    """The read calls of one front-end.

    Every function raises NotAuthenticated when the session is not accepted, other RpcErrors,
    Unreachable (after the attempts of ``Caller.read``), BadAnswer or FetcherDied.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._told: dict[str, frozenset[int]] = {}

    async def version(self) -> str:
        """Return OpenNebula's version, such as ``7.4.0``; even this needs a valid session."""
        return await self._caller.read(_text, "one.system.version")

    async def user(self) -> User:
        """Return the user of the session: the cheapest proof that it is accepted."""
        # The last parameter asks for no decryption: we want no secrets at all.
        return await self._document(decode_user, "one.user.info", _MYSELF, False)

    async def zones(self) -> tuple[Zone, ...]:
        """Return the zones of the federation, by id."""
        return await self._document(decode_zones, "one.zonepool.info")

    async def marketplaces(self) -> tuple[Marketplace, ...]:
        """Return the marketplaces that the session may use, by id.

        Their `app_ids` include apps that it may not see.
        """
        # Today's servers ignore the numbers; they were parameters in the general form of a pool.
        return await self._document(
            decode_marketplaces, "one.marketpool.info", _ALL_VISIBLE, -1, -1
        )

    async def datastores(self) -> tuple[Datastore, ...]:
        """Return the datastores that the session may use, by id.

        Their `image_ids` include images that it may not see.
        """
        return await self._document(decode_datastores, "one.datastorepool.info")

    async def apps(self, known_ids: Mapping[int, int] | None = None) -> tuple[App, ...]:
        """Return the apps that the session may use, by id; their marketplace may be invisible.

        `known_ids` (see ``app_homes``) says which ids to expect and where they belong. An app that
        the front-end cannot send is there with its id and `unreadable` only.
        """

        def placeholder(number: int, home: int, reason: str) -> App:
            return App(number, f"unreadable-{number}", marketplace_id=home, unreadable=reason)

        return await self._pool("one.marketapppool.info", decode_apps, placeholder, known_ids or {})

    async def images(self, known_ids: Mapping[int, int] | None = None) -> tuple[Image, ...]:
        """Return the images that the session may use, by id; their datastore may be invisible.

        `known_ids` (see ``image_homes``) says which ids to expect and where they belong. An image
        that the front-end cannot send is there with its id and `unreadable` only.
        """

        def placeholder(number: int, home: int, reason: str) -> Image:
            return Image(number, f"unreadable-{number}", datastore_id=home, unreadable=reason)

        return await self._pool("one.imagepool.info", decode_images, placeholder, known_ids or {})

    async def machines(self) -> tuple[VirtualMachine, ...]:
        """Return the VMs that the session may use and that are at rest, by id.

        One that the front-end cannot send is left out: where its disks are is not known. Each state
        is asked for by itself, since most VMs of a cloud run, and are of no interest.
        """
        found: dict[int, VirtualMachine] = {}
        for state in AT_REST:
            for machine in await self._machines(state):
                if machine.state in AT_REST:
                    found[machine.id] = machine
        return tuple(found[number] for number in sorted(found))

    async def _machines(self, state: MachineState) -> Sequence[VirtualMachine]:
        method = "one.vmpool.infoextended"

        def ask(span: Range) -> Awaitable[Sequence[VirtualMachine]]:
            return self._document(decode_machines, method, _ALL_VISIBLE, *span.bounds, int(state))

        try:
            result = await survey(ask, ())
        except UnknownMethod:
            method = "one.vmpool.info"  # before 5.8, when it left nothing out
            result = await survey(ask, ())
        self._tell(f"{method} {state.name}", frozenset(result.unreadable), result.calls)
        return result.found

    async def _pool(
        self,
        method: str,
        decode: Callable[[str], Sequence[O]],
        placeholder: Callable[[int, int, str], O],
        homes: Mapping[int, int],
    ) -> tuple[O, ...]:
        def ask(span: Range) -> Awaitable[Sequence[O]]:
            return self._document(decode, method, _ALL_VISIBLE, *span.bounds)

        result = await survey(ask, sorted(number for number in homes if number >= 0))
        by_id = {entry.id: entry for entry in result.found}
        for number, cause in result.unreadable.items():
            reason = (
                "OpenNebula cannot send this object, most often because of an emoji in its name,"
                f" description or template; edit it in OpenNebula to see it here ({cause})"
            )
            by_id.setdefault(number, placeholder(number, homes.get(number, -1), reason))
        self._tell(method, frozenset(result.unreadable), result.calls)
        return tuple(by_id[number] for number in sorted(by_id))

    def _tell(self, method: str, unreadable: frozenset[int], calls: int) -> None:
        """Log unreadable objects when they change, not at every refresh."""
        if unreadable and unreadable != self._told.get(method):
            some = sorted(unreadable)[:20]
            log.warning("pool.unreadable", method=method, ids=some, n=len(unreadable), calls=calls)
        self._told[method] = unreadable

    async def _document(self, decode: Callable[[str], T], method: str, *params: int | bool) -> T:
        def parsed(value: Value) -> T:
            return decode(_text(value))

        return await self._caller.read(parsed, method, *params)


def _text(value: Value) -> str:
    if not isinstance(value, str):
        raise BadAnswer("the answer is a number where a text was expected", value=value)
    return value
