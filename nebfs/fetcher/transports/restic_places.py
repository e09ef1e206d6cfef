"""Which restic repository a locator means, and its password; the pool of those that are unlocked.

Address of a repository: ``file:///DIRECTORY``, ``sftp://HOST/DIRECTORY``, or the http(s) URL of the
objects of one in a bucket. Behind it, of a file: ``/trees/TREE/NAME``, the SHA-256 of the directory
that it is in, and its name there: so an address means the same bytes for ever.
Options: ``password``, for when the file of credentials has none; with SFTP those of the transport
``sftp``; with an object store those of ``s3``, and ``insecure-tls``.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from cachetools import TTLCache

from nebfs.errors import BadAnswer, Missing, Refused, Unsupported
from nebfs.fetcher.access import Accesses, load
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports import restic_documents
from nebfs.fetcher.transports.rbd_threads import Threads
from nebfs.fetcher.transports.restic_index import MAX_BLOBS
from nebfs.fetcher.transports.restic_repository import KEPT_BLOBS, SMALL, Blobs, Cpu, Repository
from nebfs.fetcher.transports.restic_sealing import Keys, unlocked, unpacked
from nebfs.fetcher.transports.restic_stores import Directory, Store

if TYPE_CHECKING:
    from nebfs.fetcher.transports.restic_s3 import Buckets
    from nebfs.fetcher.transports.sftp_hosts import Hosts

MAX_REPOSITORIES = 64
"""Repositories kept unlocked: OpenNebula has one for each VM."""

MAX_KEYS = 16
"""Keys of one repository that a password is tried with: OpenNebula makes one, and each takes half a
second."""

REFUSED_FOR = 30.0
"""Seconds for which a password is not tried again that was wrong."""

_DISK_THREADS = 8
_TREE = re.compile(r"(?P<base>.+)/trees/(?P<tree>[0-9a-f]{64})/(?P<name>[^/]+)")


@dataclass(frozen=True, slots=True)
class Place:
    """One repository, as it is asked for."""

    address: str
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def told(self) -> dict[str, str]:
        """Return the options by name."""
        return dict(self.options)


@dataclass(frozen=True, slots=True)
class FilePlace:
    """One file in a repository."""

    repository: Place
    tree: bytes
    name: str

    @classmethod
    def at(cls, address: str, options: tuple[tuple[str, str], ...]) -> FilePlace:
        """Read a locator. Raises Unsupported."""
        found = _TREE.fullmatch(address)
        if found is None:
            raise Unsupported("the address names no file of a repository")
        tree = bytes.fromhex(found["tree"])
        return cls(Place(found["base"], options), tree, found["name"])


class Repositories:
    """Those of the transport, unlocked when first asked for, and kept for a while."""

    def __init__(self, settings: FetcherSettings) -> None:
        """Raises UserError (the file of credentials)."""
        path = settings.credentials_file
        self._settings = settings
        self._accesses = load(path) if path else Accesses({})
        self._blobs: Blobs = Blobs(KEPT_BLOBS, getsizeof=len)
        self._cpu = Cpu()
        self._disks = Threads(_DISK_THREADS, "the repository's directory does not answer")
        self._made: weakref.WeakSet[Repository] = weakref.WeakSet()
        self._kept: OrderedDict[Place, asyncio.Task[Repository]] = OrderedDict()
        self._refused: TTLCache[bytes, Refused] = TTLCache(64, REFUSED_FOR)
        self._hosts: Hosts | None = None
        self._buckets: Buckets | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def cpu(self) -> Cpu:
        """Where slow work is done."""
        return self._cpu

    async def aclose(self) -> None:
        """Close every connection."""
        kept = list(self._kept.values())
        for task in kept:
            task.cancel()
        await asyncio.gather(*kept, return_exceptions=True)
        for one in list(self._made):
            await one.aclose()
        if self._hosts is not None:
            await self._hosts.aclose()
        if self._buckets is not None:
            await self._buckets.aclose()

    async def at(self, place: Place) -> Repository:
        """Return an unlocked repository. Raises Refused for its password, and NebfsError."""
        task = self._kept.get(place)
        if task is None:
            task = self._kept[place] = self._loop.create_task(self._unlock(place))
            task.add_done_callback(partial(self._unlocked, place))
        self._kept.move_to_end(place)
        # Many may wait for it; one that gives up does not take it from the others.
        found = await asyncio.shield(task)
        self._trim()
        return found

    def _unlocked(self, place: Place, task: asyncio.Task[Repository]) -> None:
        if task.cancelled() or task.exception() is not None:  # perhaps nobody waits for it
            self._kept.pop(place, None)

    def _trim(self) -> None:
        """Let the oldest go, as long as there are too many or their indexes are too large."""
        ready = [
            (place, task.result())
            for place, task in self._kept.items()
            if task.done() and not task.cancelled() and task.exception() is None
        ]
        blobs = sum(one.held for _, one in ready)
        for place, one in ready[:-1]:
            if len(self._kept) <= MAX_REPOSITORIES and blobs <= MAX_BLOBS:
                return
            # Whoever uses it goes on with it: it has no connections of its own.
            del self._kept[place]
            blobs -= one.held

    async def _unlock(self, place: Place) -> Repository:
        store = self._store(place)
        password, source = self._password(place)
        tried = hashlib.sha256(f"{place.address}\0{password}".encode("utf-8", "replace")).digest()
        refused = self._refused.get(tried)
        if refused is not None:
            raise Refused(f"{refused.message} (asked a moment ago)") from refused
        try:
            keys = await self._keys(store, password)
        except Missing as exc:
            raise Missing("there is no repository of restic", url=place.address) from exc
        if keys is None:
            failure = Refused(_wrong(place, source), url=place.address)
            self._refused[tried] = failure
            raise failure
        config = await store.load("config", SMALL)
        text = await self._cpu.run(partial(unpacked, keys, config, "", SMALL))
        restic_documents.check_config(text)
        made = Repository(place.address, store, keys, self._blobs, self._cpu)
        self._made.add(made)
        return made

    async def _keys(self, store: Store, password: str) -> Keys | None:
        for name in sorted(await store.names("keys"))[:MAX_KEYS]:
            try:
                key_file = await store.load(f"keys/{name}", SMALL)
            except Missing:
                continue  # it was removed a moment ago
            keys = await self._cpu.run(partial(unlocked, password, key_file))
            if keys is not None:
                return keys
        return None

    def _password(self, place: Place) -> tuple[str, str]:
        """Return the password, and who said it. Raises Refused when nobody did."""
        told = place.told()
        accesses = [self._accesses.named(place.address)]
        if told.get("bucket"):
            accesses.insert(0, self._accesses.named(f"s3://{told['bucket']}"))
        for access in accesses:
            if access is not None and access.repository_password:
                return access.repository_password, "file"
        if told.get("password"):
            return told["password"], "template"
        unknown = "no password of the repository is known"
        raise Refused(f"{unknown}: {_remedy(place)}", url=place.address)

    def _store(self, place: Place) -> Store:
        # By hand and not by urlsplit(): a path may hold any character, and is written as it is.
        scheme, _, rest = place.address.partition("://")
        host, slash, path = rest.partition("/")
        match scheme:
            case "file" if not host:
                return Directory(slash + path, self._disks, self._settings.stall_timeout)
            case "sftp":
                return self._sftp(place, host, slash + path)
            case "http" | "https":
                return self._bucket(place)
        raise Unsupported("repositories are not read from there", scheme=scheme)

    def _sftp(self, place: Place, host: str, path: str) -> Store:
        try:
            from nebfs.fetcher.transports.restic_sftp import SftpStore  # noqa: PLC0415
            from nebfs.fetcher.transports.sftp_hosts import Hosts, hosts_of  # noqa: PLC0415
        except ImportError as exc:
            raise _without(exc, "ssh") from exc
        if self._hosts is None:
            self._hosts = Hosts(self._settings)
        return SftpStore(self._hosts, hosts_of(place.told(), host), path)

    def _bucket(self, place: Place) -> Store:
        try:
            from nebfs.fetcher.transports.restic_s3 import Buckets  # noqa: PLC0415
        except ImportError as exc:
            raise _without(exc, "s3") from exc
        if self._buckets is None:
            self._buckets = Buckets(self._settings)
        return self._buckets.store(f"{place.address}/", place.told())


def options_of(told: object) -> tuple[tuple[str, str], ...]:
    """Read the options of a question. Raises BadAnswer."""
    if not isinstance(told, Mapping):
        raise BadAnswer("what is to be looked at is not understood")
    found: dict[str, Any] = dict(told)
    if not all(isinstance(text, str) for text in found.values()):
        raise BadAnswer("what is to be looked at is not understood")
    return tuple(found.items())


def _without(exc: ImportError, extra: str) -> Unsupported:
    library = exc.name or "a library"
    return Unsupported(
        f"a repository there needs {library}, which is missing; install it with: "
        f"pip install 'nebfs[{extra}]'"
    )


def _remedy(place: Place) -> str:
    base = place.address.rpartition("/")[0]
    return f'name repository-password under ["{base}"] in the file credentials_file'


def _wrong(place: Place, source: str) -> str:
    if source == "file":
        return "the repository-password of the credentials file is not the repository's"
    return (
        "RESTIC_PASSWORD of the datastore's template is not the repository's password. "
        f"OpenNebula shows it encrypted to whoever is no administrator: {_remedy(place)}"
    )
