"""A recorded boot, replayed through real mounts from a real nginx: cold, and after its profile."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from nebfs.demo.records import DatastoreRecord, ImageRecord
from tests.nginx import Nginx

pytestmark = [pytest.mark.mounted, pytest.mark.nginx]

SLOT = 128 << 10
SIZE = 224 << 20
TRACE = Path(__file__).parents[2] / "scripts/benchmarks/traces/boot-qcow2.csv"


def trace():
    with TRACE.open() as file:
        return [(int(row["offset"]), int(row["length"])) for row in csv.DictReader(file)]


def slots_of(reads):
    """Return the slots that reads touch, in the order of their first read."""
    found = {}
    for offset, length in reads:
        for slot in range(offset // SLOT, (offset + length - 1) // SLOT + 1):
            found[slot] = True
    return list(found)


READS = trace()
SLOTS = slots_of(READS)


class Place:
    """A web server with one image, which is image 402 of the cloud."""

    def __init__(self, nginx):
        self.nginx = nginx
        self.image = nginx.root / "guest"
        self.write(1)

    def write(self, seed, keep=0):
        """Put another version there, of which `keep` of 10 slots are as they were."""
        chance = random.Random(seed)
        fresh = self.image.with_suffix(".new")
        if self.image.exists():
            shutil.copy(self.image, fresh)
        with open(fresh, "r+b" if fresh.exists() else "w+b") as file:
            file.truncate(SIZE)
            for slot in range(SIZE // SLOT):
                if slot % 10 >= keep:
                    file.seek(slot * SLOT)
                    file.write(chance.randbytes(4096))
        fresh.replace(self.image)
        os.utime(self.image, (1.7e9 + seed, 1.7e9 + seed))

    def asked(self):
        """Return the slots of each request for the image that nginx has answered."""
        found = []
        for line in self.nginx.log.read_text().splitlines():
            uri, asked, status, _ = line.rsplit(" ", 3)
            if uri == "/guest" and status == "206":
                first, last = asked.removeprefix("bytes=").split("-")
                found.append(range(int(first) // SLOT, int(last) // SLOT + 1))
        return [slots for slots in found if slots.stop - slots.start > 0]

    def sent(self):
        lines = [line.rsplit(" ", 3) for line in self.nginx.log.read_text().splitlines()]
        return sum(int(count) for uri, _, _, count in lines if uri == "/guest")

    def forget(self):
        self.nginx.log.write_text("")


@pytest.fixture
def place(tmp_path):
    home = tmp_path / "web"
    home.mkdir()
    with Nginx(home, log="$uri $http_range $status $body_bytes_sent") as nginx:
        yield Place(nginx)


@pytest.fixture
def machine(cloud, servers, make_mount, place, tmp_path):
    """Make a machine, whose cache is empty, and mount the cloud there."""
    cloud.datastores[160] = DatastoreRecord(160, "web", driver="gateway")
    cloud.images[402] = ImageRecord(
        402, "guest", datastore_id=160, datastore="web", source="/x/guest", format="raw"
    )
    config = tmp_path / "nebfs.toml"
    config.write_text(f'[datastores.mappings]\ngateway = "{place.nginx.url}/{{name}}"\n')

    def machine(*options, start=True):
        mount = make_mount(servers.frontend_url, "-o", f"config={config}", *options)
        if start:
            mount.start()
        return mount

    return machine


def guest(mount):
    return mount.image("guest.raw", "web")


def replay(place, path, reads=READS):
    """Boot: the reads of the trace, each compared with the original."""
    with open(path, "rb", buffering=0) as file, open(place.image, "rb") as original:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for offset, length in reads:
            data = os.pread(file.fileno(), length, offset)
            assert data == os.pread(original.fileno(), length, offset), offset


def profiles(mount):
    return list((mount.cache / "documents").glob("boot-*.json"))


@pytest.fixture
def profile(tools):
    def run(*words, check=True):
        return tools.run(*tools.nebfs, "profile", *words, check=check)

    return run


def booted(machine, place, tools):
    """Return a machine on which the guest has booted once."""
    mount = machine()
    replay(place, guest(mount))
    tools.wait_until(lambda: profiles(mount))
    place.forget()
    return mount


def settle(place, tools, path):
    """Wait until nothing comes any more; nginx writes a line when an answer is over."""
    before = [-1, -1]

    def quiet():
        before.append(int(tools.xattr(path, "user.nebfs.cached")))
        subprocess.run(["sleep", "0.2"], check=True)
        return before[-1] == before[-2] == before[-3] > 0

    tools.wait_until(quiet)


def test_the_second_boot_finds_everything_on_its_way(machine, place, tools, profile):
    mount = booted(machine, place, tools)
    mount.stop()
    shutil.rmtree(mount.cache / "objects")
    mount.start()
    path = guest(mount)
    with open(path, "rb"):  # that it is open is enough
        settle(place, tools, path)
        asked = place.asked()
        came = [slot for slots in asked for slot in slots]
        assert set(SLOTS) <= set(came)
        assert len(came) == len(set(came))
        assert len(asked) < 0.6 * len(SLOTS)
        assert place.sent() < 1.25 * len(SLOTS) * SLOT
        # In the order of the boot, but for what is put together.
        assert set(SLOTS[:16]) <= set(came[:48])
        assert set(SLOTS[:112]) <= set(came[: len(came) // 2])
        place.forget()
        replay(place, path)
        # What is guessed beside it (read-ahead) may still come.
        assert not set(SLOTS) & {slot for slots in place.asked() for slot in slots}
    (told,) = json.loads(profile("--run-dir", mount.run_dir, "list", "--json").stdout)
    assert told["image"] == f"{place.nginx.url}/guest"
    assert tools.xattr(path, "user.nebfs.profile") == told["id"]
    shown = profile("--run-dir", mount.run_dir, "show", path).stdout
    assert told["id"] in shown
    assert place.nginx.url in shown


def test_a_profile_is_taken_to_another_machine_and_its_next_version(
    machine, place, tools, profile, tmp_path
):
    first = booted(machine, place, tools)
    file = tmp_path / "boot.json"
    profile("--run-dir", first.run_dir, "export", guest(first), file)
    place.write(2, keep=8)  # 8 of 10 slots are as they were
    second = machine(start=False)
    profile("--cache-dir", second.cache, "import", file)
    second.start()
    path = guest(second)
    with open(path, "rb"):
        settle(place, tools, path)
        assert set(SLOTS) <= {slot for slots in place.asked() for slot in slots}
        replay(place, path)
    place.write(3, keep=1)
    place.forget()
    third = machine()
    path = guest(third)
    profile("--run-dir", third.run_dir, "import", file, path)
    with open(path, "rb"):
        settle(place, tools, path)
        assert 0 < place.sent() < 40 * SLOT  # a trial, and that was it
        replay(place, path)


def test_two_guests_that_boot_at_once_have_each_byte_fetched_once(machine, place, tools):
    mount = booted(machine, place, tools)
    mount.stop()
    shutil.rmtree(mount.cache / "objects")
    mount.start()
    path = guest(mount)
    script = (
        "import os, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)\n"
        "for line in sys.stdin:\n"
        "    offset, length = map(int, line.split())\n"
        "    os.pread(fd, length, offset)\n"
    )
    reads = "\n".join(f"{offset} {length}" for offset, length in READS).encode()
    guests = [
        subprocess.Popen(["python3", "-c", script, path], stdin=subprocess.PIPE) for _ in range(2)
    ]
    for one in guests:
        one.stdin.write(reads)
        one.stdin.close()
    assert [one.wait(60) for one in guests] == [0, 0]
    came = [slot for slots in place.asked() for slot in slots]
    assert set(SLOTS) <= set(came)
    # What somebody waits for is asked for by itself, too, where a place is far away.
    assert place.sent() < 1.4 * len(SLOTS) * SLOT
    replay(place, path)


def test_a_killed_daemon_s_profiles_are_there_afterwards(machine, place, tools):
    mount = booted(machine, place, tools)
    before = profiles(mount)
    again = os.open(guest(mount), os.O_RDONLY)  # in the middle of the next boot
    os.pread(again, 4096, 0)
    mount.kill()
    with contextlib.suppress(OSError):
        os.close(again)
    mount.stop()
    shutil.rmtree(mount.cache / "objects")
    mount.start()
    path = guest(mount)
    with open(path, "rb"):
        settle(place, tools, path)
        assert set(SLOTS) <= {slot for slots in place.asked() for slot in slots}
    assert profiles(mount) == before
    mount.stop()
    shutil.rmtree(mount.cache / "objects")
    mount.argv += ["-o", "profiles=off"]
    mount.start()
    place.forget()
    with open(guest(mount), "rb"):
        replay(place, guest(mount), READS[:1])
        subprocess.run(["sleep", "0.5"], check=True)
    assert place.sent() < 16 * SLOT
