"""Numbers for Prometheus: ``GET /metrics`` on the control socket and, if it is set, on TCP.

Nothing is counted for them: they are collected, when somebody asks, from what the rooms count
anyway. Labels name places and servers, never images: there are as many series as there are places,
and of those 1000 at most. docs/metrics.md is made from FAMILIES.

The text format is written by prometheus_client, which is imported with the first question.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import trio

import nebfs
from nebfs.daemon.status import Status
from nebfs.daemon.web import Reply, Request, Routes
from nebfs.daemon.wiring import House

MOST_PLACES = 1000
"""Places of which there are series. Clouds have dozens; a monitoring must survive any of them."""

COUNTER, GAUGE = "counter", "gauge"
PLACE = ("kind", "id", "name")


@dataclass(frozen=True, slots=True)
class Family:
    """What is told under one name. A counter's name ends in ``_total``."""

    name: str
    type: str
    help: str
    labels: tuple[str, ...] = ()


FAMILIES: tuple[Family, ...] = (
    Family("nebfs_info", GAUGE, "Always 1; the label is the version that runs.", ("version",)),
    Family("nebfs_start_time_seconds", GAUGE, "When the daemon started, since the epoch."),
    Family("nebfs_healthy", GAUGE, "1 while the front-end and all places answer, else 0."),
    Family("nebfs_lists_age_seconds", GAUGE, "Time since everything was last listed."),
    Family("nebfs_reads_total", COUNTER, "Reads of images, by how they were answered: at_once "
           "from the cache, or after having waited.", ("answered",)),
    Family("nebfs_read_bytes_total", COUNTER, "Bytes of images that were read."),
    Family("nebfs_read_errors_total", COUNTER, "Reads of images that failed."),
    Family("nebfs_damaged_images_total", COUNTER, "Images that were found to be something else "
           "than what was published, or damaged."),
    Family("nebfs_slow_operations_total", COUNTER, "Opens, listings and reads that took longer "
           "than the setting slow_operations."),
    Family("nebfs_open_files", GAUGE, "Files and directories that are open."),
    Family("nebfs_open_objects", GAUGE, "Files of places that are open; images can share them."),
    Family("nebfs_inodes", GAUGE, "Files and directories that the kernel may ask about."),
    Family("nebfs_callers", GAUGE, "Other users of the machine of whom it is known what they may "
           "see; with others = \"sessions\" only."),
    Family("nebfs_callers_age_seconds", GAUGE, "Time since the front-end was last asked about one "
           "of them, of the one for whom it is longest ago."),
    Family("nebfs_cache_limit_bytes", GAUGE, "Bytes that the store may take. The store memory is "
           "used while the cache's disk cannot be.", ("store",)),
    Family("nebfs_cache_used_bytes", GAUGE, "Bytes that the store takes.", ("store",)),
    Family("nebfs_cache_reserved_bytes", GAUGE, "Bytes of the store that are set aside for what is "
           "being fetched.", ("store",)),
    Family("nebfs_cache_evicted_bytes_total", COUNTER, "Bytes that had to leave the store for "
           "others.", ("store",)),
    Family("nebfs_cache_faults_total", COUNTER, "What the store's disk refused.", ("store",)),
    Family("nebfs_cache_corrupt_blocks_total", COUNTER, "Blocks of the store that had another "
           "checksum when they were read than when they came; they are fetched again.",
           ("store",)),
    Family("nebfs_fetched_bytes_total", COUNTER, "Bytes that came from places into the cache."),
    Family("nebfs_fetcher_requests", GAUGE, "Questions and requests that are under way."),
    Family("nebfs_fetcher_restarts_total", COUNTER, "How often the fetcher process died and was "
           "started again."),
    Family("nebfs_places", GAUGE, "Marketplaces and datastores that are shown."),
    Family("nebfs_place_healthy", GAUGE, "1 while a marketplace or datastore could be listed, "
           "else 0.", PLACE),
    Family("nebfs_place_objects", GAUGE, "Apps or images of a marketplace or datastore.", PLACE),
    Family("nebfs_place_list_age_seconds", GAUGE, "Time since a marketplace or datastore was last "
           "listed; there is none before the first time.", PLACE),
    Family("nebfs_server_requests_total", COUNTER, "Requests for bytes of images, by server; "
           "local is what has none. A server that nothing was opened of for long is forgotten.",
           ("server",)),
    Family("nebfs_server_failures_total", COUNTER, "Requests for bytes that failed.", ("server",)),
    Family("nebfs_server_bytes_total", COUNTER, "Bytes of images that came.", ("server",)),
    Family("nebfs_server_request_seconds_total", COUNTER, "What the requests for bytes took, "
           "added up.", ("server",)),
    Family("nebfs_server_latency_seconds", GAUGE, "How soon a server begins to answer, at its best "
           "of lately.", ("server",)),
    Family("nebfs_server_rate_bytes_per_second", GAUGE, "How fast one request's bytes come, at "
           "their best of lately.", ("server",)),
    Family("nebfs_process_resident_bytes", GAUGE, "Memory that a process has in RAM, what it "
           "shares with others included.", ("process",)),
    Family("nebfs_process_cpu_seconds_total", COUNTER, "CPU time of a process.", ("process",)),
    Family("nebfs_process_threads", GAUGE, "Threads of a process.", ("process",)),
    Family("nebfs_process_open_descriptors", GAUGE, "Descriptors that a process has open.",
           ("process",)),
    Family("nebfs_process_open_sockets", GAUGE, "Sockets among its descriptors: connections, and "
           "what it listens on.", ("process",)),
)  # fmt: skip

Samples = dict[str, dict[tuple[str, ...], float]]
"""By the name of the family and the values of its labels."""


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """What the kernel says about a process: bytes, seconds, and numbers."""

    resident: int
    cpu: float
    threads: int
    descriptors: int
    sockets: int


def routes(house: House, status: Status) -> Routes:
    """Return what Prometheus asks."""

    async def metrics(_: Request) -> Reply:
        return await answer(house, status)

    return {("GET", "/metrics"): metrics}


async def answer(house: House, status: Status) -> Reply:
    """Return all numbers of now, as text."""
    pids = {"daemon": os.getpid(), "fetcher": house.fetcher.pid}
    # Both in a thread: procfs lists descriptors one by one, and the text of 1000 places takes tens
    # of milliseconds.
    processes = await trio.to_thread.run_sync(_of_processes, pids)
    samples = collected(house, status, processes)
    body, kind = await trio.to_thread.run_sync(exposed, samples)
    return Reply(body, kind=kind)


def collected(house: House, status: Status, processes: dict[str, ProcessFacts]) -> Samples:
    """Return every number there is now."""
    samples: Samples = {family.name: {} for family in FAMILIES}

    def tell(name: str, value: float | None, *labels: str) -> None:
        if value is not None:
            samples[f"nebfs_{name}"][labels] = float(value)

    _of_the_house(house, status, tell)
    for store, facts in {
        house.store.kind: house.store.statistics(),
        "memory": house.memory.statistics(),
    }.items():
        tell("cache_limit_bytes", facts.limit, store)
        tell("cache_used_bytes", facts.used, store)
        tell("cache_reserved_bytes", facts.reserved, store)
        tell("cache_evicted_bytes_total", facts.evicted, store)
        tell("cache_faults_total", facts.faults, store)
        tell("cache_corrupt_blocks_total", facts.corrupt, store)
    _of_places(house, status, tell)
    for server, pace in house.library.paces().items():
        tell("server_requests_total", pace.requests, server)
        tell("server_failures_total", pace.failures, server)
        tell("server_bytes_total", pace.bytes, server)
        tell("server_request_seconds_total", pace.seconds, server)
        tell("server_latency_seconds", pace.latency or None, server)
        tell("server_rate_bytes_per_second", pace.rate if pace.measured else None, server)
    for process, found in processes.items():
        tell("process_resident_bytes", found.resident, process)
        tell("process_cpu_seconds_total", found.cpu, process)
        tell("process_threads", found.threads, process)
        tell("process_open_descriptors", found.descriptors, process)
        tell("process_open_sockets", found.sockets, process)
    return samples


Tell = Callable[..., None]


def _of_the_house(house: House, status: Status, tell: Tell) -> None:
    counters, fetcher = house.operations.counters, house.fetcher.statistics()
    snapshot = house.catalog.current
    tell("info", 1, nebfs.__version__)
    tell("start_time_seconds", status.started)
    tell("healthy", status.healthy)
    tell("lists_age_seconds", status.age_of(snapshot.taken if snapshot is not None else 0.0))
    tell("reads_total", counters.warm_reads, "at_once")
    tell("reads_total", counters.cold_reads, "waited")
    tell("read_bytes_total", counters.bytes_read)
    tell("read_errors_total", counters.errors)
    tell("damaged_images_total", counters.damaged)
    tell("slow_operations_total", house.operations.slow.counted)
    tell("open_files", len(house.operations.handles))
    tell("open_objects", house.library.open_objects)
    tell("inodes", len(house.tree.inodes))
    if house.callers is not None:
        callers = house.callers.facts()
        tell("callers", len(callers))
        tell("callers_age_seconds", max((one.age for one in callers), default=None))
    tell("fetched_bytes_total", fetcher.fetched_bytes)
    tell("fetcher_requests", fetcher.in_flight)
    tell("fetcher_restarts_total", fetcher.restarts)


def _of_places(house: House, status: Status, tell: Tell) -> None:
    snapshot = house.catalog.current
    if snapshot is None:
        return
    found = [
        (("marketplace", str(one.marketplace.id), one.marketplace.name), one, len(one.offers))
        for one in snapshot.marketplaces
    ] + [
        (("datastore", str(one.datastore.id), one.datastore.name), one, len(one.holdings))
        for one in snapshot.datastores
    ]
    tell("places", len(found))
    for labels, listing, objects in found[:MOST_PLACES]:
        tell("place_healthy", not listing.trouble, *labels)
        tell("place_objects", objects, *labels)
        tell("place_list_age_seconds", status.age_of(listing.as_of), *labels)


def exposed(samples: Samples) -> tuple[bytes, str]:
    """Return `samples` as text in Prometheus' format, and its media type."""
    from prometheus_client import CollectorRegistry  # noqa: PLC0415 - see the module's docstring
    from prometheus_client.core import (  # noqa: PLC0415
        CounterMetricFamily,
        GaugeMetricFamily,
        Metric,
    )
    from prometheus_client.exposition import (  # noqa: PLC0415
        CONTENT_TYPE_PLAIN_0_0_4,
        generate_latest,
    )

    class Collector:
        def collect(self) -> Iterable[Metric]:
            for family in FAMILIES:
                found = samples[family.name]
                if not found:
                    continue
                kind = CounterMetricFamily if family.type == COUNTER else GaugeMetricFamily
                metric = kind(family.name, family.help, labels=family.labels)
                for labels, value in found.items():
                    metric.add_metric([_clean(label) for label in labels], value)
                yield metric

        def describe(self) -> Iterable[Metric]:
            return ()

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector())
    return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4


def _clean(label: str) -> str:
    # A name that is no UTF-8 is text with surrogates in Python, which could not be sent.
    return label.encode("utf-8", "backslashreplace").decode()


def _of_processes(pids: dict[str, int]) -> dict[str, ProcessFacts]:
    found = ((name, process_facts(pid)) for name, pid in pids.items() if pid)
    return {name: facts for name, facts in found if facts is not None}


def process_facts(pid: int) -> ProcessFacts | None:
    """Return what /proc/PID tells, see proc(5); None when there is no such process (any more)."""
    directory = Path(f"/proc/{pid}")
    try:
        # The second field is the program's name in brackets and may itself hold brackets and
        # blanks. Of those behind it: 12 and 13 utime and stime, 18 threads, 22 resident pages.
        fields = (directory / "stat").read_bytes().rpartition(b") ")[2].split()
        descriptors = os.listdir(directory / "fd")
        sockets = sum(_is_socket(directory / "fd" / name) for name in descriptors)
    except OSError:
        return None
    ticks = int(fields[11]) + int(fields[12])
    return ProcessFacts(
        resident=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
        cpu=ticks / os.sysconf("SC_CLK_TCK"),
        threads=int(fields[17]),
        descriptors=len(descriptors),
        sockets=sockets,
    )


def _is_socket(entry: Path) -> bool:
    try:
        return os.readlink(entry).startswith("socket:")
    except FileNotFoundError:  # closed meanwhile, as the one that listed them is
        return False


def table() -> Iterator[str]:
    """Yield the lines of docs/metrics.md that list every metric."""
    yield "| Metric | Type | Labels | Meaning |"
    yield "|---|---|---|---|"
    for family in FAMILIES:
        labels = ", ".join(f"`{label}`" for label in family.labels) or "-"
        yield f"| `{family.name}` | {family.type} | {labels} | {family.help} |"
