"""Images on a FlashArray that answers as a test says, without a network or a login between."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nebfs.model import Image
from tests.datastores.far import Far
from tests.fetcher.purity_fake import PurityFake
from tests.fetcher.service import Asked, Told, as_call

INITIATOR = "iqn.2026-01.x:me"
SETTINGS = {"initiator": INITIATOR, "directories": ("/nonexistent",)}
TEMPLATE = (("PUREFA_HOST", "10.1.234.57"), ("PUREFA_API_TOKEN", "canary-0f2e2884-9486"))

FAR = Far("purefa_array", TEMPLATE, SETTINGS)


@pytest.fixture
def purity() -> PurityFake:
    return PurityFake()


@pytest.fixture
def purefa_array(purity):
    purity.sessions.add("session")

    def respond(asked: Asked) -> Told:
        # The fetcher shows the token once, and then a session.
        assert asked.headers["api-token"] == purity.token
        headers = {**asked.headers, "x-auth-token": "session"}
        return purity.respond(Asked(asked.method, asked.path, asked.query, headers))

    return as_call(respond, transport="purity")


@pytest.fixture
def stored_in_purefa(purity, image) -> Callable[..., Image]:
    """An image with a volume behind it that nebfs may read by iSCSI."""

    def make(number: int = 1, data: bytes = b"bytes", **changes: object) -> Image:
        purity.put(f"one_1_{number}", number, len(data), mapped=number)
        return image(number, **{"source": f"one_1_{number}", **changes})

    return make
