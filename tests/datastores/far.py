"""Drivers whose datastores are behind an API of their own, for the tests of all drivers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from nebfs.datastores import DatastoreDriver, DatastoreDrivers
from nebfs.fetcher.messages import Call
from nebfs.model import Datastore, Holding, Image, Template


@dataclass(frozen=True)
class Far:
    """`call` names the fixture that answers; `template` is what the datastore's has to say."""

    call: str
    template: tuple[tuple[str, str], ...]
    settings: Mapping[str, object] = field(default_factory=dict)

    def driver(self, name: str, call: Call) -> DatastoreDriver:
        """Return the driver, to which every datastore says that."""
        driver = DatastoreDrivers(call=call, settings={name: self.settings})(name)
        return _Told(driver, self.template)


@dataclass(frozen=True)
class _Told:
    driver: DatastoreDriver
    template: tuple[tuple[str, str], ...]

    async def holdings(self, datastore: Datastore, images: Sequence[Image]) -> tuple[Holding, ...]:
        template = Template((*datastore.template.items, *self.template))
        return await self.driver.holdings(replace(datastore, template=template), images)
