"""The table of cases, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scripts.benchmarks.cases import (
    cold,
    decode,
    fill,
    guests,
    inside,
    latency,
    listing,
    memory,
    warm,
)
from scripts.benchmarks.rounds import Bench, Result


@dataclass(frozen=True, slots=True)
class Case:
    """A case that can be asked for by name; it may bring several results."""

    name: str
    what: str
    measure: Callable[[Bench], list[Result]]
    needs_link: bool = False
    quick: bool = True
    """Whether `--quick` measures it without being asked for it by name."""


def _one(measure: Callable[[Bench], Result]) -> Callable[[Bench], list[Result]]:
    return lambda bench: [measure(bench)]


CASES = (
    Case("cold", "a whole image that nobody has read yet, loopback", _one(cold.cold)),
    Case("cold-tls", "the same over TLS", _one(cold.cold_tls), quick=False),
    Case("cold-link", "the same over a 20 ms 1 Gbit/s link", _one(cold.cold_link), True),
    Case("warm", "a whole image again, page cache dropped", _one(warm.warm)),
    Case("random-warm", "random 4 KiB of it, page cache dropped", _one(warm.random_warm)),
    Case("random-streaming", "the same while others stream in", _one(warm.random_streaming)),
    Case("raw", "the disks inside qcow2 images again, page cache dropped", inside.raw, quick=False),
    Case("qcow2", "the reader of qcow2 images, beside qemu-img", inside.reader, quick=False),
    Case(
        "decode",
        "a pass over compressed images, beside their own tools",
        decode.passes,
        quick=False,
    ),
    Case("first-byte", "first byte and cold 4 KiB, loopback", _one(latency.first_byte)),
    Case("first-byte-link", "the same over the link", _one(latency.first_byte_link), True),
    Case(
        "fill",
        "cold 4 KiB while other images are filled, loopback",
        _one(fill.loopback),
        quick=False,
    ),
    Case("fill-link", "the same over the link", _one(fill.link), True, quick=False),
    Case(
        "boot", "two recorded boots, loopback", lambda b: latency.boots(b, "loopback"), quick=False
    ),
    Case("boot-link", "the same over the link", lambda b: latency.boots(b, "link"), True),
    Case(
        "boot-guest", "a real guest boots over the link", _one(guests.boot_guest), True, quick=False
    ),
    Case("memory", "memory while four images stream in", _one(memory.streaming)),
    Case("listing", "ls -lR of 10,000 entries", _one(listing.datastore)),
    Case("listing-market", "ls -lR of 2,000 apps", _one(listing.marketplace), quick=False),
)
