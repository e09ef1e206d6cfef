"""Images and datastores on a real directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nebfs.model import Datastore, DatastoreType, Image, ImageState, Template


@pytest.fixture
def base(tmp_path) -> Path:
    """A datastore's directory on this machine."""
    directory = tmp_path / "datastores" / "1"
    directory.mkdir(parents=True)
    return directory


@pytest.fixture
def datastore(base) -> Callable[..., Datastore]:
    def make(**changes: object) -> Datastore:
        facts: dict[str, object] = {
            "driver": "fs",
            "transfer": "local",
            "base_path": str(base),
            "type": DatastoreType.IMAGE,
            "template": Template((("LN_TARGET", "SYSTEM"),)),
        }
        return Datastore(1, "default", **{**facts, **changes})

    return make


@pytest.fixture
def image(base) -> Callable[..., Image]:
    def make(number: int = 1, **changes: object) -> Image:
        facts: dict[str, object] = {
            "datastore_id": 1,
            "datastore": "default",
            "state": ImageState.READY,
            "source": f"{base}/{number:032x}",
            "format": "raw",
            "size_mb": 1,
        }
        return Image(number, f"image {number}", **{**facts, **changes})

    return make


@pytest.fixture
def stored(base, image) -> Callable[..., Image]:
    """An image with a file behind it."""

    def make(number: int = 1, data: bytes = b"bytes", **changes: object) -> Image:
        (base / f"{number:032x}").write_bytes(data)
        return image(number, **changes)

    return make
