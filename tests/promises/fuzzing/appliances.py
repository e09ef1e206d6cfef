"""The catalogue of an appliance service, and the offers that are made of it."""

from __future__ import annotations

import json
from functools import partial

import trio

from nebfs.fetcher.messages import CallAnswer
from nebfs.marketplaces.appliances import read_catalogue
from nebfs.marketplaces.one import OneMarketplace
from nebfs.model import Marketplace


def one(data: bytes) -> None:
    """Whatever is offered has names that can be shown, and sources at the marketplace only."""
    for appliance in read_catalogue(data):
        json.loads(appliance.published)
        repr(appliance).encode()
    trio.run(partial(_offered, data))


async def _offered(data: bytes) -> None:
    async def call(_: object) -> CallAnswer:
        await trio.lowlevel.checkpoint()
        return CallAnswer(200, (), data)

    marketplace = Marketplace(0, "m")
    for offer in await OneMarketplace(call=call, version="").offers(marketplace, None):
        repr(offer).encode()
        assert not (offer.contents and offer.trouble)
        assert offer.app.size_mb >= 0
        for content in offer.contents:
            assert content.locator.transport in {"http", "https"}, content.locator
            assert content.locator.address.startswith("https://marketplace.opennebula.io/")
