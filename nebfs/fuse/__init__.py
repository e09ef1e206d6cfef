"""The window to the kernel: translation only, and one guard around every call.

What lives here: pyfuse3's handlers, errors to errno, nodes to stat, mounting and its tuning,
telling the kernel what to forget. What does not: any decision about names (``tree``) or bytes
(``content``). No other room imports pyfuse3.

Who may import it: ``daemon``.

Start reading in operations.py, then guard.py, which is why no bug can take the mount down, then
direct.py, through which every request passes.

Concurrency: all on the trio thread. Reads are taken by direct.py, the warm ones answered in its own
task; pyfuse3 runs each other request in a task. A handler never
waits for the network but in three places, each bounded by a deadline: ``read`` of blocks that are
not here, ``open`` of an image whose place is to be asked again, and looking into an app's directory
for the first time. The buffer that a warm read answers from is shared: nothing may be awaited
between filling it and returning it.
"""

from nebfs.fuse.mount import Mounted, MountOptions, detach, serve
from nebfs.fuse.operations import Operations
from nebfs.fuse.settings import OperationsSettings

__all__ = ["MountOptions", "Mounted", "Operations", "OperationsSettings", "detach", "serve"]
