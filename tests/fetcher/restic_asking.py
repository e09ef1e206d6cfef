"""Asking repositories of restic through the transport ``restic``, for the tests of it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from nebfs.fetcher.messages import CallRequest
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports import restic_repository
from nebfs.fetcher.transports.restic import Restic
from nebfs.model import Locator
from tests.datastores.restic_pool import PASSWORD

SLOT = 128 << 10
QUICK = FetcherSettings(connect_timeout=10, stall_timeout=10, trust_env=False)
KNOWN = {"password": PASSWORD}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Look for a newer index at once."""
    monkeypatch.setattr(restic_repository, "FRESH", 0.0)


def run(use, settings=QUICK):
    """Run `use(transport)` with everything closed after it."""

    async def main():
        transport = Restic(settings)
        try:
            return await use(transport)
        finally:
            await transport.aclose()
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, left

    return asyncio.run(main())


async def look(transport, address, *snapshots, options=KNOWN):
    """Return what is in each snapshot: an errno, or place by name."""
    body = json.dumps({"snapshots": snapshots, "options": options}).encode()
    request = CallRequest("LOOK", address, body=body, transport="restic")
    told = json.loads((await transport.call(request)).body)["snapshots"]
    return [failed or {entry[0]: entry[1] for entry in entries} for failed, entries in told]


def locator(address, place, options=KNOWN):
    return Locator("restic", f"{address}/trees/{place}", tuple(options.items()))


async def bring(transport, where, target, *ranges, expected=None, wanted=None):
    """Fetch slots (first, beyond the last); return the revision and what came early."""
    request = target.request("", *ranges, expected=expected)
    listener = target.listener()
    request = replace(request, locator=where, wanted=wanted)
    return await transport.fetch(request, target.fd, listener), listener.glimpses


class Reads:
    """Counts the bytes that are read of a repository's packs."""

    def __init__(self, monkeypatch, kind):
        self.bytes = 0
        self.paths = []
        read = kind.read

        async def counted(store, path, start, stop):
            self.bytes += stop - start
            self.paths.append(path)
            return await read(store, path, start, stop)

        monkeypatch.setattr(kind, "read", counted)
