"""A snapshot as bytes, for the next start. A file of another version, or damaged, is no snapshot.

The first line names the layout and the digest of the rest; the rest is JSON. It may hold what
marketplace templates hold, secret keys among them: its place is the cache directory (mode 0700).
"""

from __future__ import annotations

import hashlib

import structlog
from pydantic import TypeAdapter, ValidationError

from nebfs.catalog.snapshot import CloudSnapshot

log = structlog.get_logger()

# Raise it when a stored field changes its meaning. A field that is only new needs no new layout:
# what is missing takes its default.
LAYOUT = 1

_MAGIC = b"nebfs-catalogue"
_adapter = TypeAdapter(CloudSnapshot)


def pack(snapshot: CloudSnapshot) -> bytes:
    """Return `snapshot` as bytes. Raises ValueError when something in it cannot be written."""
    body = _adapter.dump_json(snapshot)
    return b"%s %d %s\n%s" % (_MAGIC, LAYOUT, hashlib.sha256(body).hexdigest().encode(), body)


def unpack(data: bytes) -> CloudSnapshot | None:
    """Return the snapshot in `data`; None, and a line in the log, when there is none to use."""
    head, _, body = data.partition(b"\n")
    words = head.split(b" ")
    if len(words) != 3 or words[0] != _MAGIC:
        log.warning("catalog.saved_ignored", reason="it is not a saved catalogue")
    elif words[1] != b"%d" % LAYOUT:
        layout = words[1][:10].decode("ascii", "replace")
        log.warning("catalog.saved_ignored", reason="another version's layout", layout=layout)
    elif words[2] != hashlib.sha256(body).hexdigest().encode():
        log.warning("catalog.saved_ignored", reason="it is damaged")
    else:
        try:
            return _adapter.validate_json(body)
        except ValidationError as exc:
            # Never its text: that repeats values, and a template's values may be secrets.
            log.warning("catalog.saved_ignored", reason="unexpected fields", n=exc.error_count())
    return None
