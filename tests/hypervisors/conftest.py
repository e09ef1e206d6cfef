"""One mount for all hypervisors: the guest's disk in every place, readable by every user."""

from __future__ import annotations

import functools
import json
import os
import tempfile
import types
from pathlib import Path

import pytest

from nebfs.demo.demonstration import demonstration_cloud
from nebfs.demo.server import serve
from tests.hypervisors.guest import Guest, make_guest
from tests.hypervisors.machine import boot, find_accelerator
from tests.hypervisors.world import add_disks, disk_of, make_forms
from tests.mounted.conftest import Mounts, run

FULL = os.environ.get("NEBFS_HYPERVISORS") == "full"
"""Whether all that docs/hypervisors.md tells of is tried (scripts/hypervisors)."""

collect_ignore = [] if FULL else ["test_places.py"]


@pytest.fixture(scope="session")
def guest(tmp_path_factory) -> Guest:
    return make_guest(tmp_path_factory.mktemp("guest"))


@pytest.fixture(scope="session")
def accelerator(guest):
    return find_accelerator(guest)


@pytest.fixture(scope="session")
def world(guest, tmp_path_factory):
    """The mount, and `disk(place, kind, face)`: where the guest's disk is in it."""
    root = tmp_path_factory.mktemp("cloud")
    cloud = demonstration_cloud(root)
    add_disks(cloud, make_forms(root, guest))
    # A directory with a short name: a control socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="nebfs-") as name, serve(cloud) as servers:
        mounts = Mounts(Path(name))
        mount = mounts(servers.frontend_url, "-o", "allow_other")
        # QEMU as another user comes through here; what is private is so by itself.
        for directory in (Path(name), mount.path.parent):
            directory.chmod(0o755)
        mount.start()
        try:
            yield types.SimpleNamespace(
                mount=mount,
                disk=functools.partial(disk_of, mount.path),
            )
        finally:
            mounts.stop()
    assert servers.failures() == []


@pytest.fixture
def boots(guest, accelerator):
    """Boots the guest on drives; returns what it said."""

    def boots(*drives, append="", more=()):
        return boot(guest, drives, accelerator, *more, append=append)

    return boots


@pytest.fixture
def tool():
    """Runs a tool, and returns what it printed."""
    return lambda *argv, **options: run(*argv, **options).stdout


@pytest.fixture
def seen(record_property):
    """Says what a test has seen, for docs/hypervisors.md: the table, its row, what it was seen
    with, and the version of what did it. Last of all in a test: what fails says nothing.
    """

    def seen(table, row, what, program=""):
        record_property("seen", json.dumps([table, row, what, program]))

    return seen
