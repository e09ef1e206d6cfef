"""What may be asked on the control socket: one function per question, and the table of them."""

from __future__ import annotations

from nebfs.daemon import checking, explaining, history, metrics, objects, warming
from nebfs.daemon.history import History
from nebfs.daemon.status import Status
from nebfs.daemon.web import Reply, Request, Routes, as_json
from nebfs.daemon.wiring import House


def routes(house: House, status: Status, past: History) -> Routes:
    """Return everything that the daemon of `house` answers."""

    async def facts(_: Request) -> Reply:
        return as_json(status.facts())

    async def refresh(_: Request) -> Reply:
        failure = await house.catalog.refresh()
        return as_json({"refreshed": failure is None, "trouble": str(failure or "")})

    return {
        ("GET", "/v1/status"): facts,
        ("POST", "/v1/refresh"): refresh,
        **explaining.routes(house),
        **metrics.routes(house, status),
        **history.routes(past),
        **metrics.routes(house, status),
        **history.routes(past),
        **warming.routes(house),
        **objects.routes(house),
        **checking.routes(house),
    }
