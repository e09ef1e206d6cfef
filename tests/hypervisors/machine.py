"""QEMU as it is started by hand: the guest of guest.py on the drives of a test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.hypervisors.guest import Guest

QEMU = "qemu-system-x86_64"
BOOT = 120.0
"""Seconds that a boot may take on a busy machine. It takes 4 without KVM."""
PROBE = 15.0
"""Seconds in which a guest under KVM is done many times over, if KVM can run it at all."""

SMALL = (
    "-m", "256", "-smp", "1", "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
)  # fmt: skip


def find_accelerator(guest: Guest) -> str:
    """Return ``kvm`` when a guest boots under it here, else ``tcg``. That /dev/kvm is there does
    not say so: a kernel that is a guest itself may offer one that runs no ordinary kernel.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    try:
        said = boot(guest, [f"file={guest.disk},format=raw,readonly=on"], "kvm", timeout=PROBE)
    except (AssertionError, subprocess.TimeoutExpired):
        return "tcg"
    return "kvm" if said.get("disk") == guest.proof else "tcg"


def boot(
    guest: Guest,
    drives: Sequence[str],
    accelerator: str,
    *more: str,
    append: str = "",
    timeout: float = BOOT,
) -> dict[str, str]:
    """Boot on `drives` (values of -drive, without id and interface) and return what it said.

    AssertionError with QEMU's words when it fails or the guest does not come to its end.
    """
    words = [QEMU, *accelerated(accelerator), *SMALL, *started(guest, append)]
    for number, drive in enumerate(drives):
        words += ["-drive", f"{drive},if=none,id=d{number}"]
        words += ["-device", f"virtio-blk-pci,drive=d{number}"]
    done = subprocess.run(
        [*words, *more], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
    )
    said = told(done.stdout)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    assert "done" in said, f"{words}\n{done.stdout}\n{done.stderr}"
    return said


def accelerated(accelerator: str) -> list[str]:
    """Return the words that choose it, with a processor that it can offer."""
    processor = "host" if accelerator == "kvm" else "max"
    return ["-accel", accelerator, "-cpu", processor]


def started(guest: Guest, append: str = "") -> list[str]:
    """Return the words that start the guest's kernel."""
    return ["-kernel", f"{guest.kernel}", "-initrd", f"{guest.initrd}", "-append", cmdline(append)]


def cmdline(append: str = "") -> str:
    """Return what the kernel is told; ``nebfs.rw`` in `append` makes the guest write."""
    return f"console=ttyS0 quiet panic=-1 mitigations=off {append}".strip()


def told(console: str) -> dict[str, str]:
    """Return what the guest said on its console: the first word to the second."""
    lines = [line.partition("nebfs: ")[2].split() for line in console.splitlines()]
    return {words[0]: words[-1] for words in lines if words}


def version(*argv: str | Path) -> str:
    """Return the first line of what a program says of itself."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.splitlines()[0]
