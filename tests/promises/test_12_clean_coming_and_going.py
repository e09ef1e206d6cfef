"""Promise 12: clean coming and going.

What a service manager sees of it is in tests/mounted/test_service.py: READY when it can be used, a
TERM with files open, HUP, a kill and the next start. What the command says of a mistake at the
start, and a mount from the saved lists while nobody listens, is in tests/mounted/test_faults.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from nebfs.daemon import registry
from nebfs.daemon.control import ask
from tests.faults.valve import OPEN, STALLED, Valves
from tests.mounted.conftest import NEBFS, run, wait_until

pytestmark = pytest.mark.mounted

ALPINE, DEBIAN = "Alpine Linux 3.20", "Debian 12"
PUBLIC = "marketplaces/OpenNebula Public"


def mounts_at(path):
    return Path("/proc/self/mountinfo").read_text().count(f" {path} ")


def is_gone(pid):
    return not Path(f"/proc/{pid}").exists()


def refreshed(mount):
    socket = next(mount.run_dir.glob("*.sock"))
    return ask(socket, "POST", "/v1/refresh", timeout=60)["refreshed"]


@pytest.fixture
def front_end(servers):
    """The way to the front-end, on which it can come to a standstill; its URL is in `url`."""
    port = urlsplit(servers.frontend_url).port
    valves = Valves()
    made = valves.valve(port)
    made.url = servers.frontend_url.replace(f":{port}/", f":{made.port}/")
    yield made
    valves.close()


# --- coming -------------------------------------------------------------------------------------


def test_ready_means_usable(make_mount, servers, cloud):
    """What the command comes back from can be used at that very moment, every time."""
    mount = make_mount(servers.frontend_url)
    url = next(u for u in cloud.published if u.endswith("alpine.qcow2"))
    for _ in range(2):
        mount.start()
        assert DEBIAN in os.listdir(mount.path / PUBLIC)
        with open(mount.app(ALPINE) / f"{ALPINE}.qcow2", "rb") as file:
            assert file.read(4096) == cloud.published[url].read_bytes()[:4096]
        assert len(mount.image("tiny raw.raw").read_bytes()) > 0
        assert mount.status()["healthy"]
        assert run(*NEBFS, "status", "--run-dir", mount.run_dir).returncode == 0
        mount.stop()
        assert not os.path.ismount(mount.path)


def test_it_is_not_there_before_it_is_ready(make_mount, servers):
    """And a HUP or an USR1 that comes so early ends nothing."""
    servers.front_end.delay = 0.4
    mount = make_mount(servers.frontend_url, "--foreground")
    starting = subprocess.Popen([os.fspath(a) for a in mount.argv], stderr=subprocess.PIPE)
    try:
        wait_until(lambda: servers.front_end.calls)
        assert not os.path.ismount(mount.path)
        assert list(mount.run_dir.glob("*.json")) == []
        for number in (signal.SIGHUP, signal.SIGUSR1):
            starting.send_signal(number)
        wait_until(lambda: os.path.ismount(mount.path))
        wait_until(lambda: list(mount.run_dir.glob("*.json")))
        assert DEBIAN in os.listdir(mount.path / PUBLIC)
    finally:
        starting.terminate()
        said = starting.communicate(timeout=20)[1].decode()
    assert starting.returncode == 0, said
    assert "Traceback" not in said


def test_it_mounts_from_the_saved_lists_while_the_front_end_hangs(make_mount, front_end):
    mount = make_mount(front_end.url)
    mount.start()
    listed = sorted(os.listdir(mount.path / PUBLIC))
    whole = (mount.app(ALPINE) / f"{ALPINE}.qcow2").read_bytes()
    taken = mount.status()["as_of"]
    mount.stop()

    front_end.turn(STALLED)
    mount.argv += ["-o", "listing_deadline=1s"]
    mount.start()
    assert sorted(os.listdir(mount.path / PUBLIC)) == listed
    assert (mount.app(ALPINE) / f"{ALPINE}.qcow2").read_bytes() == whole
    status = mount.status()
    assert not status["healthy"]
    assert status["trouble"]
    assert status["as_of"] == taken, "lists of an earlier life are shown as new"
    told = run(*NEBFS, "status", "--run-dir", mount.run_dir, check=False)
    assert told.returncode == 4
    assert "did not end in time" in told.stdout

    front_end.turn(OPEN)
    # On a busy machine one answer may take longer than the two seconds that all may take here.
    wait_until(lambda: refreshed(mount), 60)
    assert mount.status()["healthy"]
    assert mount.status()["as_of"] > taken


def test_what_was_saved_and_is_damaged_is_no_empty_cloud(make_mount, front_end):
    mount = make_mount(front_end.url)
    mount.start()
    mount.stop()
    mount.argv += ["-o", "listing_deadline=1s"]
    (saved,) = (mount.cache / "documents").glob("catalogue-*.json")
    content = bytearray(saved.read_bytes())
    content[len(content) // 2] ^= 1
    saved.write_bytes(content)
    front_end.turn(STALLED)
    done = mount.start(check=False)
    assert done.returncode == 69, done.stderr
    assert "did not end in time" in done.stderr
    assert not os.path.ismount(mount.path)


def test_two_that_are_started_at_once_are_not_mounted_upon_each_other(make_mount, servers):
    servers.front_end.delay = 0.2
    one, two = make_mount(servers.frontend_url), make_mount(servers.frontend_url)
    for option, value in (("--run-dir", one.run_dir), (two.path, one.path)):
        at = two.argv.index(option)
        two.argv[at if option == two.path else at + 1] = value
    two.path, two.run_dir = one.path, one.run_dir
    both = [
        subprocess.Popen(
            [os.fspath(a) for a in mount.argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for mount in (one, two)
    ]
    said = [process.communicate(timeout=60)[0].decode() for process in both]
    assert sorted(process.returncode for process in both) == [0, 32], said
    assert mounts_at(one.path) == 1
    lost = next(s for s, p in zip(said, both, strict=True) if p.returncode)
    assert "is being mounted just now by another nebfs" in lost or "already a mount" in lost
    assert "Traceback" not in lost
    assert DEBIAN in os.listdir(one.path / PUBLIC)


def test_the_place_for_a_mount(make_mount, servers, tmp_path):
    mount = make_mount(servers.frontend_url)
    at = mount.argv.index(mount.path)

    file = tmp_path / "file"
    file.write_text("a file")
    mount.argv[at] = file
    done = mount.start(check=False)
    assert (done.returncode, "is not a directory" in done.stderr) == (32, True)

    mount.argv[at] = tmp_path / "not there"
    done = mount.start(check=False)
    assert (done.returncode, "mkdir -p" in done.stderr) == (32, True)

    # One that is not empty is covered, as mount(8) covers it, and is there again afterwards.
    full, link = tmp_path / "full", tmp_path / "link"
    full.mkdir()
    (full / "kept").write_text("kept")
    link.symlink_to(full)
    mount.argv[at] = link
    mount.start()
    try:
        assert "kept" not in os.listdir(full)
        assert "marketplaces" in os.listdir(full)
        assert mounts_at(full) == 1
    finally:
        run(*NEBFS, "umount", link, "--run-dir", mount.run_dir)
    assert os.listdir(full) == ["kept"]
    assert registry.registered(mount.run_dir) == []


# --- going --------------------------------------------------------------------------------------


def test_a_term_lets_reads_that_are_under_way_end_with_the_right_bytes(make_mount, servers, cloud):
    mount = make_mount(servers.frontend_url)
    mount.start()
    pid = mount.pid
    path = mount.app(DEBIAN) / f"{DEBIAN}.raw"
    url = next(u for u in cloud.published if u.endswith("debian-12.raw"))
    original = cloud.published[url].read_bytes()[: 8 << 20]
    begun, ended = threading.Barrier(5), []

    def read(part):
        with open(path, "rb", buffering=0) as file:
            file.seek(part << 21)
            found = file.read(1)
            begun.wait(10)
            while len(found) < 2 << 20:
                found += file.read((2 << 20) - len(found))
        ended.append(found == original[part << 21 : (part + 1) << 21])

    readers = [threading.Thread(target=read, args=(part,)) for part in range(4)]
    for reader in readers:
        reader.start()
    begun.wait(10)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not os.path.ismount(mount.path), 5)
    assert os.listdir(mount.path) == []
    for reader in readers:
        reader.join(20)
    assert ended == [True] * 4
    wait_until(lambda: is_gone(pid), 5)  # the last file is closed: there is no more to wait for
    assert registry.registered(mount.run_dir) == []
    assert list(mount.run_dir.glob("*.sock")) == []
    assert "Traceback" not in mount.log


def test_a_second_term_ends_it_at_once_with_reads_that_hang(make_mount, servers, cloud):
    mount = make_mount(servers.frontend_url)
    mount.start()
    pid = mount.pid
    path = mount.app(DEBIAN) / f"{DEBIAN}.raw"
    path.stat()
    url = next(u for u in cloud.published if u.endswith("debian-12.raw"))
    servers.files.switches(url).stall_after = 0
    ended = []

    def read(offset):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.pread(fd, 4096, offset)
        except OSError as exc:
            ended.append(exc.errno)
        finally:
            with contextlib.suppress(OSError):
                os.close(fd)

    readers = [threading.Thread(target=read, args=(n << 22,)) for n in range(4)]
    for reader in readers:
        reader.start()
    wait_until(lambda: mount.status()["fetcher"]["in_flight"] > 0)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not os.path.ismount(mount.path), 5)
    assert not ended
    os.kill(pid, signal.SIGTERM)
    for reader in readers:
        reader.join(10)
    assert len(ended) == 4, "a read has no end"
    wait_until(lambda: is_gone(pid), 10)
    assert mounts_at(mount.path) == 0
    assert "Traceback" not in mount.log


def test_one_that_somebody_else_unmounts_ends_by_itself(mount):
    pid = mount.pid
    run("umount", mount.path)
    wait_until(lambda: is_gone(pid), 10)
    assert registry.registered(mount.run_dir) == []
    assert "Traceback" not in mount.log


def test_one_that_ends_late_leaves_its_successor_alone(make_mount, servers):
    """It was detached with a file open, and another is mounted in its place when that is closed."""
    first, second = make_mount(servers.frontend_url), make_mount(servers.frontend_url)
    first.start()
    old = first.pid
    with open(first.app(DEBIAN) / f"{DEBIAN}.raw", "rb", buffering=0) as file:
        file.read(4096)
        run("umount", "-l", first.path)
        for option, value in ((second.path, first.path), (second.run_dir, first.run_dir)):
            second.argv[second.argv.index(option)] = value
        second.path, second.run_dir = first.path, first.run_dir
        second.start()
        new = second.pid
        assert new != old
        assert len(os.pread(file.fileno(), 4096, 0)) == 4096
    wait_until(lambda: is_gone(old), 15)
    (registered,) = registry.running(first.run_dir)
    assert registered.pid == new
    assert ask(Path(registered.socket), "GET", "/v1/status", timeout=10)["pid"] == new
    assert DEBIAN in os.listdir(first.path / PUBLIC)
    run(*NEBFS, "umount", first.path, "--run-dir", first.run_dir)
    wait_until(lambda: is_gone(new), 10)


def test_a_killed_one_errors_and_the_next_start_clears_its_own_alone(make_mount, servers, tmp_path):
    mount, neighbour = make_mount(servers.frontend_url), make_mount(servers.frontend_url)
    mount.start()
    neighbour.start()
    file = os.open(mount.app(DEBIAN) / f"{DEBIAN}.raw", os.O_RDONLY)
    mount.kill()
    for look in (
        lambda: os.listdir(mount.path),
        lambda: os.statvfs(mount.path),
        lambda: os.open(mount.path / PUBLIC, os.O_RDONLY),
        lambda: os.pread(file, 4096, 40 << 20),
    ):
        with pytest.raises(OSError, match="not connected"):
            look()
    with contextlib.suppress(OSError):  # nobody is there to be told
        os.close(file)

    # Somebody else's, as dead: it is said, and left.
    other = tmp_path / "other"
    other.mkdir()
    fuse = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0"
    run(*("mount", "-i", "-t", "fuse.other", "-o", options, "other", other), pass_fds=(fuse,))
    os.close(fuse)
    try:
        third = make_mount(servers.frontend_url)
        third.argv[third.argv.index(third.path)] = other
        done = third.start(check=False)
        assert done.returncode == 32
        assert "dead mount of other (fuse.other), not of nebfs" in done.stderr
        assert f"umount --lazy {other}" in done.stderr
        assert mounts_at(other) == 1
    finally:
        run("umount", "-l", other)

    cleared = mount.start()
    assert "cleared the dead mount" in cleared.stderr + cleared.stdout
    assert mounts_at(mount.path) == 1
    assert mounts_at(neighbour.path) == 1
    for one in (mount, neighbour):
        assert DEBIAN in os.listdir(one.path / PUBLIC)
        assert json.loads((one.path / ".nebfs/status.json").read_text())["pid"] == one.pid


def test_hups_in_a_row_disturb_nobody(mount, cloud):
    path = mount.app(DEBIAN) / f"{DEBIAN}.raw"
    url = next(u for u in cloud.published if u.endswith("debian-12.raw"))
    original = cloud.published[url].read_bytes()
    pid = mount.pid
    with open(path, "rb", buffering=0) as file:
        for offset in range(0, 10 << 20, 1 << 20):
            os.kill(pid, signal.SIGHUP)
            assert os.pread(file.fileno(), 4096, offset) == original[offset : offset + 4096]
            assert DEBIAN in os.listdir(mount.path / PUBLIC)
    wait_until(lambda: mount.log.count("reload.done") >= mount.log.count("reload.asked") > 0)
    assert mount.pid == pid
    assert mount.status()["healthy"]
    assert "Traceback" not in mount.log
