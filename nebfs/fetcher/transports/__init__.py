"""One file per way to reach remote bytes, and the table of them.

A transport is made with the FetcherSettings, by a class or a function. It has ``fetch``, which
fills ranges of a locator into a descriptor, ``call``, which sends a plain request, and ``aclose``.
A new one is one file here and one line in TRANSPORTS. Its library may be missing: the module is
imported when the first locator asks for it. What speaks HTTP with signatures or tokens of its own
is an ``Http`` with other ``Addresses`` (http_addresses.py).

What does not live here: the border to the daemon (worker.py) and the writing of slots (slots.py).
Imported by worker.py alone. Start reading below, then in http.py.

Concurrency: asyncio, one loop, one thread. A transport owns its connections and nothing else.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from nebfs.errors import Unsupported
from nebfs.fetcher.messages import CallAnswer, CallRequest, FetchRequest, Filled
from nebfs.fetcher.settings import FetcherSettings
from nebfs.model import Revision


class Listener(Protocol):
    """Whom a transport tells what happens during a fetch."""

    def found(self, revision: Revision) -> None:
        """Say which version is there, before the first slot of it is reported."""
        ...

    def filled(self, slots: Sequence[Filled]) -> None:
        """Say which slots are in the file now."""
        ...

    def early(self, offset: int, data: bytes) -> None:
        """Hand over what is `wanted`, before its slot is complete."""
        ...


class Transport(Protocol):
    """A way to reach remote bytes."""

    async def fetch(self, request: FetchRequest, fd: int, listener: Listener) -> Revision:
        """Fill the request's ranges into `fd`; see messages.Fetcher.fetch for the errors."""
        ...

    async def call(self, request: CallRequest) -> CallAnswer:
        """Return the answer to a plain request; see messages.Fetcher.call for the errors."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a transport's class is, and what to install when its library is missing."""

    module: str
    name: str
    hint: str = ""


TRANSPORTS: dict[str, Entry] = {
    "http": Entry("nebfs.fetcher.transports.http", "Http"),
    "iscsi": Entry("nebfs.fetcher.transports.iscsi", "Iscsi"),
    "oci": Entry("nebfs.fetcher.transports.oci", "Oci"),
    "ontap": Entry("nebfs.fetcher.transports.ontap", "Ontap"),
    "purity": Entry("nebfs.fetcher.transports.purity", "Purity"),
    "rbd": Entry("nebfs.fetcher.transports.rbd", "Rbd"),
    "reach": Entry("nebfs.fetcher.transports.reach", "Reach"),
    "restic": Entry("nebfs.fetcher.transports.restic", "Restic", "pip install 'nebfs[restic]'"),
    "s3": Entry("nebfs.fetcher.transports.s3", "S3", "pip install 'nebfs[s3]'"),
    "sftp": Entry("nebfs.fetcher.transports.sftp", "Sftp", "pip install 'nebfs[ssh]'"),
    "vsphere": Entry("nebfs.fetcher.transports.vsphere", "Vsphere"),
}
"""Alphabetical. ``http`` covers https."""


def make_transport(name: str, settings: FetcherSettings) -> Transport:
    """Return a new transport. Raises Unsupported when it is unknown or its library is missing."""
    entry = TRANSPORTS.get(name)
    if entry is None:
        known = ", ".join(TRANSPORTS)
        raise Unsupported(f"there is no transport called {name!r}; there are: {known}")
    try:
        kind = getattr(importlib.import_module(entry.module), entry.name)
    except ImportError as exc:
        remedy = f"; install it with: {entry.hint}" if entry.hint else ""
        library = exc.name or "a library"
        raise Unsupported(
            f"the transport {name!r} needs {library}, which is missing{remedy}"
        ) from exc
    transport: Transport = kind(settings)
    return transport
