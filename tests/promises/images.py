"""Images of random bytes on a web server, and a mount of them by a small front-end."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nebfs.demo.demonstration import PASSWORD
from nebfs.demo.server import serve
from scripts.benchmarks.frontend import cloud
from tests.mounted.conftest import Mount
from tests.nginx import Nginx


@contextmanager
def web_of(home: Path, images: int, size: int, directives: str = "") -> Iterator[Nginx]:
    """Serve ``0.raw``, ``1.raw`` and so on, of `size` bytes each."""
    home.mkdir()
    with Nginx(home, directives) as made:
        for number in range(images):
            content = random.Random(number).randbytes(size)
            (made.root / f"{number}.raw").write_bytes(content)
        yield made


@contextmanager
def mount_of(web: Nginx, home: Path, store: Path, images: int, *options: str) -> Iterator[Mount]:
    """Mount them as apps of a marketplace; its front-end is in `servers`."""
    apps = [(n, f"{web.url}/{n}.raw", "") for n in range(images)]
    with serve(cloud(apps, str(store), 0)) as servers:
        mount = Mount(home, servers.frontend_url, *options, auth=f"oneadmin:{PASSWORD}")
        mount.start()
        mount.servers = servers
        try:
            yield mount
        finally:
            mount.stop()
