"""Memory of all processes of a peer together while four images stream in at the same time."""

from __future__ import annotations

import contextlib

from nebfs.units import MIB
from scripts.benchmarks.peers.everyone import RCLONES
from scripts.benchmarks.peers.peer import Peer
from scripts.benchmarks.processes import PATIENCE, Failed, Sampler, memory, running
from scripts.benchmarks.rounds import Bench, Figures, Result, alternate, clear
from scripts.benchmarks.toolbox import program


def streaming(bench: Bench) -> Result:
    """The largest of many samples of the proportional set size, summed over the processes."""
    title = "Memory of all processes while four images stream in"
    result = Result("memory", title, "MiB", more_is_better=False, baseline="")
    images = bench.images[1:5]

    def once(peer: Peer) -> Figures:
        home = bench.scratch()
        try:
            with peer.mount(bench.loopback, home, images) as mounted:
                idle = memory(mounted.pid)
                with (
                    Sampler(lambda: memory(mounted.pid), every=0.05) as sampler,
                    contextlib.ExitStack() as readers,
                ):
                    streams = [
                        readers.enter_context(
                            running([program("reader"), "seq", mounted.path(image)], home / "seq")
                        )
                        for image in images
                    ]
                    codes = [stream.wait(PATIENCE) for stream in streams]
                if any(codes):
                    raise Failed((home / "seq").read_text().strip())
                for image in images:
                    bench.loopback.read("same", mounted.path(image), image.path)
        finally:
            clear(home)
        return {"MiB": sampler.largest / MIB, "before MiB": idle / MIB}

    alternate(bench, result, (bench.nebfs, *RCLONES[:3]), once)
    return result
