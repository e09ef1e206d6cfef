"""What nebfs is measured against: each bar is a figure, a limit, and how it is had from results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from scripts.benchmarks.rounds import Result

Results = Mapping[str, Result]
Measure = Callable[[Results], float | None]
US = "nebfs"


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar; `at_least` says on which side of the limit is good."""

    text: str
    limit: float
    at_least: bool
    measure: Measure
    unit: str = ""

    @property
    def limit_text(self) -> str:
        """The limit as it is written."""
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}{self.unit}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bar and what was measured; None where it was not."""

    bar: Bar
    measured: float | None

    @property
    def met(self) -> bool | None:
        """Whether the bar is met."""
        if self.measured is None:
            return None
        if self.bar.at_least:
            return self.measured >= self.bar.limit
        return self.measured <= self.bar.limit


def _figure(case: str, figure: str) -> Measure:
    """Return nebfs's own median of a figure."""
    return lambda results: results[case].median(US, figure) if case in results else None


def _profiled(case: str) -> Measure:
    """Return the median of a boot behind its profile."""
    return lambda results: results[case].median(f"{US} profile") if case in results else None


def _to(case: str, peer: str, figure: str | None = None) -> Measure:
    """Return the ratio of nebfs's median to a peer's."""

    def measure(results: Results) -> float | None:
        if case not in results:
            return None
        ours, theirs = (results[case].median(who, figure) for who in (US, peer))
        return ours / theirs if ours is not None and theirs else None

    return measure


def best_rclone(result: Result, figure: str | None = None, *, most: bool) -> str | None:
    """Return the rclone configuration with the best median."""
    found = {
        peer: median
        for peer in result.samples
        if peer.startswith("rclone") and (median := result.median(peer, figure)) is not None
    }
    return (max if most else min)(found, key=lambda peer: found[peer]) if found else None


def _to_rclone(case: str, figure: str | None = None, *, most: bool) -> Measure:
    def measure(results: Results) -> float | None:
        if case not in results:
            return None
        best = best_rclone(results[case], figure, most=most)
        return _to(case, best, figure)(results) if best else None

    return measure


def _bars() -> list[Bar]:
    bars = [
        Bar("cold sequential, loopback, to curl", 0.75, True, _to("cold", "curl")),
        Bar("cold sequential, link, to curl", 0.98, True, _to("cold-link", "curl")),
        Bar(
            "cold sequential, loopback, to the best rclone",
            1.5,
            True,
            _to_rclone("cold", most=True),
        ),
        Bar("warm sequential, to passthrough_hp", 1.5, True, _to("warm", "passthrough_hp")),
        Bar("warm sequential, to the best rclone", 2.5, True, _to_rclone("warm", most=True)),
        Bar(
            "warm random 4 KiB, to passthrough_ll", 0.9, True, _to("random-warm", "passthrough_ll")
        ),
        Bar(
            "random 4 KiB while streaming, to idle", 0.6, True, _figure("random-streaming", "ratio")
        ),
        Bar(
            "random 4 KiB while streaming, p99",
            *(2000, False, _figure("random-streaming", "streaming p99 us"), " us"),
        ),
        Bar(
            "first byte after open, link",
            *(1.3, False, _figure("first-byte-link", "first byte RTT"), " RTT"),
        ),
        Bar("cold 4 KiB, link", 1.3, False, _figure("first-byte-link", "4 KiB RTT"), " RTT"),
        Bar("cold 4 KiB, loopback, to nbdkit curl", 1.5, False, _to("first-byte", "nbdkit")),
    ]
    for trace in ("boot-raw", "boot-qcow2"):
        name = trace.replace("boot-", "recorded boot (") + ")"
        case = f"{trace}-link"
        bars += [
            Bar(f"{name}, link, to the best rclone", 0.5, False, _to_rclone(case, most=False)),
            Bar(f"{name}, link, fetched to touched", 3, False, _figure(case, "fetched / touched")),
            Bar(f"{name}, link, behind its profile", 1.0, False, _profiled(case), " s"),
        ]
    for case, said, limit in (
        *(("plain", "plain", 3.0), ("plain-direct", "plain, O_DIRECT", 3.0)),
        *(("zlib", "zlib", 2.0), ("zstd", "zstd", 1.3)),
    ):
        text = f"disk inside a qcow2 ({said}), warm, to qemu-storage-daemon"
        bars.append(Bar(text, limit, True, _to(f"raw-{case}", "qemu-storage-daemon")))
    for layout, limit in (("fragmented", 0.8), ("zlib", 1.0), ("zstd", 1.0)):
        text = f"reader of qcow2 ({layout}), to qemu-img"
        bars.append(Bar(text, limit, True, _to(f"qcow2-{layout}", "qemu-img")))
    for kind, limit in (
        *(("gzip", 3.0), ("bzip2", 1.2), ("xz", 1.0)),
        *(("xz-blocks", 1.6), ("zstd", 0.9)),
    ):
        text = f"pass over a compressed image ({kind}), to its own tool"
        bars.append(Bar(text, limit, True, _to(f"decode-{kind}", "its own tool")))
    return [
        *bars,
        Bar(
            "processor seconds per GiB, cold, to the least of rclone",
            *(1, False, _to_rclone("cold", "CPU s/GiB", most=False)),
        ),
        Bar("memory while four images stream in", 120, False, _figure("memory", "MiB"), " MiB"),
        Bar(
            "ls -lR of 10,000 entries, to passthrough_ll",
            *(1, False, _to("listing", "passthrough_ll")),
        ),
    ]


BARS = _bars()


def judge(results: Results) -> list[Verdict]:
    """Return every bar with what was measured."""
    return [Verdict(bar, bar.measure(results)) for bar in BARS]
