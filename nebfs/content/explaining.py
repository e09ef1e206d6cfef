"""What the layers of an open object have done: the plan of its stack, as data for people.

Everything is counted where somebody waits anyway. What is answered at once passes no counter here:
the window to the kernel counts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nebfs.content.layers.cached import Cached
from nebfs.content.layers.decoded import Decoding
from nebfs.content.layers.fetched import Fetched
from nebfs.content.layers.limited import Limited
from nebfs.content.layers.pinned import Pinned
from nebfs.content.layers.retried import Retried
from nebfs.content.layers.verified import Verified
from nebfs.content.stack import Priority, ReaderFacts, Source


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: its name, what it is there for, and what it has counted. Times are in seconds."""

    name: str
    purpose: str
    counted: dict[str, int | float | str]


@dataclass(frozen=True, slots=True)
class Stack:
    """An open object, its layers from the reader down to its place."""

    facts: ReaderFacts
    layers: tuple[Layer, ...]


def explained(top: Cached | Verified, cached: Cached, sources: Sequence[Source]) -> Stack:
    """Say what each layer has done since the object was opened."""
    layers = [_of_verified(top)] if isinstance(top, Verified) else []
    layers.append(_of_cached(cached))
    layers += [layer for source in sources if (layer := _of_source(source)) is not None]
    return Stack(top.facts(), tuple(layers))


def explained_decoding(decoding: Decoding) -> Layer:
    """Say what was done to decompress an object since it was opened. `frontier` and `here` are
    decompressed bytes, `done` is the part of the compressed file that a pass has behind it.
    """
    passing = decoding.passing
    counted: dict[str, int | float | str] = {
        "frontier": decoding.frontier,
        "here": decoding.file.cached_bytes,
        "hits": decoding.hits,
        "waits": decoding.waits,
        "passes": passing.passes,
        "blocks": decoding.decoded_blocks,
        "corrupt_blocks": decoding.file.corrupt,
    }
    if decoding.streamed:
        counted["streamed"] = decoding.streamed
    if passing.under_way:
        counted["pass"] = f"under way, {passing.progress:.0%}" if passing.has_turn else "waits"
    return Layer("decoded", "decompresses the file into an object of its own", counted)


def _of_verified(layer: Verified) -> Layer:
    counted: dict[str, int | float | str] = {
        "algorithm": layer.algorithm,
        "verdict": layer.verdict.name.lower(),
        "hashed": layer.hashed,
    }
    return Layer("checksum", "compares the whole with what was published about it", counted)


def _of_cached(layer: Cached) -> Layer:
    facts = layer.facts()
    orders = {
        "orders": layer.orders[Priority.DEMAND],
        "orders_of_profiles": layer.orders[Priority.PROFILE],
        "orders_ahead": layer.orders[Priority.READ_AHEAD],
        "orders_to_fill": layer.orders[Priority.FILL],
    }
    return Layer(
        "cache",
        "answers what is here, and orders what is not",
        {
            "kind": facts.where,
            "here": facts.cached,
            "waits": layer.waits,
            **orders,
            "failures": layer.failures,
            "corrupt_blocks": facts.corrupt_blocks,
        },
    )


def _of_source(layer: Source) -> Layer | None:
    match layer:
        case Retried():
            return Layer("retry", "asks again when that may help", {"retries": layer.retries})
        case Limited():
            counted: dict[str, int | float | str] = {
                "waited": layer.waited,
                "under_way": layer.under_way,
            }
            return Layer("turns", "lets the most urgent requests go first at its place", counted)
        case Pinned():
            version = "another one now" if layer.broken else "as opened"
            return Layer("version", "keeps to the version that was opened", {"version": version})
        case Fetched():
            return Layer(
                "place",
                "asks its place for the bytes",
                {
                    "requests": layer.requests,
                    "bytes": layer.bytes,
                    "failures": layer.failures,
                    "seconds": layer.seconds,
                },
            )
        case _:
            return None
