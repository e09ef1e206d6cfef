"""Bytes: an image is a stack of readers over a source.

What lives here: turning a ``Content`` (where bytes are, what was published about them) into
something that can be read at any offset. What does not: names, lists and rights (above), disk and
network (below; this room orders, ``blocks`` keeps and ``fetcher`` brings).

Who may import it: everything above it; in fact ``tree``, ``fuse`` and ``daemon`` do.

Start reading in stack.py: two small Protocols, one on each side of the cache, and the Order that
goes between them. Then layers/cached.py, where the two sides meet, and library.py, which builds
the stacks and shares them between open files.

::

    Reader:  readahead -> verified -> cached          (answers with bytes)
    Source:                           cached -> retried -> limited -> pinned -> fetched
                                                      (bring bytes to the cache file)

What the layers have counted is told by explaining.py. warming.py brings all of an object for
somebody who asked. With the setting ``fill``, filling.py orders what nobody has asked for, when
nobody is in the way.

What disk is in a file, decodings.py (compressions, over ``decoders``) and disks.py (formats) know:
a raw view is a reader over other readers. A decompressed file is an object of its own in the cache.

Bytes on this machine have a one-layer stack, with neither fetcher nor cache: layers/here.py.
A directory that is shared with others is no image at all: beneath.py reads it as it is.

Concurrency: readers run in the task of whoever reads. Orders run in a nursery of their object, so
that a reader who goes away does not take away what others wait for. No lock is held while bytes
are brought; the claims in a BlockFile decide who brings which slot.
"""

from nebfs.content.formats import Format, claimed, sniff
from nebfs.content.library import Library, LibrarySettings
from nebfs.content.prober import Probed, Prober
from nebfs.content.stack import Order, Reader, ReaderFacts, Source

__all__ = [
    "Format",
    "Library",
    "LibrarySettings",
    "Order",
    "Probed",
    "Prober",
    "Reader",
    "ReaderFacts",
    "Source",
    "claimed",
    "sniff",
]
