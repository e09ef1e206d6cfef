"""Reads through a memory map, in a process of their own.

A page fault keeps Python's lock: the demonstration's servers, which are threads of the tests, could
not send what the fault waits for. And a fault that fails ends the process that has it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Self

_READ = """
import ctypes, mmap, os, resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
fd = os.open(sys.argv[1], os.O_RDONLY)
size = os.fstat(fd).st_size
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
whole = -(-size // 4096) * 4096 + 4096
address = libc.mmap(None, whole, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
for line in sys.stdin:
    offset, length = map(int, line.split())
    sys.stdout.buffer.write(ctypes.string_at(address + offset, length))
    sys.stdout.flush()
"""


class Map:
    """A map of a file and of one page behind it."""

    def __init__(self, path: Path) -> None:
        argv = [sys.executable, "-c", _READ, os.fspath(path)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def read(self, offset: int, length: int) -> bytes:
        """Return what is there; fewer bytes when the fault has ended the process."""
        self._process.stdin.write(f"{offset} {length}\n".encode())
        self._process.stdin.flush()
        return self._process.stdout.read(length)

    def close(self) -> int:
        """End it and return its exit code: minus the signal, if one has ended it."""
        self._process.stdin.close()
        self._process.stdout.close()
        return self._process.wait(60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
