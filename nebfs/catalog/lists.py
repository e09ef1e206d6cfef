"""The front-end's lists, as one session may see them: the judgement of who may use what.

They are all or nothing, since half a list looks like deleted images. A survey asks for them with
the session of the mount, for all or for those that one place's listing is made of; what another
user of the machine may use is asked with his own.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import trio

from nebfs.catalog.together import together
from nebfs.errors import NebfsError, Refused, TimedOut
from nebfs.model import (
    App,
    Datastore,
    Image,
    Marketplace,
    User,
    VirtualMachine,
    Zone,
)
from nebfs.opennebula import app_homes, image_homes
from nebfs.units import format_duration


class FrontEnd(Protocol):
    """What a survey asks of a front-end; ``opennebula.FrontEnd`` is one.

    Each raises Refused when the session is not accepted, or another NebfsError.
    """

    async def version(self) -> str:
        """Return OpenNebula's version."""
        ...

    async def user(self) -> User:
        """Return the user of the session."""
        ...

    async def zones(self) -> tuple[Zone, ...]:
        """Return the zones of the federation."""
        ...

    async def marketplaces(self) -> tuple[Marketplace, ...]:
        """Return the marketplaces that the session may use."""
        ...

    async def apps(self, known_ids: Mapping[int, int]) -> tuple[App, ...]:
        """Return the apps that the session may use. `known_ids`: app -> its marketplace."""
        ...

    async def datastores(self) -> tuple[Datastore, ...]:
        """Return the datastores that the session may use."""
        ...

    async def images(self, known_ids: Mapping[int, int]) -> tuple[Image, ...]:
        """Return the images that the session may use. `known_ids`: image -> its datastore."""
        ...

    async def machines(self) -> tuple[VirtualMachine, ...]:
        """Return the VMs that the session may use and that are at rest."""
        ...


@dataclass(frozen=True, slots=True)
class Failed:
    """Why there is no answer."""

    reason: str


@dataclass(slots=True)
class Lists:
    """What the front-end has answered."""

    version: str = ""
    user: User | None = None
    zones: tuple[Zone, ...] = ()
    marketplaces: tuple[Marketplace, ...] = ()
    apps: tuple[App, ...] = ()
    datastores: tuple[Datastore, ...] = ()
    images: tuple[Image, ...] = ()
    machines: tuple[VirtualMachine, ...] | Failed = ()


async def lists_of(front_end: FrontEnd, *, machines: bool, patience: float = math.inf) -> Lists:
    """Return all of the front-end's lists, which are asked for in two rounds.

    Raises what the front-end raises, and TimedOut when a round takes longer than `patience`
    seconds; but that it does not tell its VMs, if `machines` are wanted, is a trouble of system
    datastores only.
    """
    asking = _Asking(front_end, patience)
    await asking.round(
        asking.version, asking.user, asking.zones, asking.marketplaces, asking.datastores
    )
    await asking.objects(machines=machines)
    return asking.lists


async def objects_of(front_end: FrontEnd, *, machines: bool) -> Lists:
    """Return the lists of what the session may use, and nothing about the cloud or the user.

    Raises as `lists_of` does.
    """
    asking = _Asking(front_end)
    await asking.round(asking.marketplaces, asking.datastores)
    await asking.objects(machines=machines)
    return asking.lists


async def marketplaces_of(front_end: FrontEnd, *, patience: float = math.inf) -> Lists:
    """Return what there is of marketplaces and apps; OpenNebula lists no apps of one marketplace
    alone. Raises as `lists_of` does.
    """
    asking = _Asking(front_end, patience)
    await asking.round(asking.marketplaces)
    await asking.round(asking.apps)
    return asking.lists


async def datastores_of(
    front_end: FrontEnd, *, machines: bool, patience: float = math.inf
) -> Lists:
    """Return what there is of datastores, images and, if wanted, VMs. Raises as `lists_of` does."""
    asking = _Asking(front_end, patience)
    await asking.round(asking.datastores)
    await asking.round(asking.images, *([asking.machines] if machines else []))
    return asking.lists


class _Asking:
    """The questions, each of which puts its answer into `lists`."""

    def __init__(self, front_end: FrontEnd, patience: float = math.inf) -> None:
        self.lists = Lists()
        self._front_end = front_end
        self._patience = patience

    async def round(self, *questions: Callable[[], Awaitable[None]]) -> None:
        """Ask at once. A front-end that hangs is waited for only as long as there is patience."""
        try:
            with trio.fail_after(self._patience):
                await together(*questions)
        except trio.TooSlowError:
            after = format_duration(self._patience)
            raise TimedOut("the front-end did not answer in time", after=after) from None

    async def version(self) -> None:
        self.lists.version = await self._front_end.version()

    async def user(self) -> None:
        self.lists.user = await self._front_end.user()

    async def zones(self) -> None:
        self.lists.zones = await self._front_end.zones()

    async def marketplaces(self) -> None:
        self.lists.marketplaces = await self._front_end.marketplaces()

    async def datastores(self) -> None:
        self.lists.datastores = await self._front_end.datastores()

    async def objects(self, *, machines: bool) -> None:
        """Ask for what is in the places: these tell which ids to expect, in case a list cannot be
        sent as a whole.
        """
        await self.round(self.apps, self.images, *([self.machines] if machines else []))

    async def apps(self) -> None:
        self.lists.apps = await self._front_end.apps(app_homes(self.lists.marketplaces))

    async def images(self) -> None:
        self.lists.images = await self._front_end.images(image_homes(self.lists.datastores))

    async def machines(self) -> None:
        try:
            self.lists.machines = await self._front_end.machines()
        except Refused:
            raise
        except NebfsError as exc:
            self.lists.machines = Failed(f"the front-end does not tell its VMs: {exc}")
