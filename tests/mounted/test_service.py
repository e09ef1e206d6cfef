"""nebfs@.service, started as systemd would start it, by a small manager of our own.

The manager takes what it does from the unit file: the command, the capabilities, NoNewPrivileges,
the filters of system calls (limits.py), the umask, which process is told to stop. Its environment
is systemd's: no HOME, directories by name. Real systemd is asked only whether it understands the
file, and what it thinks of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nebfs.demo.demonstration import PASSWORD
from tests.mounted import limits

pytestmark = pytest.mark.mounted

CHECKOUT = Path(__file__).resolve().parents[2]
UNIT = CHECKOUT / "scripts/systemd/nebfs@.service"
ALPINE = "Alpine Linux 3.20"

# exec_needs_mount_namespace() in systemd's src/core/exec-invoke.c and execute.c (v252 to v257).
MOUNT_NAMESPACE = {
    *("PrivateTmp", "PrivateDevices", "PrivateMounts", "PrivateIPC", "PrivateUsers"),
    *("ProtectSystem", "ProtectHome", "ProtectProc", "ProcSubset", "ProtectKernelTunables"),
    *("ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups", "ReadOnlyPaths"),
    *("ReadWritePaths", "InaccessiblePaths", "ExecPaths", "NoExecPaths", "BindPaths"),
    *("BindReadOnlyPaths", "TemporaryFileSystem", "RootDirectory", "RootImage", "MountFlags"),
    *("DynamicUser", "LogNamespace", "MountImages", "ExtensionImages", "PrivateNetwork"),
    *("ExtensionDirectories", "PrivatePIDs", "PrivateBPF", "NetworkNamespacePath"),
    *("IPCNamespacePath", "RootHash", "MountAPIVFS"),
}
PAGE = CHECKOUT / "docs/service.md"
SCORE = 41
"""Tenths, of systemd 252; docs/service.md says it, too."""


@pytest.fixture
def instance(tmp_path):
    """The unit as a file that systemd-analyze finds, of a program that is there."""
    unit = tmp_path / "nebfs@one.service"
    unit.write_text(UNIT.read_text().replace("/usr/bin/nebfs", shutil.which("true")))
    return unit


def analyze(*words):
    # Only files are read: --offline asks no running systemd, nor does verify.
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True)


def test_the_unit_hides_no_mount_and_is_understood_by_systemd(instance):
    assert MOUNT_NAMESPACE & set(limits.settings(UNIT)) == set()
    done = analyze("verify", "--man=no", instance)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_keeps_its_score_and_the_page_says_why_it_is_no_better(instance):
    done = analyze("security", "--offline=true", f"--threshold={SCORE}", "--no-pager", instance)
    assert done.returncode == 0, done.stdout
    assert f"gives the unit {SCORE / 10}, " in PAGE.read_text()
    told = analyze("security", "--offline=true", "--json=short", instance)
    missed = {one["name"] for one in json.loads(told.stdout) if one["exposure"]}
    table = re.search(r"<!-- left over -->(.*?)<!-- end -->", PAGE.read_text(), re.DOTALL)[1]
    cells = [line.split(" | ")[0] for line in table.replace("\\|", "¦").splitlines()]
    explained = {name for cell in cells for name in re.findall("`(.*?)`", cell)}
    assert missed == {name.replace("¦", "|") for name in explained}


class Manager:
    """Starts the unit, hears what it says, and stops it as the unit says."""

    def __init__(self, home, source, watchdog=0.0, **settings):
        self.home, self.mountpoint = home, home / "mnt"
        self.unit = limits.settings(UNIT)
        self.watchdog = watchdog
        for made in (self.mountpoint, home / "cache", home / "run", home / "credentials"):
            made.mkdir(mode=0o700)
        self.auth = home / "credentials/nebfs.auth"
        self.auth.write_text(f"oneadmin:{PASSWORD}\n")
        told = {"source": source, "mountpoint": str(self.mountpoint), **settings}
        (home / "one.toml").write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in told.items()))
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.address = f"nebfs-manager-{os.getpid()}-{id(self)}"
        self.socket.bind(f"\0{self.address}")
        self.main = None

    def start(self):
        (command,) = self.unit["ExecStart"]
        command = command.replace("/etc/nebfs/%i.toml", str(self.home / "one.toml"))
        words = [sys.executable, "-m", "nebfs.cli", *shlex.split(command)[1:]]
        kept = " ".join(self.unit["CapabilityBoundingSet"]).lower().split()
        bounds = ",".join(["-all", *(f"+{name.removeprefix('cap_')}" for name in kept)])
        assert self.unit["NoNewPrivileges"] == ["yes"]
        limited = ["setpriv", "--no-new-privs", f"--bounding-set={bounds}"]
        limited += [sys.executable, limits.__file__, UNIT]
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(CHECKOUT),
            "NOTIFY_SOCKET": f"@{self.address}",
            "CACHE_DIRECTORY": str(self.home / "cache"),
            "RUNTIME_DIRECTORY": str(self.home / "run"),
            "CREDENTIALS_DIRECTORY": str(self.home / "credentials"),
        }
        if self.watchdog:
            environment["WATCHDOG_USEC"] = str(int(self.watchdog * 1e6))
        script = f'umask {self.unit["UMask"][0]}; WATCHDOG_PID=$$; export WATCHDOG_PID; exec "$@"'
        with open(self.home / "journal", "ab") as journal:
            self.main = subprocess.Popen(
                ["sh", "-c", script, "sh", *limited, *words],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=journal,
                stderr=journal,
                cwd="/",
                start_new_session=True,
            )

    @property
    def journal(self):
        return (self.home / "journal").read_text(errors="replace")

    def hear(self, seconds=60.0):
        """Return one message of the main process as a dictionary, None after `seconds`."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                data, ancillary, _, _ = self.socket.recvmsg(4096, 64)
            except TimeoutError:
                return None
            (pid, _, _) = struct.unpack("3i", ancillary[0][2])
            assert pid == self.main.pid, "NotifyAccess=main: others are not listened to"
            return dict(line.split("=", 1) for line in data.decode().splitlines())
        return None

    def hear_of(self, name, seconds=60.0):
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            message = self.hear(left)
            if message and name in message:
                return message
        raise AssertionError(f"{name} was not heard of\n{self.journal}")

    def started(self):
        self.start()
        return self.hear_of("READY")

    def drain(self):
        while self.hear(0.001):
            pass

    def signal(self, number):
        os.kill(self.main.pid, number)

    def stop(self):
        """As KillMode=mixed: TERM to the main process alone. Returns the seconds that it took."""
        assert self.unit["KillMode"] == ["mixed"]
        began = time.monotonic()
        self.signal(signal.SIGTERM)
        self.main.wait(float(self.unit["TimeoutStopSec"][0]))
        return time.monotonic() - began

    def fetcher(self):
        children = Path(f"/proc/{self.main.pid}/task/{self.main.pid}/children").read_text().split()
        (found,) = [
            int(pid)
            for pid in children
            if b"nebfs.fetcher" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        return found

    def clean_up(self):
        if self.main is not None and self.main.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGCONT)
                self.signal(signal.SIGKILL)
            self.main.wait()
        self.socket.close()
        while str(self.mountpoint) in Path("/proc/self/mountinfo").read_text():
            subprocess.run(["umount", "-l", self.mountpoint], check=True)


@pytest.fixture
def manage(home):
    made = []

    def manager(source, **how):
        made.append(Manager(home, source, **how))
        return made[-1]

    yield manager
    for one in made:
        one.clean_up()


def wait_until(condition, seconds=30.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


def test_it_is_ready_when_it_can_be_used_and_the_watchdog_hears_while_it_lives(
    manage, servers, cloud
):
    manager = manage(servers.frontend_url, watchdog=2.0)
    manager.start()
    first = manager.hear()
    assert first["STATUS"].startswith("Asking for the first lists")
    ready = manager.hear_of("READY")
    assert "marketplaces" in os.listdir(manager.mountpoint), "ready, and not to be used"
    assert str(manager.mountpoint) in ready["STATUS"]
    assert os.listdir(manager.home / "run")
    inherited = Path(f"/proc/{manager.fetcher()}/environ").read_bytes()
    assert b"NOTIFY_SOCKET" not in inherited
    assert b"WATCHDOG" not in inherited

    for _ in range(2):
        manager.hear_of("WATCHDOG", 10)
    manager.signal(signal.SIGSTOP)  # the loop turns no more
    manager.drain()
    assert manager.hear(2.5) is None, "a daemon that stands still said that it lives"
    manager.signal(signal.SIGCONT)
    manager.hear_of("WATCHDOG", 10)

    hung = manager.fetcher()
    os.kill(hung, signal.SIGSTOP)
    # It is told of as soon as there is another that answers.
    wait_until(lambda: "fetcher.silent" in manager.journal)
    wait_until(lambda: not Path(f"/proc/{hung}").exists())
    manager.drain()
    manager.hear_of("WATCHDOG", 15)
    app = manager.mountpoint / "marketplaces/OpenNebula Public" / ALPINE
    assert len((app / f"{ALPINE}.qcow2").read_bytes()) > 0

    assert manager.stop() < 10
    assert manager.main.returncode == 0, manager.journal
    assert "STOPPING" in manager.hear_of("STOPPING")
    assert "Traceback" not in manager.journal


def test_it_stops_within_its_bound_with_files_open_and_unmounts(manage, servers):
    manager = manage(servers.frontend_url)
    manager.started()
    app = manager.mountpoint / "marketplaces/OpenNebula Public/Debian 12"
    file = os.open(app / "Debian 12.raw", os.O_RDONLY)
    try:
        manager.signal(signal.SIGTERM)
        manager.hear_of("STOPPING")
        wait_until(lambda: not os.path.ismount(manager.mountpoint))
        assert len(os.pread(file, 4096, 0)) == 4096, "open files are served while it stops"
        manager.main.wait(float(manager.unit["TimeoutStopSec"][0]))
        with pytest.raises(OSError, match="not connected"):
            os.pread(file, 4096, 32 << 20)
    finally:
        with contextlib.suppress(OSError):  # nobody is there to be told that it is closed
            os.close(file)
    assert manager.main.returncode == 0, manager.journal
    assert str(manager.mountpoint) not in Path("/proc/self/mountinfo").read_text()


def test_after_a_kill_the_next_start_is_usable_at_once(manage, servers):
    manager = manage(servers.frontend_url)
    manager.started()
    listed = os.listdir(manager.mountpoint / "datastores/default")
    manager.signal(signal.SIGKILL)
    manager.main.wait()
    with pytest.raises(OSError, match="not connected"):
        os.listdir(manager.mountpoint)
    manager.started()  # Restart=on-failure
    assert os.listdir(manager.mountpoint / "datastores/default") == listed
    assert "cleared the dead mount" in manager.journal
    assert Path("/proc/self/mountinfo").read_text().count(f" {manager.mountpoint} ") == 1
    assert manager.unit["Restart"] == ["on-failure"]
    manager.stop()


def test_hup_reads_the_session_again_and_open_files_go_on(manage, servers, cloud):
    manager = manage(servers.frontend_url)
    manager.started()
    assert shlex.split(manager.unit["ExecReload"][0])[1] == "-HUP"
    app = manager.mountpoint / "marketplaces/OpenNebula Public/Debian 12"
    with open(app / "Debian 12.raw", "rb", buffering=0) as file:
        head = file.read(4096)
        cloud.set_password("oneadmin", "canary-renewed")
        manager.auth.write_text("oneadmin:canary-renewed\n")
        manager.signal(signal.SIGHUP)
        manager.hear_of("RELOADING")
        ready = manager.hear_of("READY")
        assert "session" not in ready["STATUS"], manager.journal
        assert os.listdir(manager.mountpoint / "datastores/default")
        assert os.pread(file.fileno(), 4096, 0) == head
        assert len(os.pread(file.fileno(), 4096, 20 << 20)) == 4096

    # Another user's lists are not this mount's.
    manager.auth.write_text("somebody:canary-else\n")
    manager.signal(signal.SIGHUP)
    assert "mount again" in manager.hear_of("READY")["STATUS"]
    assert os.listdir(manager.mountpoint / "datastores/default"), "the old session stays in use"
    manager.auth.unlink()
    manager.signal(signal.SIGHUP)
    assert "session: " in manager.hear_of("READY")["STATUS"]
    assert "canary" not in manager.journal
    manager.stop()


def test_usr1_writes_down_what_goes_on_without_secrets(manage, servers):
    manager = manage(servers.frontend_url)
    manager.started()
    app = manager.mountpoint / "marketplaces/OpenNebula Public/Debian 12"
    with open(app / "Debian 12.raw", "rb", buffering=0) as file:
        file.read(4096)
        manager.signal(signal.SIGUSR1)
        wait_until(lambda: list((manager.home / "run").glob("*.dump")))
        (written,) = (manager.home / "run").glob("*.dump")
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    text = written.read_text()
    assert PASSWORD not in re.sub("OpenNebula|opennebula/", "", text)
    told = json.loads(text)
    assert told["status"]["healthy"] is True
    assert any(one.get("file") == "Debian 12.raw" for one in told["open"])
    assert any("nebfs/fuse/mount.py" in line for task in told["tasks"] for line in task["stack"])
    assert any(thread["name"] == "MainThread" for thread in told["threads"])
    assert "dump.written" in manager.journal
    manager.stop()
