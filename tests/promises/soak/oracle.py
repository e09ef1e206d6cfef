"""What an image's bytes may be: those of one of its versions, of the same one while it is open."""

from __future__ import annotations

import os
from pathlib import Path


class Oracle:
    """The versions of one face (``published`` or ``raw``) of one image, as files."""

    def __init__(self, directory: Path, face: str) -> None:
        self._directory, self._face = directory, face
        self._open: dict[int, tuple[int, int]] = {}

    def versions(self) -> list[int]:
        """Return the versions that there are now, the oldest first."""
        names = (path.name.partition(".") for path in self._directory.glob(f"*.{self._face}"))
        return sorted(int(number) for number, _, _ in names)

    def size(self, version: int) -> int:
        """Return the bytes of a version."""
        return self._file(version)[1]

    def read(self, version: int, offset: int, length: int) -> bytes:
        """Return what a version has there."""
        return os.pread(self._file(version)[0], length, offset)

    def _file(self, version: int) -> tuple[int, int]:
        if version not in self._open:
            fd = os.open(self._directory / f"{version}.{self._face}", os.O_RDONLY)
            self._open[version] = fd, os.fstat(fd).st_size
        return self._open[version]

    def close(self) -> None:
        """Close the files."""
        while self._open:
            os.close(self._open.popitem()[1][0])


class Handle:
    """One open file, and which versions of the image it may still be."""

    def __init__(self, oracle: Oracle, fd: int) -> None:
        self._oracle = oracle
        self.fd = fd
        self.size = os.fstat(fd).st_size
        # Made before they are published: no version can be seen that is not among these.
        self._possible = [v for v in oracle.versions() if oracle.size(v) == self.size]
        self.seen = f"{self.size} bytes long, of versions {self._possible} until then"

    @property
    def known(self) -> bool:
        """Whether any version is as long, and has what was read."""
        return bool(self._possible)

    def right(self, offset: int, got: bytes | memoryview) -> bool:
        """Say whether this is what one version, that was possible until now, has there."""
        left = [v for v in self._possible if self._oracle.read(v, offset, len(got)) == got]
        self.seen = f"{self.size} bytes long, of versions {self._possible} until then"
        self._possible = left
        return bool(left)

    @property
    def newest(self) -> bool:
        """Whether what was read can be of the newest version."""
        return bool(self._possible) and self._possible[-1] == self._oracle.versions()[-1]
