"""CRC-32C (Castagnoli), with which VHDX protects its headers; neither zlib nor isal has it.

Source: RFC 3720, appendix B.4. The 64 KiB of a table take 2 ms, once for each open file: numpy goes
through many parts of it at a time, and what they come to is put together afterwards.
"""

from __future__ import annotations

from typing import Final

import numpy as np

_POLYNOMIAL: Final = 0x82F63B78
_LANES: Final = 256


def _made() -> list[int]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


_TABLE: Final = _made()
_NP_TABLE: Final = np.array(_TABLE, np.uint32)


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of `data`."""
    value = 0xFFFFFFFF
    width = len(data) // _LANES
    done = width * _LANES
    if width:
        # A part's register begins with 0, but for the first one's: all of it is linear.
        parts = np.frombuffer(data, np.uint8, done).reshape(_LANES, width)
        registers = np.zeros(_LANES, np.uint32)
        registers[0] = value
        for column in parts.T:
            registers = _NP_TABLE[(registers ^ column) & 0xFF] ^ registers >> 8
        value = 0
        over = _over_zeros(width)
        for register in registers.tolist():
            value = _through(over, value) ^ register
    for byte in data[done:]:
        value = _TABLE[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


def _over_zeros(count: int) -> list[int]:
    """Return what each bit of a register becomes when `count` bytes of zeros pass through it."""
    bits = 1 << np.arange(32, dtype=np.uint32)
    for _ in range(count):
        bits = _NP_TABLE[bits & 0xFF] ^ bits >> 8
    return [int(bit) for bit in bits]


def _through(over: list[int], value: int) -> int:
    result = 0
    for bit in over:
        if value & 1:
            result ^= bit
        value >>= 1
    return result
