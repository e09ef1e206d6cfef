"""Promise 2: one version per open file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.mark.mounted
def test_an_app_that_changes_in_place_is_stale_for_who_has_it_open(mount, servers, cloud, tmp_path):
    fresh = tmp_path / "fresh.raw"
    fresh.write_bytes(os.urandom(3 << 20))
    app = mount.app("Debian 12")
    with open(app / "Debian 12.raw", "rb", buffering=0) as file:
        first = file.read(4096)
        number = next(a.id for a in cloud.apps.values() if a.name == "Debian 12")
        cloud.replace_app_content(number, fresh, "2.0")
        assert os.pread(file.fileno(), 4096, 0) == first
        with pytest.raises(OSError, match="Stale file handle"):
            os.pread(file.fileno(), 4096, 40 << 20)
    mount.refresh()
    assert (app / "Debian 12.raw").read_bytes() == fresh.read_bytes()


@pytest.mark.mounted
def test_a_local_image_that_changes_is_stale_then_new(mount, cloud, tmp_path):
    record = cloud.images[8]
    fresh = tmp_path / "image"
    fresh.write_bytes(b"old" * 5000)
    os.rename(fresh, record.source)
    mount.refresh()
    path = mount.image("twin.raw")
    assert path.read_bytes() == b"old" * 5000
    with open(path, "rb", buffering=0) as file:
        with open(record.source, "r+b") as inside:
            inside.write(b"new")
            inside.truncate(20000)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with pytest.raises(OSError, match="Stale file handle"):
            os.pread(file.fileno(), 10, 0)
    mount.refresh()
    assert path.read_bytes() == Path(record.source).read_bytes()
