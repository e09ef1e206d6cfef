"""Answers of a front-end: XML-RPC, and the documents in them. The first byte says which."""

from __future__ import annotations

from nebfs.opennebula import (
    decode,
    decode_apps,
    decode_datastores,
    decode_images,
    decode_machines,
    decode_marketplaces,
    decode_user,
    decode_zones,
)
from nebfs.opennebula.decode_apps import decode_template64

READERS = (
    decode_apps,
    decode_datastores,
    decode_images,
    decode_machines,
    decode_marketplaces,
    decode_user,
    decode_zones,
    decode_template64,
)
SECRET = "oneadmin:a secret"


def one(data: bytes) -> None:
    """What is read must be text that can be saved, which half of a surrogate pair cannot."""
    if not data:
        return
    which, body = data[0] % (len(READERS) + 1), data[1:]
    if which == len(READERS):
        decode(body, method="one.test", secret=SECRET)
        return
    # As text comes out of the XML-RPC codec: unpaired surrogates cannot be in it.
    found = READERS[which](body.decode("utf-8", "replace"))
    repr(found).encode()
