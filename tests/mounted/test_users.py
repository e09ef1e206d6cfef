"""Other users of the machine: what they see and open, with each choice; processes of real uids."""

from __future__ import annotations

import os
import subprocess

import pytest

from nebfs.model import Permissions

pytestmark = pytest.mark.mounted

ALICE, BOB, STRANGER = 60001, 60002, 60003
RESEARCH = 60101


@pytest.fixture
def mount_for_others(make_mount, servers, home):
    """Mount with settings, at a place that everybody may walk to."""
    home.chmod(0o755)

    def mount(text, *options):
        (home / "settings.toml").write_text(text)
        made = make_mount(servers.frontend_url, "--config", home / "settings.toml", *options)
        made.path.parent.chmod(0o755)
        made.start()
        return made

    return mount


MODES = f"""\
allow_other = true
others = "modes"
users.uids.alice = {ALICE}
users.gids.research = {RESEARCH}
"""


def as_user(uid, *words, gid=None):
    """Run a tool as somebody else; return its exit code and stderr."""
    group = gid or uid
    return subprocess.run(
        ["setpriv", f"--reuid={uid}", f"--regid={group}", "--clear-groups", *map(str, words)],
        capture_output=True,
        text=True,
        errors="replace",
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
    )


def may(uid, path, gid=None):
    """Whether the file may be read; only a refusal of the rights is a no."""
    done = as_user(uid, "tail", "--bytes=1", path, gid=gid)
    assert done.returncode == 0 or "Permission denied" in done.stderr, done.stderr
    return done.returncode == 0


def belongs(record, uname, gname, bits):
    record.uname, record.gname = uname, gname
    record.permissions = Permissions(*bits)


def test_modes_let_everybody_open_what_opennebula_lets_him_use(mount_for_others, cloud, tools):
    belongs(cloud.images[0], "alice", "research", (6, 4, 0))
    belongs(cloud.images[1], "oneadmin", "oneadmin", (6, 4, 0))
    belongs(cloud.apps[20], "alice", "research", (6, 0, 0))
    mount = mount_for_others(MODES)
    store, market = mount.path / "datastores/default", mount.path / "marketplaces/Private HTTP"
    hers, mine, iso = store / "tiny raw.raw", store / "ttylinux.qcow2", store / "boot.iso"
    raw = mount.path / "raw/datastores/default/tiny raw.raw"
    seen = hers.stat()
    assert (seen.st_uid, seen.st_gid, seen.st_mode & 0o777) == (ALICE, RESEARCH, 0o440)
    assert (mine.stat().st_uid, mine.stat().st_mode & 0o777) == (0, 0o400)
    for path in (hers, raw):
        assert may(ALICE, path)
        assert may(BOB, path, gid=RESEARCH)
        assert not may(STRANGER, path)
        assert may(0, path)
    assert not may(ALICE, mine), "oneadmin's group is nobody here"
    assert may(STRANGER, iso), "others may use it in OpenNebula"

    # What is inside an app, and what is known about an image, is closed as well.
    app = market / "tiny raw app"
    assert may(ALICE, app / "app.json")
    assert as_user(ALICE, "ls", app).returncode == 0
    for words in (
        ("ls", app),
        ("cat", app / "app.json"),
        ("ls", mount.path / "raw/marketplaces/Private HTTP/tiny raw app"),
        ("cat", mount.path / ".nebfs/status.json"),
    ):
        done = as_user(STRANGER, *words)
        assert done.returncode != 0
        assert "Permission denied" in done.stderr
    code = f"import os; os.getxattr({str(hers)!r}, 'user.one.NAME')"
    assert as_user(ALICE, "/usr/bin/python3", "-c", code).returncode == 0
    assert "PermissionError" in as_user(STRANGER, "/usr/bin/python3", "-c", code).stderr
    # Names are one listing for everybody: docs/users.md says so.
    assert "tiny raw.raw" in as_user(STRANGER, "ls", store).stdout

    # A right that is lost or won counts from the next refresh on.
    belongs(cloud.images[0], "oneadmin", "oneadmin", (6, 0, 0))
    belongs(cloud.images[1], "oneadmin", "research", (6, 4, 0))
    belongs(cloud.apps[20], "oneadmin", "oneadmin", (6, 0, 0))
    mount.refresh()
    tools.wait_until(lambda: not may(ALICE, hers))
    tools.wait_until(lambda: not may(BOB, raw, gid=RESEARCH))
    tools.wait_until(lambda: as_user(ALICE, "ls", app).returncode != 0)
    assert not may(ALICE, app / "app.json")
    tools.wait_until(lambda: may(BOB, mine, gid=RESEARCH))


def test_all_lets_everybody_open_what_the_session_may(mount_for_others):
    mount = mount_for_others("allow_other = true\n")
    assert may(STRANGER, mount.path / "datastores/default/ttylinux.qcow2")
    assert may(STRANGER, mount.path / ".nebfs/status.json")


def test_without_allow_other_nobody_else_enters(mount_for_others):
    mount = mount_for_others("")
    done = as_user(STRANGER, "ls", mount.path)
    assert done.returncode != 0
    assert "Permission denied" in done.stderr
