"""What every datastore driver offers to the catalog."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from nebfs.fetcher.messages import Call
from nebfs.model import Datastore, Holding, Image, Part


class DatastoreDriver(Protocol):
    """One kind of storage (DS_MAD). Built with plain values."""

    async def holdings(self, datastore: Datastore, images: Sequence[Image]) -> tuple[Holding, ...]:
        """Return where the bytes of each of `images` are, or why not, by ascending id.

        Images that are being deleted are left out, and a system datastore has none. One bad image
        is that image's trouble. Raises Unreachable when the datastore itself does not answer: then
        nothing is known, which never means that nothing is there.
        """
        ...


@runtime_checkable
class DeferringDatastore(Protocol):
    """A kind of storage whose backups' files are known only when it is asked about each."""

    async def disks(self, datastore: Datastore, image: Image) -> tuple[Part, ...]:
        """Return the disks of a holding that is deferred. Raises NebfsError."""
        ...


class DriverFactory(Protocol):
    """How the registry builds a driver."""

    def __call__(
        self, *, paths: Mapping[str, str], call: Call | None, settings: Mapping[str, Any]
    ) -> DatastoreDriver:
        """`paths`: path prefix as the front-end says it -> the same place on this machine. `call`
        looks at places that are elsewhere; None: only this machine can be looked at. `settings`
        are this driver's own, in the form that it says; often there are none.
        """
        ...
