"""One file per storage driver: where the bytes of a datastore's images are.

What lives here: the protocol that every driver follows (``driver``), the table of drivers
(``registry``), which images may be read in which state (``state``), the front-end's paths on this
machine and the check that a path stays inside its datastore (``places``), which files of an image
build on which (``chains``, ``increments``), and the drivers: ``ceph``, ``filesystem`` (DS_MAD fs)
and others, ``mapped`` for those of which only the configuration says where their images are, and
``unsupported`` for everything else. The disks of VMs that do not run are ``system``'s.

Nearly all is read by nebfs itself: files and devices of this machine in place, SFTP, RBD, restic's
repositories, HTTP, and the disk inside qcow2 files. Only iSCSI goes through QEMU's block layer: its
``qemu-storage-daemon`` exports one read-only node over a private socket.

What does not: reading bytes and telling formats (content's), the list of images (opennebula's),
deadlines and what to show while a datastore is down (the catalog's). Drivers return data, never
readers. They look at files (lstat, readdir); of a qcow2 file that has snapshots beside it, of
those, and of a VM's qcow2 disk they read the header, and open nothing else.

Who may import it: catalog, and rooms above it. Never marketplaces.

Start reading at ``driver.DatastoreDriver``, then ``filesystem``. A new driver is one file here, one
line in ``registry.DRIVERS`` and one line in tests/datastores/test_contract.py.

Concurrency: a driver may be called by any number of tasks. Files are looked at in worker threads
that are abandoned when the caller gives up, since a dead NFS server holds a thread for as long as
it likes; how many can be held is limited for each datastore. Keep the ``DatastoreDrivers`` for the
life of the mount: the limits live in its drivers.
"""

from nebfs.datastores.driver import DatastoreDriver, DeferringDatastore
from nebfs.datastores.registry import DRIVERS, DatastoreDrivers
from nebfs.datastores.system import SystemDatastore
from nebfs.datastores.unsupported import UnsupportedDatastore

__all__ = [
    "DRIVERS",
    "DatastoreDriver",
    "DatastoreDrivers",
    "DeferringDatastore",
    "SystemDatastore",
    "UnsupportedDatastore",
]
