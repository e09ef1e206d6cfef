"""Other users of the machine, each with his own session of OpenNebula; processes of real uids."""

from __future__ import annotations

import os
import subprocess

import pytest

from nebfs.demo.records import UserRecord
from nebfs.model import Permissions

pytestmark = pytest.mark.mounted

ALICE, BOB, STRANGER, LIAR = 60001, 60002, 60003, 60004


def become(uid):
    """The words before those of a command that somebody else is to run."""
    return ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups")


def as_user(uid, *words, **kwargs):
    """Run a tool as somebody else."""
    return subprocess.run(
        [*become(uid), *map(str, words)],
        capture_output=True,
        text=True,
        errors="replace",
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        timeout=60,
        **kwargs,
    )


def names(uid, path):
    """What a user sees in a directory, by readdir with attributes."""
    done = as_user(uid, "ls", "-la", path)
    assert done.returncode == 0, done.stderr
    return set(as_user(uid, "ls", "-A", path).stdout.splitlines())


def belongs(record, uname, bits):
    record.uid, record.uname = {"alice": 2, "bob": 3, "oneadmin": 0}[uname], uname
    record.gid, record.gname = 100, "nobodies"
    record.permissions = Permissions(*bits)


@pytest.fixture
def divided(cloud):
    """A cloud in which alice and bob share one image, and each has some of his own."""
    for name, number in (("alice", 2), ("bob", 3)):
        cloud.users[name] = UserRecord(
            *(number, name, f"{name}pass"), uses_all_apps=False, uses_all_datastores=True
        )
    for record in (*cloud.images.values(), *cloud.apps.values()):
        belongs(record, "oneadmin", (6, 0, 0))
    for record in cloud.marketplaces.values():
        record.permissions = Permissions(7, 0, 0)
    belongs(cloud.images[0], "alice", (6, 0, 0))  # tiny raw
    belongs(cloud.images[1], "bob", (6, 0, 0))  # ttylinux
    belongs(cloud.images[3], "oneadmin", (6, 0, 4))  # boot.iso
    belongs(cloud.apps[20], "alice", (6, 0, 0))  # tiny raw app
    belongs(cloud.apps[21], "bob", (6, 0, 0))  # tiny qcow2 app
    belongs(cloud.apps[6], "bob", (6, 0, 0))  # Alpine with Data, in the public marketplace
    cloud.marketplaces[100].permissions = Permissions(7, 0, 4)
    return cloud


@pytest.fixture
def sessions(home):
    """Session files as an administrator makes them."""
    made = home / "sessions"
    made.mkdir(mode=0o700)
    for name in ("alice", "bob"):
        (made / name).write_text(f"{name}:{name}pass\n")
        (made / name).chmod(0o600)
    (made / "liar").write_text("bob:guessed\n")
    (made / "liar").chmod(0o600)
    return made


@pytest.fixture
def mount(make_mount, servers, home, divided, sessions):
    home.chmod(0o755)
    (home / "settings.toml").write_text(
        'allow_other = true\nothers = "sessions"\nlisting_deadline = "5s"\n'
        f'[users.sessions]\n{ALICE} = "{sessions}/alice"\n{BOB} = "{sessions}/bob"\n'
        f'{LIAR} = "{sessions}/liar"\n'
    )
    made = make_mount(servers.frontend_url, "--config", home / "settings.toml")
    made.path.parent.chmod(0o755)
    made.start()
    return made


HANDED = """
import errno, os, sys
fd, directory = int(sys.argv[1]), sys.argv[2] == "directory"
path = f"/proc/self/fd/{fd}"
def refused(what, *words, **named):
    try:
        print("GOT", what.__name__, what(*words, **named))
    except OSError as exc:
        assert exc.errno == errno.ENOENT, (what, exc)
refused(os.getxattr, path, "user.one.NAME")
refused(os.listxattr, path)
refused(os.statvfs, path)
if directory:
    refused(os.listdir, path)
    refused(os.stat, ".", dir_fd=fd)
    refused(os.stat, sys.argv[3], dir_fd=fd)
    refused(os.open, sys.argv[3], os.O_RDONLY, dir_fd=fd)
    refused(os.chdir, path)
else:
    refused(os.open, path, os.O_RDONLY)
print("done")
"""


READER = """
import os, sys
file = open(sys.argv[1], "rb")
print("open", flush=True)
input()
os.fstat(file.fileno())
print(len(file.read()))
"""


def handed(uid, path, *inside):
    """What somebody gets out of an inode that another process has looked up, and handed to him."""
    fd = os.open(path, os.O_PATH)
    try:
        kind = ("directory", *inside) if inside else ("file",)
        done = as_user(uid, "/usr/bin/python3", "-c", HANDED, fd, *kind, pass_fds=(fd,))
    finally:
        os.close(fd)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


def test_each_user_sees_what_his_own_session_may_use(mount, divided, tools):
    store, market = mount.path / "datastores/default", mount.path / "marketplaces/Private HTTP"
    raw, own = mount.path / "raw", mount.path / ".nebfs"
    # All is in the kernel's caches: names, attributes, pages.
    tools.run("ls", "-laR", mount.path)
    for file in (store / "tiny raw.raw", store / "ttylinux.qcow2", raw / "datastores/default"):
        tools.run("tar", "--create", "--file", "/dev/null", file)
    assert len(os.listdir(store)) > 5, "root sees what the mount's own session may use"

    places = {"alice": {"Private HTTP"}, "bob": {"OpenNebula Public", "Private HTTP"}}
    for _ in range(2):
        assert names(ALICE, store) == {"tiny raw.raw", "boot.iso"}
        assert names(BOB, store) == {"ttylinux.qcow2", "boot.iso"}
        assert names(ALICE, raw / "datastores/default") == {"tiny raw.raw", "boot.iso"}
        assert names(BOB, raw / "datastores/default") == {"ttylinux.raw", "boot.iso"}
        assert names(ALICE, market) == {"tiny raw app"}
        assert names(BOB, market) == {"tiny qcow2 app"}
        assert names(ALICE, mount.path / "marketplaces") == places["alice"]
        assert names(BOB, mount.path / "marketplaces") == places["bob"]
        assert names(ALICE, own / "by-id/images") == {"0", "3"}
        assert names(BOB, own / "by-id/images") == {"1", "3"}
        assert names(BOB, own / "by-id/apps") == {"6", "21"}
        assert names(BOB, own) == {"by-id"}

        # One after the other, each with the other's names and numbers fresh in the kernel.
        for uid, mine, others in (
            (ALICE, "tiny raw.raw", "ttylinux.qcow2"),
            (BOB, "ttylinux.qcow2", "tiny raw.raw"),
        ):
            assert as_user(uid, "cmp", store / mine, store / mine).returncode == 0
            assert as_user(uid, "getfattr", "-d", store / mine).stdout.count("user.one.") > 5
            for words in (
                ("cat", store / others),
                ("stat", store / others),
                ("getfattr", "-d", store / others),
                ("stat", "--file-system", store / others),
                ("cat", own / "status.json"),
                ("stat", own / "status.json"),
            ):
                done = as_user(uid, *words)
                assert done.returncode != 0, words
                assert "No such file or directory" in done.stderr, words
        done = as_user(ALICE, "ls", "-l", market / "tiny qcow2 app", own / "by-id/images/1")
        assert done.stderr.count("No such file or directory") == 2
        done = as_user(BOB, "readlink", own / "by-id/images/0")
        assert (done.returncode, done.stdout) == (1, "")
        assert as_user(BOB, "readlink", own / "by-id/images/1").stdout

    # A number that another's walk found is of no use.
    assert handed(BOB, store / "tiny raw.raw") == ["done"]
    assert handed(BOB, raw / "datastores/default/tiny raw.raw") == ["done"]
    assert handed(BOB, market / "tiny raw app", "app.json") == ["done"]
    assert handed(BOB, own / "status.json") == ["done"]
    assert len(handed(ALICE, market / "tiny raw app", "app.json")) > 5
    # What is handed over open can be read: who had the right gave it away.
    with open(store / "tiny raw.raw", "rb") as file:
        done = as_user(BOB, "md5sum", stdin=file)
    assert done.stdout.split()[0] == tools.run("md5sum", store / "tiny raw.raw").stdout.split()[0]

    # Bob uses an app in a marketplace that he may not use: he knows its name, and no more. The apps
    # that it names are not his.
    public = mount.path / "marketplaces/OpenNebula Public"
    assert names(BOB, public) == {"Alpine with Data"}
    assert as_user(BOB, "getfattr", "-d", public).stdout == ""
    assert tools.xattr(public, "user.one.NAME") == "OpenNebula Public"
    links = as_user(BOB, "find", public, "-type", "l", "-printf", "%l\\n").stdout.splitlines()
    assert links == ["../Alpine Linux 3.20", "../Data Disk"]
    assert not (as_user(BOB, "stat", "--dereference", public / "Alpine with Data/Data Disk")).stdout
    # Nor does the time of a place tell that something came that is not his.
    seen = [int(as_user(uid, "stat", "-c", "%Y", store).stdout) for uid in (ALICE, 0)]
    assert seen[0] < seen[1]

    divided.datastores[1].permissions = Permissions(6, 0, 0)
    divided.users["bob"].uses_all_datastores = False
    mount.refresh()
    sizes = [int(as_user(uid, "stat", "-fc%b", mount.path).stdout) for uid in (ALICE, BOB)]
    assert 0 == sizes[1] < sizes[0], "df is of what one may use"

    facts = mount.status()["callers"]
    assert [(one["uid"], one["user"], one["trouble"]) for one in facts] == [
        (ALICE, "alice", ""),
        (BOB, "bob", ""),
    ]
    shown = tools.run(*tools.nebfs, "status", "-l", "--run-dir", mount.run_dir).stdout
    assert "2 known by their own sessions" in shown


def test_who_has_no_session_sees_no_places(mount):
    top = as_user(STRANGER, "ls", mount.path)
    assert (top.returncode, top.stdout.split()) == (0, ["datastores", "marketplaces", "raw"])
    for _ in range(3):
        for words in (
            ("ls", mount.path / "datastores"),
            ("ls", mount.path / "raw/marketplaces"),
            ("cat", mount.path / "datastores/default/boot.iso"),
            ("ls", mount.path / ".nebfs/by-id"),
            ("df", mount.path),
        ):
            for uid in (STRANGER, LIAR):
                done = as_user(uid, *words)
                assert done.returncode != 0, words
                assert "Permission denied" in done.stderr, words
    lines = [line for line in mount.log.splitlines() if "callers.refused" in line]
    assert len(lines) == 2, lines
    assert f"user {STRANGER} is not in the table [users.sessions]" in lines[0]
    assert "guessed" not in mount.log
    assert names(ALICE, mount.path / "datastores/default") == {"tiny raw.raw", "boot.iso"}


def test_a_right_that_is_lost_and_a_front_end_that_is_away(mount, servers, divided, sessions):
    store = mount.path / "datastores/default"
    mine = store / "tiny raw.raw"
    listed = {"tiny raw.raw", "boot.iso"}
    assert names(ALICE, store) == listed

    # He who reads goes on reading.
    reader = subprocess.Popen(
        [*become(ALICE), "/usr/bin/python3", "-c", READER, mine],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert reader.stdout.readline() == "open\n"
        belongs(divided.images[0], "bob", (6, 0, 0))
        mount.refresh()
        assert names(ALICE, store) == {"boot.iso"}
        assert "No such file" in as_user(ALICE, "cat", mine).stderr
        assert names(BOB, store) == {"tiny raw.raw", "ttylinux.qcow2", "boot.iso"}
        said, _ = reader.communicate("\n", timeout=30)
        assert int(said) == mine.stat().st_size
    finally:
        reader.kill()
        reader.wait()

    # While the front-end is away everybody keeps what is known of him, and nobody else's.
    (sessions / "liar").write_text("alice:alicepass\n")
    servers.front_end.fail_next = 1 << 30
    with pytest.raises(AssertionError):
        mount.refresh()
    assert names(ALICE, store) == {"boot.iso"}
    assert as_user(BOB, "cmp", mine, mine).returncode == 0
    done = as_user(LIAR, "ls", store)
    assert "Input/output error" in done.stderr
    troubles = {one["uid"]: one["trouble"] for one in mount.status()["callers"]}
    assert set(troubles) == {ALICE, BOB}
    assert all("503" in trouble for trouble in troubles.values())

    # It is back; a session that is not accepted any more, or whose file is, shows nothing.
    servers.front_end.fail_next = 0
    divided.set_password("alice", "another")
    (sessions / "bob").chmod(0o644)
    mount.refresh()
    for uid in (ALICE, BOB):
        assert "Permission denied" in as_user(uid, "ls", store).stderr
    assert f"{sessions}/bob is open to others (mode 0644)" in mount.log
    (sessions / "alice").write_text("alice:another\n")
    mount.refresh()
    assert names(ALICE, store) == {"boot.iso"}
    assert mount.status()["callers"][0]["trouble"] == ""
