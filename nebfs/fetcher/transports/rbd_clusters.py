"""Clusters that are entered: one connection for each door, and the pools behind it. asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import threading
from collections.abc import AsyncIterator
from typing import Any

from nebfs.errors import NebfsError, Refused, Unreachable, Unsupported
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports.rbd_binding import Binding
from nebfs.fetcher.transports.rbd_failures import number_of, of_asking, of_entering
from nebfs.fetcher.transports.rbd_places import FSID, Door, Place
from nebfs.fetcher.transports.rbd_threads import Threads

USUAL_CONF = "/etc/ceph/ceph.conf"
MOST = 16
"""Connections at a time: each is a dozen threads. A cloud has one cluster, rarely a few."""


class Cluster:
    """One connection to a cluster; its methods block.

    Whatever thread uses it holds it meanwhile, and so does every open image: librados may not be
    shut down under them, and a thread may outlive everybody who waits for it.
    """

    def __init__(self, binding: Binding, door: Door, settings: FetcherSettings) -> None:
        """Connect. Blocks for about connect_timeout seconds. Raises NebfsError."""
        self.binding = binding
        self.door = door
        self.stall_timeout = settings.stall_timeout
        self._lock = threading.Lock()
        self._holders = 0
        self._retired = False
        self._pools: dict[str, Any] = {}
        # librados takes whole seconds, and 0 for ever.
        connect = max(1, math.floor(settings.connect_timeout))
        self._client = self._prepared(connect, max(1, math.floor(settings.stall_timeout)))
        try:
            self._client.connect()
            self.id: str = self._client.get_fsid()
        except binding.rados.Error as exc:
            self._client.shutdown()
            raise of_entering(number_of(exc), door, connect) from exc

    def _prepared(self, connect: int, stall: int) -> Any:
        door = self.door
        conf = door.conf or (USUAL_CONF if os.path.exists(USUAL_CONF) else "")
        rados = self.binding.rados
        client = rados.Rados(rados_id=door.user or "admin")
        try:
            if conf:
                client.conf_read_file(conf)
        except rados.Error as exc:
            reason = os.strerror(number_of(exc))
            raise Unsupported("ceph.conf cannot be read", conf=conf, reason=reason) from exc
        changes = {
            "client_mount_timeout": connect,
            "rados_mon_op_timeout": connect,
            "rados_osd_op_timeout": stall,
            # What is read here is kept in a cache of our own, which knows what is the same version.
            "rbd_cache": "false",
            # The file may be one for daemons: no files and no sockets of theirs are made here, and
            # nothing is written to our stderr.
            "admin_socket": "",
            "log_file": "",
            "log_to_stderr": "false",
            "err_to_stderr": "false",
            "log_to_syslog": "false",
            "err_to_syslog": "false",
        }
        if door.keyring:
            changes[_kind_of(door.keyring)] = door.keyring
        if not client.conf_get("mon_host"):
            if not door.monitors:
                raise Unsupported(
                    "nothing says where the cluster's monitors are: set CEPH_HOST in the datastore,"
                    " or name a ceph.conf in [ceph] conf"
                )
            changes["mon_host"] = ",".join(door.monitors.replace(",", " ").split())
        for name, value in changes.items():
            client.conf_set(name, str(value))
        return client

    def pool(self, place: Place, *, own: bool = False) -> Any:
        """Return the pool's I/O context: the shared one, or one that the caller is to close.

        Blocks. Raises NebfsError.
        """
        if FSID.fullmatch(place.cluster) and place.cluster != self.id:
            raise Unreachable(
                "the monitors lead to another cluster now", was=place.cluster, now=self.id
            )
        pool = None if own else self._pools.get(place.pool)
        if pool is None:
            try:
                pool = self._client.open_ioctx(place.pool)
            except self.binding.rados.Error as exc:
                of_pool = Place(place.cluster, place.pool)
                raise self.failure(exc, of_pool) from exc
            if not own:
                self._pools[place.pool] = pool
        return pool

    def open(self, place: Place) -> Any:
        """Return the image, open for reading only. Blocks. Raises NebfsError."""
        pool = self.pool(place)
        try:
            return self.binding.rbd.Image(
                pool, place.image, snapshot=place.snapshot or None, read_only=True
            )
        except (self.binding.rbd.Error, self.binding.rados.Error) as exc:
            raise self.failure(exc, place) from exc

    def failure(self, exc: BaseException, place: Place) -> NebfsError:
        """Say in words what an exception of the binding means."""
        return of_asking(number_of(exc), place, self.door, self.stall_timeout)

    def hold(self) -> None:
        """Keep the connection, until `release`. Raises Unreachable when it has ended."""
        with self._lock:
            if self._retired:
                raise Unreachable("the connection to the cluster has just been given up")
            self._holders += 1

    def release(self) -> None:
        """Hold it no longer."""
        with self._lock:
            self._holders -= 1
            over = self._retired and self._holders == 0
        if over:
            self._end()

    def retire(self) -> None:
        """End the connection as soon as nobody holds it."""
        with self._lock:
            over = not self._retired and self._holders == 0
            self._retired = True
        if over:
            self._end()

    def _end(self) -> None:
        for pool in self._pools.values():
            pool.close()
        self._client.shutdown()


def _kind_of(path: str) -> str:
    """Return the setting for a file with a key: a keyring, or the key and nothing else.

    OpenNebula's CEPH_KEY is given to ``rbd --keyfile``, and administrators name keyrings in it.
    """
    try:
        with open(path, "rb") as file:
            beginning = file.read(4096)
    except OSError as exc:
        reason = exc.strerror
        raise Refused("the file with the key cannot be read", file=path, reason=reason) from exc
    lines = (line.strip() for line in beginning.splitlines())
    return "keyring" if any(line.startswith(b"[") for line in lines) else "keyfile"


class Clusters:
    """The connections of one transport."""

    def __init__(self, binding: Binding, settings: FetcherSettings, threads: Threads) -> None:
        self._binding = binding
        self._settings = settings
        self._threads = threads
        self._entered: dict[Door, Cluster] = {}
        self._entering: dict[Door, asyncio.Task[Cluster]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def use(self, door: Door) -> AsyncIterator[Cluster]:
        """Give the cluster behind `door`. Raises NebfsError.

        After a failure the next one who wants it connects anew: this client may have been shut out,
        or its key been replaced, and librados would not find out.
        """
        cluster = await self._enter(door)
        try:
            yield cluster
        except (Refused, Unreachable):
            self.retire(cluster)
            raise

    def retire(self, cluster: Cluster) -> None:
        """Let nobody else use it."""
        if self._entered.get(cluster.door) is cluster:
            del self._entered[cluster.door]
            self._end(cluster)

    def _end(self, cluster: Cluster) -> None:
        async def end() -> None:
            with contextlib.suppress(NebfsError):
                await self._threads.run(cluster.retire, within=self._settings.connect_timeout)

        task = asyncio.create_task(end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _enter(self, door: Door) -> Cluster:
        """Return the connection; all who want it share the outcome of making it."""
        cluster = self._entered.get(door)
        if cluster is not None:
            return cluster
        task = self._entering.get(door)
        if task is None:
            task = self._entering[door] = asyncio.create_task(self._connect(door))

            def over(task: asyncio.Task[Cluster]) -> None:
                del self._entering[door]
                if not task.cancelled():
                    task.exception()  # everybody who waits for it may be gone

            task.add_done_callback(over)
        return await asyncio.shield(task)

    async def _connect(self, door: Door) -> Cluster:
        if len(self._entered) >= MOST:
            raise Unsupported("there are too many clusters, or ways into them", most=MOST)
        cluster = self._entered[door] = await self._threads.run(
            lambda: Cluster(self._binding, door, self._settings),
            # librados has the same limit, and knows better what is wrong.
            within=self._settings.connect_timeout + 1,
            discard=Cluster.retire,
        )
        return cluster

    async def aclose(self) -> None:
        """End every connection, as far as they end in time."""
        if self._entering:
            await asyncio.wait(self._entering.values())
        while self._entered:
            self._end(self._entered.popitem()[1])
        if self._ending:
            await asyncio.wait(self._ending)
