"""Servers that the tests of several rooms use, each started once in a run."""

from tests.fetcher.ceph import ceph
from tests.fetcher.radosgw import radosgw

__all__ = ["ceph", "radosgw"]
