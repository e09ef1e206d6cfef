"""Images that are units of iSCSI targets, which nobody asks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nebfs.model import Image, Template

TARGET = "iqn.2003-01.org.example:store"


@pytest.fixture
def stored_on_iscsi(image) -> Callable[..., Image]:
    """An image with a unit behind it, for what OpenNebula knows."""

    def make(number: int = 1, data: bytes = b"bytes", **changes: object) -> Image:
        facts = {
            "source": f"{TARGET}/{number}",
            "size_mb": 0,
            "template": Template((("ISCSI_HOST", "10.0.0.9"),)),
        }
        return image(number, **{**facts, **changes})

    return make
