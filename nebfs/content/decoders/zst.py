"""Zstandard (RFC 8878), decoded in one pass by its own library.

The library decodes all that it is given at once, and four bytes may be 128 KiB. So the frames are
walked here, block by block, and the library gets no more of them at a time than make one piece.

Like ``zstd -dc``: frames follow one another, skippable ones are skipped, and anything else is an
error; so is a window of more than 128 MiB (there, ``--long`` allows it). The lengths of frames and
their XXH64 are checked where they are written.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import zstandard

from nebfs.content.decoders.interface import Block, Closing
from nebfs.content.decoders.walking import Walk, Walker
from nebfs.errors import Damaged, Unsupported

MAGIC = b"\x28\xb5\x2f\xfd"
_LEGACY = range(0xFD2FB522, 0xFD2FB528)
"""Magics of the versions before 0.8 (2016)."""

WINDOW = 1 << 27
"""The largest window, in bytes: zstd's own default limit (windowLog 27)."""

_LONGEST_BLOCK = 128 << 10
_TOGETHER = 2
"""Blocks decoded at once. 256 KiB stay in the processor's cache: a quarter faster than 1 MiB."""

_SKIPPED = 64 << 10
_DICTIONARY_ID = (0, 1, 2, 4)
_CONTENT_SIZE = (0, 2, 4, 8)


def skippable(magic: bytes) -> bool:
    """Whether a frame that begins with these four bytes is no data."""
    return int.from_bytes(magic, "little") & ~0xF == 0x184D2A50


def walk_header() -> Walk[tuple[bytes, int | None, bool]]:
    """Read a frame header behind its magic: its bytes, the length it says, if with checksum."""
    descriptor = yield 1
    single, checked = bool(descriptor[0] & 0x20), bool(descriptor[0] & 0x04)
    if descriptor[0] & 0x08:
        raise Unsupported("the zstd image uses a feature that is not known")
    window_length = 0 if single else 1
    id_length = _DICTIONARY_ID[descriptor[0] & 3]
    size_length = _CONTENT_SIZE[descriptor[0] >> 6] or int(single)
    fields = yield window_length + id_length + size_length
    if any(fields[window_length : window_length + id_length]):
        raise Unsupported("the zstd image needs a dictionary")
    size = None
    if size_length:
        # Two bytes begin where one byte ends.
        size = int.from_bytes(fields[-size_length:], "little") + 256 * (size_length == 2)
    if single:
        window = size or 0
    else:
        base = 1 << (10 + (fields[0] >> 3))
        window = base + base // 8 * (fields[0] & 7)
    if window > WINDOW:
        raise Unsupported("the zstd image needs more than 128 MiB to be decoded", window=window)
    return descriptor + fields, size, checked


class ZstDecoder(Closing):
    """Frames."""

    def __init__(self) -> None:
        self._library = zstandard.ZstdDecompressor(max_window_size=WINDOW)
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._together: list[bytes] = []  # what the library has not got yet
        self._blocks = 0  # how many are among these
        self._pieces: list[bytes] = []
        self._between = False  # the image may end here
        self._walker = Walker(self._walk())

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        """See Decoder."""
        for _ in self._walker.feed(data):
            yield from self._take()
        if self._frame is not None:
            self._decode(self._frame)
            yield from self._take()

    def end(self) -> Iterator[bytes]:
        """See Decoder."""
        yield from self._take()
        if not self._between or self._walker.kept:
            raise Damaged("the zstd image is cut off")

    def _take(self) -> Iterator[bytes]:
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            yield from pieces

    def _walk(self) -> Walk[None]:
        while True:
            magic = yield 4
            self._between = False
            if skippable(magic):
                left = int.from_bytes((yield 4), "little")
                while left:
                    left -= len((yield min(left, _SKIPPED)))
            elif magic == MAGIC:
                yield from self._walk_frame()
            elif int.from_bytes(magic, "little") in _LEGACY:
                raise Unsupported("the zstd image is of a version before 0.8")
            else:
                raise Damaged("something that is no zstd frame is in the zstd image")
            self._between = True

    def _walk_frame(self) -> Walk[None]:
        header, _, checked = yield from walk_header()
        frame = self._frame = self._library.decompressobj(write_size=_TOGETHER * _LONGEST_BLOCK)
        self._together = [MAGIC + header]
        last = 0
        while not last:
            head = yield 3
            number = int.from_bytes(head, "little")
            last, kind, size = number & 1, number >> 1 & 3, number >> 3
            if kind == 3 or size > _LONGEST_BLOCK:
                raise Damaged("a block of the zstd image breaks the format")
            # In a line of its own: at a yield, `self._together` may become another list.
            body = yield 1 if kind == 1 else size
            self._together += (head, body)
            self._blocks += 1
            if self._blocks == _TOGETHER:
                self._decode(frame)
        if checked:
            checksum = yield 4
            self._together.append(checksum)
        self._decode(frame)
        if not frame.eof:
            raise Damaged("a frame of the zstd image is not whole")
        self._frame = None

    def _decode(self, frame: zstandard.ZstdDecompressionObj) -> None:
        data = b"".join(self._together)
        self._together, self._blocks = [], 0
        if not data:
            return
        try:
            piece = frame.decompress(data)
        except MemoryError as exc:
            raise Unsupported("there is no memory to decode the zstd image") from exc
        except zstandard.ZstdError as exc:
            raise Damaged("the zstd image cannot be decoded", error=str(exc)) from exc
        if piece:
            self._pieces.append(piece)


def decode_frame(data: bytes | memoryview, block: Block) -> bytes:
    """Return what the frames of a Block are, decoded. Raises Damaged, Unsupported."""
    parts: list[bytes] = []
    length = 0
    with ZstDecoder() as decoder:
        for piece in chain(decoder.feed(data), decoder.end()):
            parts.append(piece)
            length += len(piece)
            if length > block.size:
                break
    if length != block.size:
        raise Damaged("a frame of the zstd image has another length than its index says")
    return b"".join(parts)
