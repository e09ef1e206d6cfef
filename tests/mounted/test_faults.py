"""Bad input and faults: a clear message or errno, no hang, no traceback, nothing lost.

What the place of the bytes and the cache disk do to reads: tests/promises, promises 1, 2, 5 and 6.
"""

from __future__ import annotations

import os
import signal
import time

import pytest

pytestmark = pytest.mark.mounted

ALPINE = "Alpine Linux 3.20"


def url_of(cloud, end):
    return next(u for u in cloud.published if u.endswith(end))


def failing_read(path, offset=0, length=4096):
    """Return the errno of a read."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.pread(fd, length, offset)
    except OSError as exc:
        return exc.errno
    finally:
        os.close(fd)
    return 0


# --- at the start -------------------------------------------------------------------------------


def test_a_wrong_password_is_said_and_nothing_is_mounted(make_mount, servers):
    mount = make_mount(servers.frontend_url, auth="oneadmin:wrong-canary")
    done = mount.start(check=False)
    assert done.returncode == 77
    assert "wrong user or password" in done.stderr
    assert str(mount.path.parent / "auth") in done.stderr
    assert "Traceback" not in done.stderr + mount.log
    assert "canary" not in done.stderr + mount.log
    assert not os.path.ismount(mount.path)


def test_no_front_end_and_nothing_saved_is_said(make_mount):
    mount = make_mount("http://127.0.0.1:9/RPC2")
    done = mount.start(check=False)
    assert done.returncode == 69
    assert "127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr + mount.log


def test_an_endpoint_that_is_no_front_end_is_said(make_mount, servers):
    mount = make_mount(f"{servers.files_url}/nothing")
    done = mount.start(check=False)
    assert done.returncode not in {0, 70}
    assert "Traceback" not in done.stderr + mount.log


def test_it_mounts_from_the_saved_lists_while_the_front_end_is_down(make_mount, cloud, home):
    from nebfs.demo.server import serve

    home = home / "again"
    with serve(cloud) as servers:
        url = servers.frontend_url
        mount = make_mount(url, home=home)
        mount.start()
        whole = (mount.app(ALPINE) / f"{ALPINE}.qcow2").read_bytes()
        mount.stop()
    mount.start()
    assert "Debian 12" in os.listdir(mount.path / "marketplaces/OpenNebula Public")
    assert (mount.app(ALPINE) / f"{ALPINE}.qcow2").read_bytes() == whole  # all of it is cached
    assert mount.image("ttylinux.qcow2").stat().st_size > 0
    assert failing_read_or_stat(mount.app("Debian 12")) != 0
    assert mount.status()["trouble"]


def failing_read_or_stat(app):
    """Return the errno of reading the app's first disk; one that cannot be asked has mode 0."""
    disks = [p for p in app.iterdir() if p.suffix in {".raw", ".qcow2"}]
    assert disks
    try:
        return failing_read(disks[0])
    except OSError as exc:
        return exc.errno


def test_a_mount_point_that_does_not_exist_is_said(make_mount, servers, tools):
    mount = make_mount(servers.frontend_url)
    mount.path.rmdir()
    done = mount.start(check=False)
    assert done.returncode == 32
    assert "mkdir" in done.stderr
    mount.path.mkdir()


def test_a_dead_mount_left_behind_is_cleared_by_the_next(mount):
    mount.kill()
    with pytest.raises(OSError, match="Transport endpoint"):
        os.listdir(mount.path)
    cleared = mount.start()
    assert "cleared the dead mount" in cleared.stderr + cleared.stdout
    assert "marketplaces" in os.listdir(mount.path)


def test_mounting_twice_is_refused(mount, tools):
    done = mount.start(check=False)
    assert done.returncode == 32
    assert "already" in done.stderr
    assert "marketplaces" in os.listdir(mount.path)


def test_a_cache_in_use_is_said_before_anything_is_mounted(mount, make_mount, servers):
    other = make_mount(servers.frontend_url, "-o", f"cache_dir={mount.cache}")
    other.argv[other.argv.index("--cache-dir") : other.argv.index("--cache-dir") + 2] = []
    done = other.start(check=False)
    assert done.returncode != 0
    assert "in use by another nebfs" in done.stderr
    assert not os.path.ismount(other.path)


# --- later --------------------------------------------------------------------------------------


def test_the_front_end_going_away_takes_nothing_away(make_mount, cloud):
    from nebfs.demo.server import serve

    with serve(cloud) as servers:
        mount = make_mount(servers.frontend_url)
        mount.start()
        before = sorted(os.listdir(mount.path / "marketplaces/OpenNebula Public"))
    from nebfs.daemon.control import ask

    ask(next(mount.run_dir.glob("*.sock")), "POST", "/v1/refresh", timeout=60)
    assert sorted(os.listdir(mount.path / "marketplaces/OpenNebula Public")) == before
    assert mount.status()["trouble"]
    assert not mount.status()["healthy"]


def test_a_marketplace_going_away_is_its_own_trouble(mount, servers, cloud):
    cloud.marketplaces[0].template = type(cloud.marketplaces[0].template)(
        tuple(
            (k, "http://127.0.0.1:9/" if k == "ENDPOINT" else v)
            for k, v in cloud.marketplaces[0].template.items
        )
    )
    mount.refresh()
    assert ALPINE in os.listdir(mount.path / "marketplaces/OpenNebula Public")
    places = {p["name"]: p for p in mount.status()["places"]}
    assert places["OpenNebula Public"]["trouble"]
    assert not places["Private HTTP"]["trouble"]


def test_a_right_that_is_lost_takes_effect_at_the_next_refresh(mount, cloud):
    from nebfs.daemon.control import ask

    cloud.set_password("oneadmin", "another")
    ask(next(mount.run_dir.glob("*.sock")), "POST", "/v1/refresh", timeout=30)
    with pytest.raises(PermissionError):
        os.listdir(mount.path / "marketplaces")
    cloud.set_password("oneadmin", "opennebula")
    mount.refresh()
    assert os.listdir(mount.path / "marketplaces")


def test_malformed_xml_keeps_the_last_lists(mount, servers, cloud):
    from nebfs.daemon.control import ask

    cloud.marketplaces[0].name = "broken \x01\ufffe name ]]> <"
    ask(next(mount.run_dir.glob("*.sock")), "POST", "/v1/refresh", timeout=30)
    assert os.listdir(mount.path / "datastores/default")
    assert "Traceback" not in mount.log


# --- coming and going ---------------------------------------------------------------------------


def test_changes_in_the_cloud_are_seen_after_a_refresh(mount, cloud, tools):
    market = mount.path / "marketplaces/Private HTTP"
    assert "twin" in os.listdir(market)
    cloud.rename_app(20, "renamed app")
    cloud.remove_app(21)
    cloud.rename_image(0, "renamed image")
    mount.refresh()
    names = os.listdir(market)
    assert "renamed app" in names
    assert "tiny raw app" not in names
    # The kernel is told in a thread, a moment after the refresh is over.
    tools.wait_until(lambda: not (market / "tiny qcow2 app").exists())
    assert (market / "renamed app/app.json").exists()
    assert mount.image("renamed image.raw").exists()
    tools.wait_until(lambda: not mount.image("tiny raw.raw").exists())


def test_the_emoji_fault_hides_one_app_and_no_other(make_mount, servers, cloud):
    cloud.poison_app(24)
    mount = make_mount(servers.frontend_url)
    mount.start()
    names = os.listdir(mount.path / "marketplaces/Private HTTP")
    assert "tiny raw app" in names
    assert "unreadable-24" in names


def test_a_term_lets_open_files_be_read_to_the_end(mount, cloud):
    path = mount.app("Debian 12") / "Debian 12.raw"
    pid = mount.pid
    with open(path, "rb", buffering=0) as file:
        file.read(4096)
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 10
        while os.path.ismount(mount.path) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not os.path.ismount(mount.path)
        original = cloud.published[url_of(cloud, "debian-12.raw")]
        with open(original, "rb") as whole:
            whole.seek(9 << 20)
            assert os.pread(file.fileno(), 4096, 9 << 20) == whole.read(4096)
    deadline = time.monotonic() + 15
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{pid}")


def test_a_marketplace_without_a_cloud(make_mount, servers, cloud):
    mount = make_mount(None, "--marketplace", servers.appliance_url)
    mount.start()
    market = next((mount.path / "marketplaces").iterdir())
    assert os.listdir(mount.path) == ["marketplaces", "raw"]
    assert os.listdir(mount.path / "raw") == ["marketplaces"]
    copy = (market / ALPINE / f"{ALPINE}.qcow2").read_bytes()
    assert copy == cloud.published[url_of(cloud, "alpine.qcow2")].read_bytes()
