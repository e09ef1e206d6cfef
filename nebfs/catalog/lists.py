"""The front-end's lists, as one session may see them: the judgement of who may use what.

They are all or nothing, since half a list looks like deleted images. A survey asks for them with
the session of the mount; what another user of the machine may use is asked with his own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from nebfs.catalog.together import together
from nebfs.errors import NebfsError, Refused
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


async def lists_of(front_end: FrontEnd, *, machines: bool) -> Lists:
    """Return all of the front-end's lists. Raises what the front-end raises; but that it does not
    tell its VMs, if `machines` are wanted, is a trouble of system datastores only.
    """
    lists = Lists()

    async def version() -> None:
        lists.version = await front_end.version()

    async def user() -> None:
        lists.user = await front_end.user()

    async def zones() -> None:
        lists.zones = await front_end.zones()

    await together(version, user, zones, *_places(front_end, lists))
    await _objects(front_end, lists, machines=machines)
    return lists


async def objects_of(front_end: FrontEnd, *, machines: bool) -> Lists:
    """Return the lists of what the session may use, and nothing about the cloud or the user.

    Raises as `lists_of` does.
    """
    lists = Lists()
    await together(*_places(front_end, lists))
    await _objects(front_end, lists, machines=machines)
    return lists


def _places(front_end: FrontEnd, lists: Lists) -> tuple[Callable[[], Awaitable[None]], ...]:
    """Return what asks for the places."""

    async def marketplaces() -> None:
        lists.marketplaces = await front_end.marketplaces()

    async def datastores() -> None:
        lists.datastores = await front_end.datastores()

    return marketplaces, datastores


async def _objects(front_end: FrontEnd, lists: Lists, *, machines: bool) -> None:
    """Ask for what is in the places, which tell which ids to expect, in case a list cannot be sent
    as a whole.
    """

    async def apps() -> None:
        lists.apps = await front_end.apps(app_homes(lists.marketplaces))

    async def images() -> None:
        lists.images = await front_end.images(image_homes(lists.datastores))

    async def virtual_machines() -> None:
        if not machines:
            return
        try:
            lists.machines = await front_end.machines()
        except Refused:
            raise
        except NebfsError as exc:
            lists.machines = Failed(f"the front-end does not tell its VMs: {exc}")

    await together(apps, images, virtual_machines)
