"""What may be asked on the control socket: one function per question, and the table of them."""

from __future__ import annotations

from nebfs.daemon import (
    checking,
    dashboard,
    explaining,
    history,
    metrics,
    objects,
    pinning,
    refreshing,
    verifying,
    warming,
)
from nebfs.daemon.history import History
from nebfs.daemon.status import Status
from nebfs.daemon.web import Reply, Request, Routes, as_json
from nebfs.daemon.wiring import House


def routes(house: House, status: Status, past: History) -> Routes:
    """Return everything that the daemon of `house` answers."""

    async def facts(_: Request) -> Reply:
        return as_json({**status.facts(), "rates": past.latest()})

    return {
        ("GET", "/v1/status"): facts,
        **refreshing.routes(house, status),
        **explaining.routes(house),
        **metrics.routes(house, status),
        **history.routes(past),
        **dashboard.routes(house, status, past),
        **warming.routes(house),
        **verifying.routes(house),
        **objects.routes(house),
        **pinning.routes(house),
        **checking.routes(house),
    }
