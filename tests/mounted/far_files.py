"""Hosts whose files this machine does not have: real sshds with a view of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fetcher.sshd import Sshd, keygen


def user_with_a_key(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a home with a key, and without any host key."""
    (home / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return keygen(home / ".ssh/id_ed25519")


def host(home: Path, key: Path, sees: dict[Path, Path]) -> Sshd:
    """Start a host that has `sees`, and that the user of `key` knows."""
    made = Sshd(home, key, sees=sees)
    with open(key.parent / "known_hosts", "a") as known:
        known.write(made.known)
    return made


def taken(cache: Path) -> int:
    """Return the bytes on disk of what was fetched."""
    files = [path for path in cache.rglob("*") if path.is_file()]
    return sum(path.stat().st_blocks * 512 for path in files if path.suffix != ".json")
