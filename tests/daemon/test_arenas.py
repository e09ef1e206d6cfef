"""The daemon's memory does not grow with the threads that it has had."""

from __future__ import annotations

import subprocess
import sys

_COUNT = """
import ctypes, re, sys, threading
from nebfs.daemon import arenas
if sys.argv[2] == "shared":
    arenas.share()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
together = threading.Barrier(12)
def work():
    together.wait()
    for _ in range(200):
        libc.free(ctypes.c_void_p(libc.malloc(50_000)))
    together.wait()
threads = [threading.Thread(target=work) for _ in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
print(len(re.findall("<heap nr=", open(sys.argv[1]).read())))
"""


def pools(path, how: str) -> int:
    argv = [sys.executable, "-c", _COUNT, path, how]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    return int(done.stdout)


def test_many_threads_share_two_pools_of_memory(tmp_path):
    assert pools(tmp_path / "shared", "shared") <= 2
    assert pools(tmp_path / "own", "own") > 2  # or nothing would be gained


_FREE = """
import ctypes, sys, trio
import trio.testing
from nebfs.daemon import arenas
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def resident():
    return int(open("/proc/self/statm").read().split()[1]) >> 8
def fill():
    blocks = [libc.malloc(50_000) for _ in range(1000)]
    for block in blocks:
        ctypes.memset(block, 1, 50_000)
    for block in blocks[:-1]:  # what is behind the last one could be cut off without anybody's help
        libc.free(ctypes.c_void_p(block))
async def main():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(arenas.give_back)
        fill()
        before = resident()
        await trio.sleep(arenas.PERIOD * 1.5)
        print(before - resident())
        nursery.cancel_scope.cancel()
trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.2))
"""


def test_free_memory_goes_back_to_the_kernel_every_minute():
    argv = [sys.executable, "-c", _FREE]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    assert int(done.stdout) > 40  # of 48 MiB
