"""Repositories of the backup datastore ``restic``, made by restic as OpenNebula's driver does."""

from __future__ import annotations

import atexit
import base64
import functools
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, ECB
from cryptography.hazmat.primitives.poly1305 import Poly1305

from nebfs.fetcher.transports.restic_sealing import Keys, unlocked
from nebfs.model import Image, ImageState, ImageType, Increment
from tests.datastores.rsync_pool import VM, Repository

PASSWORD = "canary-password-of-the-repository"


class Restic:
    """A repository; `url` as restic writes it."""

    def __init__(self, url: str | Path, scratch: Path, **environment: str) -> None:
        self.url = str(url)
        self._environment = {
            **os.environ,
            "RESTIC_PASSWORD": PASSWORD,
            "RESTIC_CACHE_DIR": str(scratch / "restic-cache"),
            "HOME": str(scratch),
            **environment,
        }

    def run(self, *words: object) -> bytes:
        argv = ["restic", "--quiet", "-r", self.url, *map(str, words)]
        done = subprocess.run(argv, env=self._environment, capture_output=True)
        assert done.returncode == 0, f"{words}: {done.stderr.decode()}"
        return done.stdout

    def init(self, version: int = 2, *, cheap: bool = True) -> Restic:
        """Make it. A `cheap` key is for one on this machine, and saves seconds."""
        if cheap:
            shutil.copytree(empty(version), self.url)
        else:
            self.run("init", "--repository-version", version)
        return self

    def backup(self, *files: Path) -> str:
        """Make a snapshot of `files`; return its short id."""
        said = self.run("backup", "--force", "--json", "--tag", f"one-{VM}", *files)
        summary = json.loads(said.splitlines()[-1])
        return summary["snapshot_id"][:8]

    def back_up(self, kept: Repository, runs: int) -> list[str]:
        """Make a snapshot of each run, as they were made one after the other."""
        return [self.backup(*sorted(kept.directory(run).iterdir())) for run in range(runs)]

    def dump(self, snapshot: str, path: Path) -> bytes:
        return self.run("dump", "--no-lock", snapshot, path)


def seal(keys: Keys, text: bytes, iv: bytes = bytes(range(16))) -> bytes:
    """Seal a text, as restic does."""
    sealed = Cipher(AES(keys.encrypt), CTR(iv)).encryptor().update(text)
    nonce = Cipher(AES(keys.mac_k), ECB()).encryptor().update(iv)
    return iv + sealed + Poly1305.generate_tag(keys.mac_r + nonce, sealed)


def master_keys(repository: Path) -> Keys:
    (key,) = (repository / "keys").iterdir()
    keys = unlocked(PASSWORD, key.read_bytes())
    assert keys is not None
    return keys


@functools.cache
def empty(version: int) -> Path:
    """Return an empty repository with a cheap key, made once in a run of the tests."""
    home = Path(tempfile.mkdtemp(prefix="nebfs-restic-"))
    atexit.register(shutil.rmtree, home)
    Restic(home / "repository", home).init(version, cheap=False)
    give_cheap_key(home / "repository")
    return home / "repository"


def give_cheap_key(repository: Path) -> Keys:
    """Let the password be derived in milliseconds, not in half a second; return the master keys."""
    keys = master_keys(repository)
    (old,) = (repository / "keys").iterdir()
    salt = bytes(64)
    facts = {"kdf": "scrypt", "N": 1024, "r": 8, "p": 1, "salt": base64.b64encode(salt).decode()}
    encoded = {
        n: base64.b64encode(getattr(keys, n)).decode() for n in ("encrypt", "mac_k", "mac_r")
    }
    master = {"mac": {"k": encoded["mac_k"], "r": encoded["mac_r"]}, "encrypt": encoded["encrypt"]}
    sealed = seal(Keys.derived(PASSWORD.encode(), facts), json.dumps(master).encode())
    told = {**json.loads(old.read_bytes()), **facts, "data": base64.b64encode(sealed).decode()}
    text = json.dumps(told).encode()
    old.unlink()
    (old.parent / hashlib.sha256(text).hexdigest()).write_bytes(text)
    return keys


def packs(repository: Path) -> list[Path]:
    """Return the packs of a repository on this machine, the largest first."""
    found = [path for path in (repository / "data").rglob("*") if path.is_file()]
    return sorted(found, key=lambda path: -path.stat().st_size)


def increments(snapshots: list[str], first: int = 0) -> tuple[Increment, ...]:
    return tuple(
        Increment(
            number,
            number - 1 if number > first else -1,
            full=number == first,
            date=1_700_000_000 + number,
            source=snapshot,
            size_mb=1,
        )
        for number, snapshot in enumerate(snapshots, first)
    )


def backup(number: int = 1, **changes: object) -> Image:
    facts: dict[str, object] = {
        "datastore_id": 1,
        "type": ImageType.BACKUP,
        "state": ImageState.READY,
        "source": "3f2a91c0",
        "format": "raw",
        "vm_ids": (VM,),
        "regtime": 1_600_000_000,
    }
    return Image(number, f"{VM} backup", **{**facts, **changes})


@pytest.fixture
def stored_by_restic(image):
    """A backup, whose files nobody looks at before it is opened."""

    def make(number: int = 1, data: bytes = b"", **changes: object) -> Image:
        facts = {"source": "3f2a91c0", "vm_ids": (VM,), "type": ImageType.BACKUP}
        return image(number, **{**facts, **changes})

    return make
