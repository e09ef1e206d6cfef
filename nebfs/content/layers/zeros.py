"""What the readers of disks answer with where an image has nothing."""

from __future__ import annotations

import mmap
from typing import Final

from nebfs.units import MIB

LONGEST: Final = 4 * MIB
"""Bytes that their ``warm`` answers: four times the longest read that a kernel sends."""

ZEROS: Final = memoryview(
    mmap.mmap(-1, LONGEST, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
)
"""LONGEST zeros, which take no memory."""
