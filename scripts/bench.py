"""Measure nebfs on this machine and print what was measured, as a table or as JSON.

Cases: listing a cloud of thousands of objects, and reading one large image over loopback, cold and
warm, beside what curl makes of the same file. Every case also compares bytes. Figures of a shared
machine wobble: runs alternate, medians and ratios are what to quote.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nebfs.demo.cloud import Cloud
from nebfs.demo.demonstration import PASSWORD, demonstration_cloud
from nebfs.demo.server import serve
from nebfs.units import MIB

NEBFS = (sys.executable, "-m", "nebfs.cli")
MARKET, STORE = "Private HTTP", "default"


def timed(*argv: str | Path) -> float:
    """Return the seconds that a command takes; it must succeed, and its output is thrown away."""
    started = time.perf_counter()
    subprocess.run([os.fspath(a) for a in argv], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


@contextmanager
def mounted(url: str) -> Iterator[Path]:
    """Mount the front-end at `url` with an empty cache, and unmount it again."""
    with tempfile.TemporaryDirectory(prefix="nebfs-b-") as scratch:
        home = Path(scratch)
        (home / "mnt").mkdir()
        (home / "auth").write_text(f"oneadmin:{PASSWORD}\n")
        common = ("--run-dir", home / "run")
        argv = (*NEBFS, "mount", url, home / "mnt", "--auth-file", home / "auth")
        subprocess.run([*argv, "--cache-dir", home / "cache", *common], check=True)
        try:
            yield home / "mnt"
        finally:
            subprocess.run([*NEBFS, "umount", home / "mnt", *common], check=True)


def forget(path: Path) -> None:
    """Have the kernel drop its cached pages of one file."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def crowd(cloud: Cloud, count: int, root: Path, url: str) -> None:
    """Fill the cloud with `count` more apps, each with its own file, and `count` more images.

    `url` is a web server over `root`.
    """
    app, image = cloud.apps[25], cloud.images[8]
    path = cloud.published[app.source.removeprefix("{files}")]
    (root / "crowd").mkdir(exist_ok=True)
    for number in range(count):
        one = copy.deepcopy(app)
        one.id, one.name = 10_000 + number, f"app {number:05}"
        one.source = f"{url}/crowd/{number}"
        if not (root / "crowd" / str(number)).exists():
            os.link(path, root / "crowd" / str(number))
        cloud.add_app(one)
        other = copy.deepcopy(image)
        other.id, other.name = 10_000 + number, f"image {number:05}"
        other.source = f"{image.source}-{number}"
        if not os.path.exists(other.source):
            os.link(image.source, other.source)
        cloud.add_image(other)


def listing(root: Path, runs: int, count: int) -> dict[str, object]:
    """List `count` apps and `count` images: `ls -lR` cold, `find` and `ls -lR` warm."""
    cloud = demonstration_cloud(root)
    cold, warm, find, mount = [], [], [], []
    with serve(cloud) as servers, web_server(root) as url:
        crowd(cloud, count, root, url)
        for _ in range(runs):
            started = time.perf_counter()
            with mounted(servers.frontend_url) as mountpoint:
                mount.append(time.perf_counter() - started)
                cold.append(timed("ls", "-lR", mountpoint))
                find.append(timed("find", mountpoint))
                warm.append(timed("ls", "-lR", mountpoint))
                names = len(os.listdir(mountpoint / "marketplaces" / MARKET))
                assert names >= count, names
    return {
        "objects": 2 * count,
        "mount s": statistics.median(mount),
        "ls -lR cold s": statistics.median(cold),
        "find warm s": statistics.median(find),
        "ls -lR warm s": statistics.median(warm),
    }


def reading(root: Path, runs: int, size: int) -> dict[str, object]:
    """Read one image of `size` bytes in sequence: curl into nothing, nebfs cold, nebfs warm."""
    cloud = demonstration_cloud(root)
    image = root / "bench.raw"
    if not image.exists() or image.stat().st_size != size:
        with open(image, "wb") as file:
            file.writelines(os.urandom(MIB) for _ in range(0, size, MIB))
    app = cloud.apps[20]
    app.source, app.md5 = "{files}/bench.raw", ""
    cloud.publish("/bench.raw", image)
    expected = hashlib.file_digest(open(image, "rb"), "sha256").hexdigest()  # noqa: SIM115
    curl, cold, warm = [], [], []
    with serve(cloud) as servers, web_server(root) as url:
        app.source = f"{url}/bench.raw"
        for _ in range(runs):
            curl.append(timed("curl", "-sSo", "/dev/null", f"{url}/bench.raw"))
            with mounted(servers.frontend_url) as mountpoint:
                path = next((mountpoint / ".nebfs/by-id/apps/20").glob("*.raw"))
                cold.append(timed("dd", f"if={path}", "of=/dev/null", "bs=1M", "status=none"))
                forget(path)
                warm.append(timed("dd", f"if={path}", "of=/dev/null", "bs=1M", "status=none"))
                with open(path, "rb") as file:
                    assert hashlib.file_digest(file, "sha256").hexdigest() == expected
    rate: Callable[[list[float]], float] = lambda times: size / MIB / statistics.median(times)  # noqa: E731
    return {
        "curl MiB/s": rate(curl),
        "cold MiB/s": rate(cold),
        "warm MiB/s": rate(warm),
        "cold to curl": statistics.median(c / n for c, n in zip(curl, cold, strict=True)),
    }


@contextmanager
def web_server(root: Path) -> Iterator[str]:
    """Serve `root` with nginx on a free port of loopback."""
    import socket  # noqa: PLC0415

    if shutil.which("nginx") is None:
        sys.exit("nginx is missing: scripts/test installs it")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="nebfs-n-") as home:
        config = Path(home, "nginx.conf")
        config.write_text(
            f"daemon off; pid {home}/pid; error_log {home}/error.log; user root;\n"
            "events {}\n"
            f"http {{ access_log off; sendfile on; client_body_temp_path {home}/a;\n"
            f"proxy_temp_path {home}/b; fastcgi_temp_path {home}/c; uwsgi_temp_path {home}/d;\n"
            f"scgi_temp_path {home}/e; server {{ listen 127.0.0.1:{port}; root {root}; }} }}\n"
        )
        server = subprocess.Popen(["nginx", "-c", config, "-p", home])
        try:
            while socket.socket().connect_ex(("127.0.0.1", port)):
                time.sleep(0.02)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(10)


def main() -> None:
    """Run the cases that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=["listing", "reading"])
    parser.add_argument("--runs", type=int, default=5, help="alternating runs of each case")
    parser.add_argument("--quick", action="store_true", help="fewer runs, smaller image")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    runs = 2 if options.quick else options.runs
    size = (256 if options.quick else 1024) * MIB
    found: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory(prefix="nebfs-bench-") as scratch:
        for case in options.cases:
            if case == "listing":
                found[case] = listing(Path(scratch), runs, 2000)
            elif case == "reading":
                found[case] = reading(Path(scratch), runs, size)
            else:
                parser.error(f"no such case: {case}")
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for case, figures in found.items():
        print(case)
        for name, value in figures.items():
            print(
                f"  {name:<16} {value:.2f}" if isinstance(value, float) else f"  {name:<16} {value}"
            )


if __name__ == "__main__":
    main()
