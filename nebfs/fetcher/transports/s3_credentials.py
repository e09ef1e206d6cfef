"""Whose keys a bucket is shown: those of nebfs's own file, the marketplace's, or this machine's.

The first that there are count: an entry of the file of credentials, for ``s3://BUCKET`` before one
for the address; the keys in the marketplace's template; what Amazon's tools would use here (the
environment, ~/.aws, the instance's role). When there are none, requests go unsigned, which a public
bucket accepts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import fields

import botocore.session  # type: ignore[import-untyped]
from botocore.exceptions import (  # type: ignore[import-untyped]
    BotoCoreError,
    ProfileNotFound,
)
from cachetools import LRUCache

from nebfs.errors import Refused, Unreachable
from nebfs.fetcher.access import NOBODY, Access, Accesses
from nebfs.fetcher.transports.s3_signing import Keys

METADATA_TIMEOUT = 1
"""Seconds, and the only attempt, for an instance's metadata: on most machines nobody is there."""

CHAIN_TIMEOUT = 20.0
"""Seconds for all of the chain: a role may have to be asked for from Amazon."""

NOTHING_FOR = 60.0
"""Seconds for which it is believed that this machine has no keys."""

_KEYS = ("access_key_id", "secret_access_key", "session_token", "profile", "anonymous")


class BucketAccesses(Accesses):
    """The file of credentials, where a bucket's address also goes by the name s3://BUCKET."""

    def __init__(self, file: Accesses) -> None:
        """`file` holds the entries."""
        super().__init__({})
        self._file = file
        self._buckets: LRUCache[str, Access] = LRUCache(256)

    def learn(self, base: str, bucket: str) -> None:
        """Take what begins with `base` for the contents of `bucket`."""
        entry = self._file.named(f"s3://{bucket}") if bucket else None
        if entry is not None:
            self._buckets[base] = entry

    def named(self, address: str) -> Access | None:
        """Return the entry for `address`, from both of its names, or None."""
        general = self._file.named(address)
        for base, special in self._buckets.items():
            if address.startswith(base):
                return _combined(special, general or NOBODY)
        return general


def _combined(special: Access, general: Access) -> Access:
    facts = {
        one.name: getattr(special, one.name) or getattr(general, one.name) for one in fields(Access)
    }
    # Half a key from here and half from there would be nobody's.
    source = special if any(getattr(special, name) for name in _KEYS) else general
    return Access(**{**facts, **{name: getattr(source, name) for name in _KEYS}})


class Chain:
    """What Amazon's tools would use on this machine, by profile; ``""`` is the usual one."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._found: dict[str, tuple[float, botocore.credentials.Credentials | None]] = {}
        self._lock = asyncio.Lock()

    def forget(self) -> None:
        """Look again, the next time: the files may be others now."""
        self._found.clear()

    async def keys(self, profile: str) -> Keys | None:
        """Return them, or None where there are none. Raises Refused or Unreachable."""
        async with self._lock:
            try:
                async with asyncio.timeout(CHAIN_TIMEOUT):
                    return await asyncio.to_thread(self._keys, profile)
            except TimeoutError as exc:
                raise Unreachable(
                    "this machine's own keys for object stores did not come in time",
                    after=CHAIN_TIMEOUT,
                ) from exc
            except ProfileNotFound as exc:
                raise Refused("there is no such profile", profile=profile) from exc
            except BotoCoreError as exc:
                # Its text may repeat what is in the files.
                raise Refused(
                    "this machine's own keys for object stores cannot be had",
                    reason=type(exc).__name__,
                ) from None

    def _keys(self, profile: str) -> Keys | None:
        at, found = self._found.get(profile, (0.0, None))
        if found is None:
            if profile in self._found and self._now() - at < NOTHING_FOR:
                return None
            session = botocore.session.Session(profile=profile or None)
            session.set_config_variable("metadata_service_timeout", METADATA_TIMEOUT)
            session.set_config_variable("metadata_service_num_attempts", 1)
            found = session.get_credentials()
            self._found[profile] = self._now(), found
            if found is None:
                return None
        # What ends is renewed here, well before its end.
        frozen = found.get_frozen_credentials()
        return Keys(frozen.access_key, frozen.secret_key, frozen.token or "")


class Keyring:
    """Finds the keys for an object."""

    def __init__(self, accesses: BucketAccesses, chain: Chain | None = None) -> None:
        self._accesses = accesses
        self._chain = chain or Chain()

    def forget(self) -> None:
        """Look again at what may be renewed."""
        self._chain.forget()

    async def keys(self, url: str, offered: Keys | None) -> Keys | None:
        """Return them; None: ask unsigned. `offered` are the marketplace's own.

        Raises Refused or Unreachable when the ones that count cannot be had.
        """
        access = self._accesses.of(url)
        if access.anonymous:
            return None
        if access.access_key_id or access.secret_access_key:
            if not (access.access_key_id and access.secret_access_key):
                raise Refused(
                    "access-key-id and secret-access-key go together in the credentials file"
                )
            return Keys(access.access_key_id, access.secret_access_key, access.session_token)
        if access.profile:
            found = await self._chain.keys(access.profile)
            if found is None:
                raise Refused("the profile has no keys", profile=access.profile)
            return found
        return offered or await self._chain.keys("")
