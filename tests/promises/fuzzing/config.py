"""The settings file, and the file of credentials. The first byte says which."""

from __future__ import annotations

import tempfile
from pathlib import Path

from nebfs.config import load
from nebfs.errors import UserError
from nebfs.fetcher import access


def one(data: bytes) -> None:
    """A file that is refused is so by an error for people, and nothing else."""
    if not data:
        return
    with tempfile.NamedTemporaryFile(prefix="nebfs-", dir="/dev/shm", suffix=".toml") as file:
        file.write(data[1:])
        file.flush()
        try:
            if data[0] & 1:
                access.load(file.name)
            else:
                repr(load(Path(file.name), {}))
        except UserError as exc:
            assert exc.exit_code
            raise
