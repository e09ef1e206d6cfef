"""Names: what the mount looks like.

What lives here: turning the current snapshot of the catalogue into directories, files and links
with safe, stable, unique names and inode numbers; the small documents beside an image; the extended
attributes; and, on a new snapshot, saying which names and inodes the kernel must forget.

What does not: the kernel's words for all that (``fuse``), lists (``catalog``), bytes (``content``).

Who may import it: ``fuse`` and ``daemon``. It is used without a mount in its own tests.

Start reading in nodes.py (what there is), then tree.py (where it comes from), insides.py (what may
ask the network: appdir.py for apps, images.py for datastores), rawface.py (the same again as raw
disks), names.py (the only place where names are made).

Concurrency: everything runs on the trio thread. ``lookup`` and ``children`` answer from memory,
except for a directory that is opened for the first time and has files of unknown length: it asks
the places where the bytes are, in parallel, within a deadline. What is inside an image that is a
directory (hostdir.py) is never in memory: each time the disk is asked, in threads. A new snapshot
replaces nodes between two awaits, never during one: whoever awaits looks its node up again
afterwards.
"""

from nebfs.tree.insides import TreeSettings
from nebfs.tree.nodes import ContentFile, Directory, Document, Link, Node
from nebfs.tree.tree import Invalid, Tree

__all__ = [
    "ContentFile",
    "Directory",
    "Document",
    "Invalid",
    "Link",
    "Node",
    "Tree",
    "TreeSettings",
]
