"""Raw views: the disk inside a file, alone or (qcow2) over the files beneath it.

Which file is beneath which is said by whoever made the Content (a driver, out of the datastore's
own records); a name inside the image is never followed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from nebfs.content.disks import DISKS
from nebfs.errors import BadAnswer
from nebfs.model import Content, Revision

DEEPEST = 256
"""Files of one chain. OpenNebula flattens chains at a length that its users choose, 10 to 30; each
one costs every read of a hole a look into its tables."""


def files(content: Content) -> tuple[Content, ...]:
    """Return the files that `content` is made of, as they are, the topmost first."""
    found: list[Content] = []
    layer: Content | None = content
    while layer is not None:
        if len(found) == DEEPEST:
            raise BadAnswer("its chain of backing files is too long", limit=DEEPEST)
        found.append(replace(layer, view="", backing=None))
        layer = layer.backing
    return tuple(found)


def revision(layers: Sequence[tuple[Revision, int | None, str]]) -> Revision:
    """Return the version of a view over `layers`, the topmost first: of each its file's version,
    the length of the disk in it (None: it is a raw disk itself), and the name of its format.

    Raises BadAnswer when something lies beneath a file that has no disk in it, or one whose format
    knows of nothing beneath.
    """
    for number, (_, disk, kind) in enumerate(layers):
        beneath = number < len(layers) - 1
        if (beneath and (disk is None or not _is_over(kind))) or (number == 0 and disk is None):
            raise BadAnswer(f"a {kind} file is where a qcow2 image was expected", layer=number)
    digest = hashlib.sha256()
    for version, disk, kind in layers:
        facts = (version.size, version.etag, version.modified, disk, kind)
        digest.update(repr(facts).encode("utf-8", "surrogatepass"))
    top, size, _ = layers[0]
    assert size is not None  # noqa: S101 - the first one was looked at above
    ranges = all(version.ranges for version, _, _ in layers)
    return Revision(size, digest.hexdigest()[:32], top.modified, ranges)


def _is_over(kind: str) -> bool:
    return kind in DISKS and DISKS[kind].over
