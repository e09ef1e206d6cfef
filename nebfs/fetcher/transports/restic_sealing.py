"""How a restic repository is sealed: its passwords, its ciphertexts, its compression. Pure, slow.

A sealed text is ``IV || AES-256-CTR || MAC``, and the MAC is Poly1305-AES with the IV as its nonce.
Nothing of a text is looked at before its MAC was found right, and a blob counts only when its
SHA-256 is its name. What lengths are announced in it is somebody's word: output is bounded.
Source: restic's doc/design.rst, "Keys, Encryption and MAC" and "Unpacked Data Format"; for the MAC,
D. J. Bernstein, "The Poly1305-AES message-authentication code".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import zstandard
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, ECB
from cryptography.hazmat.primitives.poly1305 import Poly1305

from nebfs.errors import BadAnswer, Damaged, Unsupported

SEAL = 32
"""Bytes by which a sealed text is longer: the IV and the MAC."""

_IV = _MAC = 16

_SCRYPT_MEMORY = 256 << 20
"""Bytes that a key file may make us use: restic itself takes at most 60 MiB."""
_SCRYPT_WORK = 1 << 25
"""The most of N * r * p: some ten seconds. restic aims at half a second, which is about 2**21."""

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a repository, or those that a password gives."""

    encrypt: bytes = field(repr=False)
    mac_k: bytes = field(repr=False)
    mac_r: bytes = field(repr=False)

    @classmethod
    def derived(cls, password: bytes, key_file: Mapping[str, Any]) -> Keys:
        """Return the keys that a password gives with a key file's parameters: half a second.

        Raises BadAnswer or Unsupported.
        """
        n, r, p = (key_file.get(name) for name in ("N", "r", "p"))
        if key_file.get("kdf") != "scrypt":
            raise Unsupported("a key of the repository is of an unknown kind")
        if not (isinstance(n, int) and isinstance(r, int) and isinstance(p, int)):
            raise BadAnswer("a key file of the repository is not understood")
        memory = 128 * r * (n + p + 2)
        if not (n > 1 and n & (n - 1) == 0 and r > 0 and p > 0):
            raise BadAnswer("a key file of the repository is not understood")
        if memory > _SCRYPT_MEMORY or n * r * p > _SCRYPT_WORK:
            raise Unsupported("a key of the repository takes too much to be derived")
        salt = _bytes(key_file.get("salt"))
        # hashlib's, which lets other threads run meanwhile.
        made = hashlib.scrypt(
            password, salt=salt, n=n, r=r, p=p, maxmem=memory + (1 << 20), dklen=64
        )
        return cls(made[:32], made[32:48], made[48:])

    @classmethod
    def of_json(cls, text: bytes) -> Keys:
        """Read the master keys, as they are in a key file. Raises BadAnswer."""
        try:
            told = json.loads(text)
            made = cls(_bytes(told["encrypt"]), _bytes(told["mac"]["k"]), _bytes(told["mac"]["r"]))
        except (ValueError, KeyError, TypeError, RecursionError) as exc:
            raise BadAnswer("the repository's master key is not understood") from exc
        if (len(made.encrypt), len(made.mac_k), len(made.mac_r)) != (32, 16, 16):
            raise BadAnswer("the repository's master key is not understood")
        return made

    def unseal(self, sealed: bytes | memoryview) -> bytes:
        """Return what was sealed. Raises Damaged when a bit of it is not as it was."""
        if len(sealed) < SEAL:
            raise Damaged("a sealed text of the repository is too short")
        view = memoryview(sealed)
        iv, text, mac = bytes(view[:_IV]), view[_IV:-_MAC], bytes(view[-_MAC:])
        # One block of AES: as Poly1305-AES is defined, and no encryption of any text.
        nonce = Cipher(AES(self.mac_k), ECB()).encryptor().update(iv)  # noqa: S305
        try:
            Poly1305.verify_tag(self.mac_r + nonce, text, mac)
        except InvalidSignature as exc:
            raise Damaged("a part of the repository is damaged: its MAC is wrong") from exc
        return Cipher(AES(self.encrypt), CTR(iv)).decryptor().update(text)


def unlocked(password: str, key_file: bytes) -> Keys | None:
    """Return the master keys, if `password` is that of this key. Takes half a second.

    Raises BadAnswer or Unsupported.
    """
    try:
        told = json.loads(key_file)
        derived = Keys.derived(password.encode("utf-8", "surrogateescape"), told)
        sealed = _bytes(told.get("data"))
    except (ValueError, TypeError, AttributeError, RecursionError) as exc:
        raise BadAnswer("a key file of the repository is not understood") from exc
    try:
        text = derived.unseal(sealed)
    except Damaged:
        return None
    return Keys.of_json(text)


def unpacked(keys: Keys, sealed: bytes, name: str, limit: int) -> bytes:
    """Return the document in the file `name` (SHA-256 in hex digits; empty: it has no such name).

    Raises Damaged, BadAnswer, or Unsupported.
    """
    if name and hashlib.sha256(sealed).hexdigest() != name:
        raise Damaged("a file of the repository is damaged", file=name[:8])
    text = keys.unseal(sealed)
    match text[:1]:
        case b"[" | b"{":
            return text
        case b"\x02":
            return _inflated(text[1:], limit)
        case _:
            raise Unsupported("a file of the repository is of an unknown kind", file=name[:8])


def opened(
    keys: Keys, sealed: bytes | memoryview, identity: bytes, size: int, *, packed: bool
) -> bytes:
    """Return a blob of `size` bytes, whose SHA-256 is `identity`. Raises Damaged."""
    text = keys.unseal(sealed)
    if packed:
        try:
            # An announced length would be believed before the limit is.
            announced = zstandard.frame_content_size(text)
            if announced not in (-1, size):
                raise Damaged("a blob of the repository is damaged: its length is wrong")
            text = zstandard.ZstdDecompressor().decompress(text, max_output_size=size)
        except zstandard.ZstdError as exc:
            raise Damaged("a blob of the repository cannot be decompressed") from exc
    if len(text) != size or hashlib.sha256(text).digest() != identity:
        raise Damaged("a blob of the repository is damaged", blob=identity.hex()[:8])
    return text


def _inflated(text: bytes, limit: int) -> bytes:
    pieces: list[bytes] = []
    left = limit
    try:
        with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(text)) as reader:
            while piece := reader.read(_PIECE):
                pieces.append(piece)
                left -= len(piece)
                if left < 0:
                    raise Unsupported("a file of the repository is too large", limit=limit)
    except zstandard.ZstdError as exc:
        raise Damaged("a file of the repository cannot be decompressed") from exc
    return b"".join(pieces)


def _bytes(text: object) -> bytes:
    if not isinstance(text, str):
        raise BadAnswer("a key file of the repository is not understood")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as exc:
        raise BadAnswer("a key file of the repository is not understood") from exc
