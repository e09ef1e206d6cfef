"""Servers that the tests of several rooms use, each started once in a run."""

from tests.fetcher.ceph import ceph
from tests.fetcher.radosgw import radosgw
from tests.fetcher.tgt import tgt

__all__ = ["ceph", "radosgw", "tgt"]
