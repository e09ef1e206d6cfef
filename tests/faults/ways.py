"""Servers that are no web servers, each behind a valve: an object store, and an sshd."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nebfs.demo.cloud import Cloud
from nebfs.demo.s3 import ACCESS_KEY_ID, SECRET_ACCESS_KEY, ObjectStore
from nebfs.model import Content, Locator
from tests.faults.valve import Valve, Valves
from tests.fetcher.sshd import Sshd, keygen


@dataclass
class Way:
    """A server behind a valve. `home`: where its files are, `prefix`: their address."""

    valve: Valve
    home: Path
    transport: str
    prefix: str
    options: dict[str, str]
    store: ObjectStore | None = None

    def content(self, name: str, data: bytes) -> Content:
        """Have a file there."""
        path = self.home / name
        path.write_bytes(data)
        os.utime(path, (1e9, 1e9))  # SFTP tells whole seconds: another version is of another one
        if self.store is not None:
            self.store.published[f"/images/{name}"] = path
        address = self.prefix + name
        return Content(Locator(self.transport, address, tuple(self.options.items())))

    def replace(self, name: str, data: bytes) -> None:
        """Have another version in its place. On a host it is written into the file that is there:
        who has one open that was replaced goes on to read that one.
        """
        if self.store is None:
            (self.home / name).write_bytes(data)
            return
        fresh = self.home / f"{name}.fresh"
        fresh.write_bytes(data)
        fresh.replace(self.home / name)


@contextmanager
def object_store(home: Path, valves: Valves) -> Iterator[Way]:
    """The demonstration's object store, which checks signatures."""
    store = ObjectStore(Cloud())
    listener = store.listener()
    listener.start()
    valve = valves.valve(listener.server_address[1])
    base = f"http://127.0.0.1:{valve.port}/images/"
    said = {
        "base": base,
        "bucket": "images",
        "region": "us-east-1",
        "access-key-id": ACCESS_KEY_ID,
        "secret-access-key": SECRET_ACCESS_KEY,
    }
    try:
        yield Way(valve, home, "s3", base, said, store)
    finally:
        store.release()
        listener.close()
    assert listener.failures == []


@contextmanager
def bridge(home: Path, valves: Valves) -> Iterator[Way]:
    """A real sshd, which is named nowhere but here."""
    key = keygen(home / "id")
    sshd = Sshd(home / "sshd", key)
    try:
        valve = valves.valve(sshd.port)
        (home / "known").write_text(sshd.known.replace(f":{sshd.port} ", f":{valve.port} "))
        said = {
            "bridges": sshd.bridge.replace(f":{sshd.port}", f":{valve.port}"),
            "identity": str(key),
            "known-hosts": str(home / "known"),
        }
        files = home.resolve() / "datastore"
        files.mkdir()
        yield Way(valve, files, "sftp", f"sftp://node{files}/", said)
    finally:
        sshd.stop()
