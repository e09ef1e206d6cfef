"""The images that are read: files of random bytes, which nothing can compress, guess or skip."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nebfs.units import MIB


@dataclass(frozen=True, slots=True)
class Image:
    """One image: its number in the cloud that nebfs mounts, and its original on the web server."""

    number: int
    path: Path
    size: int
    md5: str
    """As a marketplace publishes it, or empty."""

    @property
    def name(self) -> str:
        """What it is called on the web server."""
        return self.path.name


def make_images(root: Path, sizes: Sequence[int], digests: bool) -> list[Image]:
    """Write images of so many bytes each, and wait until they are on disk.

    Each MiB is cut from one pool of random bytes at a place of its own: several times faster than
    asking for all of it, and a block that is served in another's place still differs. No run shall
    pay for writing them out, hence the wait.
    """
    pool = os.urandom(32 * MIB)
    chance = random.Random()  # noqa: S311
    images = []
    for number, size in enumerate(sizes):
        path = root / f"image-{number}.raw"
        md5 = hashlib.md5(usedforsecurity=False)
        with path.open("wb") as file:
            for offset in range(0, size, MIB):
                start = chance.randrange(len(pool) - MIB)
                block = pool[start : start + min(MIB, size - offset)]
                if digests:
                    md5.update(block)
                file.write(block)
            os.fsync(file.fileno())
        images.append(Image(number, path, size, md5.hexdigest() if digests else ""))
    return images


def forget(path: Path) -> None:
    """Have the kernel drop its cached pages of one file; whoever serves it keeps what it has."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
