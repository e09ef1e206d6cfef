"""Images on devices: nodes without anything behind them, which is all that a listing looks at."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from nebfs.model import Image
from tests.disks import FakeLvm

NODE = 0o60600  # S_IFBLK
EXPERIMENTAL = os.makedev(240, 0)  # a number that is nobody's


@pytest.fixture
def stored_on_device(base, image) -> Callable[..., Image]:
    """An image with a block device behind it; its length is asked of that when it is opened."""

    def make(number: int = 1, data: bytes = b"bytes", **changes: object) -> Image:
        path = base / f"lun{number}"
        if not path.exists():
            os.mknod(path, NODE, EXPERIMENTAL)
        return image(number, **{"source": str(path), "persistent": True, **changes})

    return make


@pytest.fixture
def fake_lvm(tmp_path, monkeypatch) -> FakeLvm:
    """LVM's commands, with the groups' volumes as tests add them; see tests/disks.py."""
    lvm = FakeLvm(tmp_path, tmp_path / "dev")
    lvm.add("img-one-0", 0)
    monkeypatch.setenv("PATH", f"{lvm.bin}:/usr/bin:/bin")
    return lvm


@pytest.fixture
def stored_in_lvm(fake_lvm, image) -> Callable[..., Image]:
    """An image with a volume behind it that nebfs may activate."""

    def make(number: int = 1, data: bytes = b"bytes", **changes: object) -> Image:
        fake_lvm.add(f"img-one-{number}", len(data))
        return image(number, **{"source": f"vg-one-1/img-one-{number}", **changes})

    return make
