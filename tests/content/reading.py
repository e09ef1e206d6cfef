"""Reading as the window to the kernel does, for tests that keep what they have read."""

from __future__ import annotations

from nebfs.content import stack


async def read(reader, offset, length):
    """Return a copy of the bytes: what readers give is good until the next call."""
    return bytes(await stack.read(reader, offset, length))
