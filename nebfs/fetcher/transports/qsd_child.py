"""Becomes another program that dies with the process that started it, however that dies.

Run as a script, by ``python -I -S``: ``qsd_child.py PARENT PROGRAM ARGUMENT...``. So it sees the
standard library only. Between fork and exec of a process with threads nothing of this may be done.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


def main() -> None:
    """Tie this process to its parent, and become the program. Returns only when it cannot."""
    parent, *command = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_PDEATHSIG, signal.SIGKILL), (_PR_SET_NO_NEW_PRIVS, 1)):
        if libc.prctl(option, int(value), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != int(parent):
        sys.exit(0)  # it died before prctl was called
    # It is told a password.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.execv(command[0], command)  # noqa: S606 - that is what this is for


if __name__ == "__main__":
    main()
