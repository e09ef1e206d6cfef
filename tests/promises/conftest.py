"""Promises are kept by real mounts, too: they are made as those of tests/mounted."""

from tests.mounted.conftest import (
    cloud,
    cloud_root,
    home,
    make_mount,
    mount,
    servers,
    shared,
    tools,
)

__all__ = ["cloud", "cloud_root", "home", "make_mount", "mount", "servers", "shared", "tools"]
