"""Becomes a program under the filters of a unit file, which the kernel then keeps as for systemd.

Run as a script, as root: ``limits.py UNIT PROGRAM ARGUMENT...``. Filters are made with libseccomp,
as systemd makes them; what is in a group of system calls is systemd's own list, of the version that
is installed (``systemd-analyze syscall-filter``).
Source: systemd.exec(5), and seccomp_rule_add(3).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
import socket
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

# <seccomp.h>
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
EQUAL, ABOVE, MASKED = 4, 6, 7
# <linux/sched.h>: the CLONE_NEW... of cgroup, IPC, network, mounts, PIDs, time, users, UTS
NAMESPACES = (
    *(0x02000000, 0x08000000, 0x40000000, 0x00020000, 0x20000000),
    *(0x00000080, 0x10000000, 0x04000000),
)
SHM_EXEC = 0o100000  # <bits/shm.h>

seccomp = ctypes.CDLL("libseccomp.so.2")
seccomp.seccomp_init.restype = ctypes.c_void_p


class Compared(ctypes.Structure):
    """``struct scmp_arg_cmp``: an argument of a system call, and what it is compared with."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("how", ctypes.c_int),
        ("one", ctypes.c_uint64),
        ("other", ctypes.c_uint64),
    )


class Filter:
    """One filter; what no rule is about is answered by `otherwise`."""

    def __init__(self, otherwise: int) -> None:
        self.context = ctypes.c_void_p(seccomp.seccomp_init(otherwise))
        assert self.context

    def add(self, action: int, name: str, *compared: tuple[int, int, int, int]) -> None:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number == -1:
            return  # of another kind of processor
        array = (Compared * len(compared))(*(Compared(*one) for one in compared))
        code = seccomp.seccomp_rule_add_array(self.context, action, number, len(compared), array)
        assert code in (0, -errno.EDOM, -errno.EEXIST), (name, os.strerror(-code))

    def load(self) -> None:
        code = seccomp.seccomp_load(self.context)
        assert code == 0, os.strerror(-code)


def groups() -> dict[str, set[str]]:
    """Return what systemd means by @GROUP; a group may name others."""
    said = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    found: dict[str, set[str]] = defaultdict(set)
    name = ""
    for line in re.sub("\x1b\\[[0-9;]*m", "", said).splitlines():
        if line.startswith("@"):
            name = line.strip()
        elif line.startswith(" ") and not line.strip().startswith("#"):
            found[name].add(line.strip())
    return found


def members(words: str, known: dict[str, set[str]]) -> set[str]:
    """Return the system calls that `words` name, one by one or as groups."""
    found: set[str] = set()
    for word in words.split():
        found |= members(" ".join(known[word]), known) if word.startswith("@") else {word}
    return found


def settings(unit: Path) -> dict[str, list[str]]:
    """Return what the unit's lines say, by name."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in unit.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[name].append(value)
    return found


def only_some_calls(lines: list[str], refused: int) -> None:
    """SystemCallFilter=: the first line says what is allowed, those with ~ take out of it."""
    known = groups()
    allowed = members("@default", known)
    assert not lines[0].startswith("~")
    for line in lines:
        if line.startswith("~"):
            allowed -= members(line[1:], known)
        else:
            allowed |= members(line, known)
    # What systemd does not know is newer than it: programs are told that it is not there.
    made = Filter(ERRNO | errno.ENOSYS)
    for name in members("@known", known) | allowed:
        made.add(ALLOW if name in allowed else ERRNO | refused, name)
    made.load()


def no_code_that_was_written(refused: int = ERRNO | errno.EPERM) -> None:
    """MemoryDenyWriteExecute=."""
    made, both = Filter(ALLOW), mmap.PROT_EXEC | mmap.PROT_WRITE
    made.add(refused, "mmap", (2, MASKED, both, both))
    for name in ("mprotect", "pkey_mprotect"):
        made.add(refused, name, (2, MASKED, mmap.PROT_EXEC, mmap.PROT_EXEC))
    made.add(refused, "shmat", (2, MASKED, SHM_EXEC, SHM_EXEC))
    made.load()


def only_some_families(names: str) -> None:
    """RestrictAddressFamilies=."""
    made, allowed = Filter(ALLOW), {int(getattr(socket, name)) for name in names.split()}
    refused = ERRNO | errno.EAFNOSUPPORT
    for family in range(max(allowed)):
        if family not in allowed:
            made.add(refused, "socket", (0, EQUAL, family, 0))
    made.add(refused, "socket", (0, ABOVE, max(allowed), 0))
    made.load()


def no_namespaces() -> None:
    """RestrictNamespaces=: none is made, none is entered."""
    made, refused = Filter(ALLOW), ERRNO | errno.EPERM
    made.add(ERRNO | errno.ENOSYS, "clone3")  # its flags cannot be seen
    made.add(refused, "setns")
    for flag in NAMESPACES:
        made.add(refused, "unshare", (0, MASKED, flag, flag))
        made.add(refused, "clone", (0, MASKED, flag, flag))
    made.load()


def main(unit: str, *command: str) -> None:
    """Set the filters and become the command. The last one would refuse to set others."""
    said = settings(Path(unit))
    if said.get("RestrictNamespaces") == ["yes"]:
        no_namespaces()
    if said.get("RestrictAddressFamilies"):
        only_some_families(" ".join(said["RestrictAddressFamilies"]))
    if said.get("MemoryDenyWriteExecute") == ["yes"]:
        no_code_that_was_written()
    if said.get("SystemCallFilter"):
        (refused,) = said["SystemCallErrorNumber"]
        only_some_calls(said["SystemCallFilter"], getattr(errno, refused))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
