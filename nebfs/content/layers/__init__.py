"""One file per layer. Each wraps another of its kind and does one thing.

Readers, from the handle down: ``readahead`` (orders what will be wanted next), ``verified`` (holds
the whole object to its published checksum), ``cached`` (answers from the cache file, orders what is
missing). Sources, from the cache down: ``retried`` (tries again what is temporary), ``limited``
(takes turns at one place, demand first), ``pinned`` (one version for ever), ``fetched`` (asks the
fetcher process); above them, with the setting ``fill``, ``noticed`` (knows when a place is idle).
``inplace`` is a whole stack by itself, a file on this machine; so is ``uncached``, for what others
write to meanwhile. Over either kind of stack, ``qcow2`` answers with the disk inside a file.

A warm read is answered by ``cached`` alone: the layers above pass its ``warm`` on as their own,
unless they have something to add to it.
"""
