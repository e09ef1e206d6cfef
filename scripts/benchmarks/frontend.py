"""The front-end of the cloud that nebfs mounts: the demonstration's, with the benchmark's objects.

It runs in a process of its own, so that it neither shares an interpreter with the harness nor is
tied to the harness's network namespace:

    python -m scripts.benchmarks.frontend    reads a JSON document, then runs until stdin is closed

The document has ``apps`` ([number, url, md5] each, in one marketplace), and ``store`` and
``entries``: the directory of a datastore, and how many images of 4 KiB it has.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nebfs.demo.catalogue import attributes
from nebfs.demo.cloud import Cloud
from nebfs.demo.demonstration import PASSWORD
from nebfs.demo.records import (
    AppRecord,
    DatastoreRecord,
    ImageRecord,
    MarketplaceRecord,
    UserRecord,
    ZoneRecord,
)
from nebfs.demo.server import serve
from scripts.benchmarks.processes import running, wait_until

MARKET, STORE = 100, 1
ADMINISTRATOR = f"oneadmin:{PASSWORD}"


def cloud(apps: list[tuple[int, str, str]], store: str, entries: int) -> Cloud:
    """Build a cloud with nothing in it but what is measured."""
    made = Cloud()
    made.zones[0] = ZoneRecord(0, "OpenNebula", template=attributes(ENDPOINT="{front_end}/RPC2"))
    user = UserRecord(0, "oneadmin", PASSWORD, gid=0, gname="oneadmin", groups=(0,))
    made.users[user.name] = user
    made.marketplaces[MARKET] = MarketplaceRecord(
        MARKET,
        "market",
        template=attributes(BASE_URL="{files}/market/", MARKET_MAD="http", PUBLIC_DIR="/nowhere"),
    )
    for number, url, md5 in apps:
        made.add_app(
            AppRecord(
                number,
                f"app {number}",
                marketplace_id=MARKET,
                source=url,
                md5=md5,
                size_mb=1,
                format="qcow2" if url.endswith(".qcow2") else "raw",
                template=attributes(TYPE="IMAGE"),
            )
        )
    made.datastores[STORE] = DatastoreRecord(
        STORE,
        "store",
        base_path=store,
        transfer="local",
        template=attributes(DS_MAD="fs", TM_MAD="local", TYPE="IMAGE_DS"),
    )
    for number in range(entries):
        made.add_image(
            ImageRecord(
                number,
                f"image {number:05}",
                datastore_id=STORE,
                source=f"{store}/{number:05}",
                size_mb=1,
                format="raw",
                template=attributes(DEV_PREFIX="vd"),
            )
        )
    return made


@contextmanager
def frontend(
    home: Path,
    apps: list[tuple[int, str, str]],
    *,
    store: Path | None = None,
    entries: int = 0,
    enter: tuple[str, ...] = (),
) -> Iterator[tuple[str, int]]:
    """Run a front-end, in the namespace `enter` leads to; its XML-RPC endpoint and process id."""
    home.mkdir(parents=True)
    store = store or home / "store"
    store.mkdir(exist_ok=True)
    reading, writing = os.pipe()
    ready, log = home / "ready", home / "log"
    argv = [*enter, sys.executable, "-m", "scripts.benchmarks.frontend", os.fspath(ready)]
    root = Path(__file__).parent.parent.parent
    how: dict[str, Any] = {"stdin": reading, "cwd": root}
    try:
        with running(argv, log, **how) as process:
            os.close(reading)
            with os.fdopen(writing, "w") as document:
                json.dump({"apps": apps, "store": os.fspath(store), "entries": entries}, document)
                document.write("\n")
                document.flush()
                wait_until(ready.exists, process, log)
                yield ready.read_text(), process.pid
    finally:
        ready.unlink(missing_ok=True)


def main() -> None:
    """Serve the cloud described by the first line of stdin until stdin is closed."""
    document = json.loads(sys.stdin.readline())
    apps = [(number, url, md5) for number, url, md5 in document["apps"]]
    with serve(cloud(apps, document["store"], document["entries"])) as servers:
        ready = Path(sys.argv[1])
        unfinished = ready.with_suffix(".new")
        unfinished.write_text(servers.frontend_url)
        unfinished.replace(ready)
        sys.stdin.read()


if __name__ == "__main__":
    main()
