"""One file per layer. Each wraps another of its kind and does one thing.

Readers, from the handle down: ``readahead`` (orders what will be wanted next), ``verified`` (holds
the whole object to its published checksum), ``cached`` (answers from the cache file, orders what is
missing). Where that file is, ``kept`` decides: on the disk, or in memory while that fails. Sources,
from the cache down: ``retried`` (tries again what is temporary), ``limited`` (takes turns at one
place, demand first), ``pinned`` (one version for ever), ``fetched`` (asks the fetcher process);
above them, with the setting ``fill``, ``noticed`` (knows when a place is idle). What is on this
machine is a whole stack by itself, chosen by ``here``: ``inplace`` (a file, or a block device with
``devices``), ``activated`` (an LVM volume, made active while it is read), ``extents`` (one that is
not active, read from its disks); ``waiting`` has their threads. So is ``uncached``, for what others
write to meanwhile. Over any kind of stack, ``decoded`` answers with what is in a compressed file:
``decoded_passing`` is the one pass over it, ``decoded_pass`` the part of that in a thread,
``decoded_blocks`` the decoding of single blocks, ``decoded_stream`` what is left where nothing can
be kept, ``decoded_file`` an open file of it. Over all of these, ``qcow2`` answers with the disk
inside a file, and so does ``blockmap_reader`` where a table tells of each block of the disk where
it is (``vdi``, ``vhd``, ``vhdx``, ``vmdk``), or ``window`` where the disk is in one piece;
``watched`` sees to it that files which others write to are of one version then.

A warm read is answered by ``cached`` alone: the layers above pass its ``warm`` on as their own,
unless they have something to add to it.
"""
