"""The way to an endpoint, and what our clock is against theirs. Asked through the fetcher."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from nebfs.cli.checkup.finding import Finding, ok, problem, warning
from nebfs.errors import BadAnswer, NebfsError
from nebfs.fetcher.messages import Call, CallAnswer, CallRequest
from nebfs.model import without_credentials
from nebfs.units import format_duration

SOON = 14 * 86400.0
"""Seconds before its end at which a certificate is worth a warning."""
SKEW, LARGE_SKEW = 30.0, 300.0
"""Seconds between two clocks: Date has whole ones and is as old as the answer; object stores refuse
signatures that are 15 minutes old, and tokens have shorter lives."""
_REMEDIES = {
    "name": "correct the name, or look into /etc/hosts, /etc/resolv.conf and the name server",
    "connect": "see that the service runs there, and that no firewall is between",
}
PROXY = (
    "correct https_proxy, http_proxy or no_proxy in the environment, or proxy in the file of "
    "credentials; and see what the proxy's log says"
)


@dataclass(slots=True)
class Recorded:
    """A Call that remembers what the last answer said about the time, and how long it took."""

    call: Call
    skew: float | None = None
    seconds: float = 0.0

    async def __call__(self, request: CallRequest) -> CallAnswer:
        """Send the request on."""
        began = time.time()
        answer = await self.call(request)
        self.seconds = time.time() - began
        self.skew = skew_of(answer.header("Date"), time.time())
        return answer


def skew_of(date: str, now: float) -> float | None:
    """Return how many seconds their clock is ahead of ours, `now`; None for what is no date."""
    try:
        return parsedate_to_datetime(date.replace("UTC", "GMT")).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return None


def check_clock(about: str, skew: float | None) -> Iterator[Finding]:
    """Compare the clocks; nothing where theirs is not known."""
    if skew is None:
        return
    if abs(skew) < SKEW:
        yield ok("clock", f"agrees with {about}")
        return
    text = (
        f"this machine's clock is {format_duration(abs(skew))} {'behind' if skew > 0 else 'ahead'} "
        f"of {about}"
    )
    remedy = "set the clocks by NTP on both sides: signatures and certificates depend on them"
    yield (problem if abs(skew) >= LARGE_SKEW else warning)("clock", text, remedy)


async def check_way(call: Call, about: str, url: str, patience: float) -> tuple[list[Finding], str]:
    """Go the way to `url`. Return a problem if its end was not reached, and the proxy, if any."""
    shown = without_credentials(url)
    try:
        request = CallRequest("LOOK", url, timeout=patience, transport="reach")
        way = _understood(await call(request))
    except NebfsError as exc:
        return [problem(about, f"{shown}: {exc}", "correct the address")], ""
    host = urlsplit(shown).netloc
    failed, reason = str(way.get("failed", "")), str(way.get("reason", ""))
    proxy = str(way.get("proxy", ""))
    if failed:
        text, remedy = _failure(failed, reason, host, proxy)
        return [problem(about, f"{shown}: {text}", remedy)], proxy
    return list(_certificate(about, host, way)), proxy


def through(proxy: str) -> str:
    """Return what to append to a cause where `proxy` stood between."""
    return f"; it was asked through the proxy {proxy}" if proxy else ""


def _failure(failed: str, reason: str, host: str, proxy: str) -> tuple[str, str]:
    who = f"the proxy {proxy}" if proxy else host
    match failed:
        case "name":
            where = f"the name of {who} cannot be resolved"
        case "tls":
            where = f"the certificate of {who} is not trusted"
            if "certificate" not in reason and "hostname" not in reason.lower():
                where = f"TLS with {who} failed"
        case _:
            where = f"could not connect to {who}"
    return f"{where}: {reason}", PROXY if proxy else _REMEDIES.get(failed) or _tls_remedy(reason)


def _tls_remedy(reason: str) -> str:
    lowered = reason.lower()
    if "expired" in lowered:
        return "renew the server's certificate; if it is new, set this machine's clock"
    if "not yet valid" in lowered:
        return "set the clocks: the certificate is from the future"
    if "mismatch" in lowered or "not valid for" in lowered:
        return "use the name that the certificate is for, or have one made for this name"
    if "issuer" in lowered or "self" in lowered:
        return "name the PEM file of its authority with the setting ca_file"
    return "see that the port is one that speaks TLS, and what the server's log says"


def _certificate(about: str, host: str, way: dict[str, Any]) -> Iterator[Finding]:
    expires = way.get("expires")
    if isinstance(expires, (int, float)) and expires - time.time() < SOON:
        left = format_duration(max(0.0, expires - time.time()))
        text = f"the certificate of {host} expires in {left}"
        yield warning(about, text, "renew the server's certificate")


def _understood(answer: CallAnswer) -> dict[str, Any]:
    way = json.loads(answer.body)
    if not isinstance(way, dict):
        raise BadAnswer("not what a LOOK answers")
    return way
