"""The dashboard and the metrics of a real mount: the page in a real browser."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from urllib.parse import unquote

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nebfs.daemon import control
from tests.browser import DESKTOP, PHONE, browse

pytestmark = pytest.mark.mounted

HOSTILE = '100%25 ñ"and" <b>'
ALPINE = "Alpine Linux 3.20"


def opened(address):
    # Not by a proxy that the environment names.
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=20)


def refused(address):
    try:
        opened(address).close()
    except urllib.error.URLError as failure:
        return isinstance(failure.reason, ConnectionRefusedError)
    except (ConnectionResetError, http.client.RemoteDisconnected):
        pass  # it was just about to go
    return False


def start(mount, *words, **environment):
    """Start ``nebfs dashboard``; return it and the address that it prints."""
    argv = [sys.executable, "-m", "nebfs.cli", "dashboard", mount.path, "--run-dir", mount.run_dir]
    bare = {k: v for k, v in os.environ.items() if k not in {"DISPLAY", "WAYLAND_DISPLAY"}}
    command = subprocess.Popen(
        [*argv, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=bare | environment,
    )  # fmt: skip
    return command, command.stdout.readline().strip()


def ended(command, sign=signal.SIGINT):
    command.send_signal(sign)
    said = command.communicate(timeout=20)[1]
    return command.returncode, said


@pytest.fixture
def read(shared):
    """Some images that are open, and of which a part was read."""
    opened = []
    for app in (HOSTILE, ALPINE):
        (path,) = (one for one in shared.mount.app(app).iterdir() if one.name.startswith(app))
        fd = os.open(path, os.O_RDONLY)
        opened.append(fd)
        os.pread(fd, 4096, 3 << 20)
    yield opened
    for fd in opened:
        os.close(fd)


SEEN = """(() => ({
    wide: document.documentElement.scrollWidth <= document.documentElement.clientWidth,
    health: document.getElementById("health").textContent,
    places: [...document.querySelectorAll("#places tr")].map((row) => row.cells[0].textContent),
    cards: [...document.querySelectorAll("#open h3")].map((head) => head.textContent),
    objects: document.querySelectorAll("#objects tr").length,
    maps: document.querySelectorAll("#open svg[role=img][aria-label]").length,
    charts: document.querySelectorAll(".charts svg[role=img][aria-label]").length,
    markup: document.querySelectorAll("main b").length,
    paper: getComputedStyle(document.querySelector("table")).backgroundColor,
    heads: getComputedStyle(document.querySelector("thead")).position,
}))()"""


def test_the_page_shows_the_mount(shared, read, tmp_path):
    command, url = start(shared.mount)
    seen = {}

    async def visit(page):
        for name, size, dark in (
            ("desktop", DESKTOP, False),
            ("desktop-dark", DESKTOP, True),
            ("phone", PHONE, False),
        ):
            await page.look(size, dark=dark)
            await page.until("document.documentElement.dataset.shown == 'yes'")
            await page.until("document.querySelectorAll('#open h3').length >= 2")
            await page.until(f"document.querySelector('#open').textContent.includes('{ALPINE}')")
            seen[name] = await page.run(SEEN)
            await page.shot(tmp_path / f"{name}.png")
        assert page.problems == []
        assert all(one.startswith(url) for one in page.asked), page.asked
        assert ended(command)[0] == 0
        shown = await page.until("document.getElementById('banner').textContent")
        assert "does not answer any more" in shown

    try:
        browse(url, visit)
    finally:
        command.kill()
        command.communicate()
    for one in seen.values():
        assert one["health"] == "✓ healthy"
        assert one["wide"], "nothing sticks out at the side"
        assert {"OpenNebula Public", "Docker Hub", "default"} <= set(one["places"])
        assert f"{HOSTILE}.raw" in one["cards"]
        assert one["markup"] == 0, "a name is text"
        assert one["objects"] >= 2
        assert one["maps"] == len(one["cards"])
        assert one["charts"] == 3
    assert seen["desktop"]["paper"] != seen["desktop-dark"]["paper"]
    assert (seen["desktop"]["heads"], seen["phone"]["heads"]) == ("static", "absolute")
    for file in tmp_path.glob("*.png"):
        assert file.stat().st_size > 20_000


def test_it_ends_with_the_command_and_is_nowhere_told(shared, tools):
    command, url = start(shared.mount)
    assert opened(url).status == 200
    with pytest.raises(urllib.error.HTTPError, match="404"):
        opened(url.rsplit("/", 2)[0] + "/")
    secret = url.split("/")[3]
    code, said = ended(command, signal.SIGTERM)
    assert code == -signal.SIGTERM
    assert "until you press Ctrl-C" in said
    tools.wait_until(lambda: refused(url))
    assert secret not in shared.mount.log + said
    assert not list(shared.mount.run_dir.glob("*.html"))


def test_a_browser_is_started_without_the_secret_on_its_command_line(shared, tools, tmp_path):
    started = tmp_path / "started"
    browser = tmp_path / "browser"
    made = f"{shared.mount.run_dir}/*.html"
    browser.write_text(
        f'#!/bin/sh\ncat {made} >{tmp_path}/page; stat -c "%a %n" {made} >{tmp_path}/mode\n'
        f'printf "%s" "$1" >{started}.new; mv {started}.new {started}\n'
    )
    browser.chmod(0o755)
    command, url = start(shared.mount, DISPLAY=":7", BROWSER=f"{browser} %s")
    try:
        tools.wait_until(started.exists)
    finally:
        assert ended(command)[0] == 0
    assert url not in started.read_text()
    file = unquote(started.read_text().removeprefix("file://"))
    assert (tmp_path / "mode").read_text() == f"600 {file}\n"
    assert f'content="0; url={url}"' in (tmp_path / "page").read_text()
    assert not list(shared.mount.run_dir.glob("*.html"))


def test_kept_and_stopped(shared, tools):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ("dashboard", shared.mount.path, "--run-dir", shared.mount.run_dir)
    done = tools.run(*tools.nebfs, *words, "--keep", "--no-browser", "--json", "--port", str(port))
    url = json.loads(done.stdout)["url"]
    assert url.startswith(f"http://127.0.0.1:{port}/")
    said = json.load(opened(url + "data"))
    assert said["status"]["mountpoint"] == str(shared.mount.path)
    assert tools.run(*tools.nebfs, *words, "--stop").stderr == ""
    with pytest.raises(urllib.error.URLError, match="refused"):
        opened(url)
    assert "nothing was kept" in tools.run(*tools.nebfs, *words, "--stop").stderr
    done = tools.run(*tools.nebfs, *words, "--port", "70000", check=False)
    assert done.returncode == 2
    nowhere = tools.run(*tools.nebfs, "dashboard", "--run-dir", "/nowhere", check=False)
    assert nowhere.returncode == 3
    assert nowhere.stderr.startswith("nebfs: nothing is mounted by this user: 'nebfs mount SOURCE ")


def test_prometheus_is_answered_on_the_socket_and_on_tcp(make_mount, servers, tools):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    mount = make_mount(servers.frontend_url, "-o", f"metrics=127.0.0.1:{port}")
    mount.start()
    (path,) = (one for one in mount.app(ALPINE).iterdir() if one.suffix == ".qcow2")
    with open(path, "rb") as file:
        file.read(1 << 20)
        done = tools.run("curl", "-sS", "--noproxy", "*", f"http://127.0.0.1:{port}/metrics")
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(done.stdout)
        for sample in family.samples
    }
    assert found["nebfs_healthy",] == 1
    assert found["nebfs_open_files",] == 1
    assert found["nebfs_fetched_bytes_total",] >= 1 << 20
    servers_seen = [key[1] for key in found if key[0] == "nebfs_server_bytes_total"]
    assert len(servers_seen) == 1
    assert found["nebfs_server_bytes_total", servers_seen[0]] >= 1 << 20
    assert found["nebfs_server_requests_total", servers_seen[0]] >= 1
    for process in ("daemon", "fetcher"):
        assert 1 << 20 < found["nebfs_process_resident_bytes", process] < 1 << 28
        assert found["nebfs_process_threads", process] >= 1
    (where,) = mount.run_dir.glob("*.sock")
    curl = ("curl", "-sS", "--unix-socket", where, "http://nebfs/metrics")
    assert tools.run(*curl).stdout.startswith("# HELP nebfs_info ")
    past = control.ask(where, "GET", "/v1/history", timeout=20)
    assert past["every"] == 5.0
    evil = ("curl", "-sS", "--noproxy", "*", "-H", "Host: evil.example", "-o", "/dev/null")
    code = ("-w", "%{http_code}", f"http://127.0.0.1:{port}/metrics")
    assert tools.run(*evil, *code).stdout == "403"
    second = make_mount(servers.frontend_url, "-o", f"metrics=127.0.0.1:{port}")
    done = second.start(check=False)
    assert done.returncode != 0
    assert f"metrics cannot be had at 127.0.0.1:{port}: Address already in use" in done.stderr
    assert not os.path.ismount(second.path)
