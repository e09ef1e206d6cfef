"""Images that are directories."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nebfs.model import DiskType, Image, ImageType


@pytest.fixture
def shared_directory(base, image) -> Callable[..., Image]:
    """An image with a directory behind it, in which is one file."""

    def make(number: int = 1, data: bytes = b"bytes", **changes: object) -> Image:
        directory = base / f"share-{number}"
        directory.mkdir(exist_ok=True)
        (directory / "file").write_bytes(data)
        facts: dict[str, object] = {
            "source": str(directory),
            "path": str(directory),
            "format": "dir",
            "type": ImageType.FILESYSTEM,
            "disk_type": DiskType.FILESYSTEM,
            "persistent": True,
            "size_mb": 0,
        }
        return image(number, **{**facts, **changes})

    return make
