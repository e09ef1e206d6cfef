"""What is found in the cache directory: an object's index, and boot profiles.

The first byte says which. Checksums are put right: no disk does that, but another program may.
"""

from __future__ import annotations

import os
import struct
import tempfile
from pathlib import Path

from xxhash import xxh3_64_intdigest

from nebfs.blocks import documents, resting
from nebfs.blocks.blockfile import SLOT_SIZE
from nebfs.blocks.index import HEADER_SIZE, SLOT_RECORD, Header, Index
from nebfs.content.profiling.profile import Profile

SIZE = 5 * SLOT_SIZE + 17
KEY = "ab" + "0" * 30


def one(data: bytes) -> None:
    """A profile is the same after it was saved; an index says nothing of slots that it has not."""
    if not data:
        return
    if data[0] & 1:
        documents.decode(data[1:])
        profile = Profile.decode(data[1:])
        assert Profile.decode(profile.encode()) == profile
        for count, _ in enumerate(profile.slots()):
            assert count <= 512 << 20 // SLOT_SIZE + len(profile.parts) * 2
        return
    _index(_summed(data[1:]))


def _summed(raw: bytes) -> bytes:
    body = raw[: HEADER_SIZE - 8].ljust(HEADER_SIZE - 8, b"\0")
    return body + struct.pack("<Q", xxh3_64_intdigest(body)) + raw[HEADER_SIZE:]


def _index(raw: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="nebfs-", dir="/dev/shm") as home:
        data, index = resting.paths(Path(home), KEY)
        data.parent.mkdir(parents=True)
        index.write_bytes(raw)
        header = Header.decode(raw[:HEADER_SIZE])
        with data.open("wb") as file:
            size = 0 if header is None else header.size
            file.truncate(size if size < 1 << 40 else 0)
        found = resting.look(Path(home), KEY)
        if found is not None:
            repr(found).encode()
            assert len(found.states) * SLOT_SIZE >= found.size
        wanted = Header(SIZE, SLOT_SIZE, 7)
        opened, present, sums = Index.open(str(index), wanted)
        try:
            assert len(present) == len(sums) == wanted.slots
            assert set(present) <= {0, 1}
            assert os.fstat(opened.fd).st_size == HEADER_SIZE + wanted.slots * SLOT_RECORD
        finally:
            opened.close()
