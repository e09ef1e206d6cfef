"""Images on a NetApp array that answers as a test says, without a network between."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nebfs.model import Image
from tests.datastores.far import Far
from tests.fetcher.ontap_fake import SVM, OntapFake
from tests.fetcher.service import as_call

INITIATOR = "iqn.2026-01.x:me"
SETTINGS = {"initiator": INITIATOR, "directories": ("/nonexistent",)}
TEMPLATE = (
    ("NETAPP_HOST", "10.1.234.56"),
    ("NETAPP_USER", "admin"),
    ("NETAPP_PASS", "canary-password"),
    ("NETAPP_SVM", SVM),
)

FAR = Far("netapp_array", TEMPLATE, SETTINGS)


@pytest.fixture
def ontap() -> OntapFake:
    return OntapFake()


@pytest.fixture
def netapp_array(ontap):
    return as_call(ontap.respond, transport="ontap")


@pytest.fixture
def stored_in_netapp(ontap, image) -> Callable[..., Image]:
    """An image with a LUN behind it that nebfs may read by iSCSI."""

    def make(number: int = 1, data: bytes = b"bytes", **changes: object) -> Image:
        ontap.put(f"one_1_{number}", number, len(data), mapped=number)
        return image(number, **{"source": f"one_1_{number}", **changes})

    return make
