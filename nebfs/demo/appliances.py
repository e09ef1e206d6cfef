"""The REST service of a public marketplace: the catalogue, and redirects to where the bytes are.

Source: the behaviour of OpenNebula's appmarket server. The User-Agent decides which catalogue is
shown, and whether an appliance comes as JSON or as a page for people; a template appliance, which
has no files, makes the download route fail with 500 there, and here.
"""

from __future__ import annotations

import functools
import json
import re
import threading
from collections import Counter
from http import HTTPStatus

from nebfs.demo.cloud import Cloud, JsonObject
from nebfs.demo.listening import Handler, Listener

_ROUTE = re.compile(r"/appliance(?:/([^/]+?)(/download(?:/(\d*))?)?)?/?")
_ONEDS_AGENT = re.compile(r"OpenNebula (\d+\.\d+)")
_FOR_PEOPLE = re.compile(r"text/html|\*/\*")


class ApplianceService:
    """Answers for `cloud.appliances`; counts; can be told to fail."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.requests: Counter[str] = Counter()
        """How often each path was asked for."""
        self.fail_next = 0
        """How many of the next requests are answered with 503."""
        self._guard = threading.Lock()

    def listener(self) -> Listener:
        """Return a server, not yet started, that answers for this service."""
        return Listener(functools.partial(_ApplianceHandler, service=self))

    def counted(self, path: str) -> bool:
        """Count a request; say whether it is one of those to fail."""
        with self._guard:
            self.requests[path] += 1
            failing = self.fail_next > 0
            self.fail_next -= failing
        return failing

    def catalogue(self, user_agent: str) -> JsonObject:
        """Return the list for one client: that of its OpenNebula version, else the newest one."""
        with self.cloud.lock:
            appliances = list(self.cloud.appliances.values())
        versions = {v for one in appliances for v in _versions(one)}
        match = _ONEDS_AGENT.match(user_agent)
        newest = max(versions, key=lambda v: [int(n) for n in v.split(".")], default="")
        wanted = match[1] if match and match[1] in versions else newest
        return {"sEcho": 1, "appliances": [a for a in appliances if wanted in _versions(a)]}


class _ApplianceHandler(Handler):
    server_version = "nebfs-demonstration"

    def __init__(self, *args: object, service: ApplianceService) -> None:
        self._service = service
        super().__init__(*args)  # type: ignore[arg-type] # socketserver's own three

    def answer(self) -> None:
        if self.command == "POST":
            return self.reply(HTTPStatus.METHOD_NOT_ALLOWED, b"", {"Connection": "close"})
        # oned's own driver asks for //appliance.
        path = re.sub(r"^/+", "/", self.path.partition("?")[0])
        if self._service.counted(path):
            return self.reply(HTTPStatus.SERVICE_UNAVAILABLE, b"", {})
        route = _ROUTE.fullmatch(path)
        if route is None:
            return self.reply(HTTPStatus.NOT_FOUND, b"", {})
        agent = self.headers.get("User-Agent", "")
        if route[1] is None:
            return self._json(self._service.catalogue(agent))
        with self._service.cloud.lock:
            appliance = self._service.cloud.appliances.get(route[1])
        if route[2] is not None:
            return self._redirect(appliance, int(route[3] or 0))
        accepts = self.headers.get("Accept", "")
        if "opennebula" not in agent.lower() and (not accepts or _FOR_PEOPLE.search(accepts)):
            page = b"<html><body>A page of the catalogue, for people.</body></html>"
            return self.reply(HTTPStatus.OK, page, {"Content-Type": "text/html;charset=utf-8"})
        if appliance is None:
            return self.reply(HTTPStatus.NOT_FOUND, b"", {"Content-Type": "application/json"})
        return self._json(appliance)

    def _redirect(self, appliance: JsonObject | None, index: int) -> None:
        if appliance is not None and "files" not in appliance:
            return self.reply(HTTPStatus.INTERNAL_SERVER_ERROR, b"", {})
        files = [] if appliance is None else appliance["files"]
        if index >= len(files) or not files[index].get("size") or not files[index].get("url"):
            return self.reply(HTTPStatus.NOT_FOUND, b"", {})
        # The real service's framework answers a HEAD request with 303 instead of 302.
        status = HTTPStatus.FOUND if self.command == "GET" else HTTPStatus.SEE_OTHER
        headers = {
            "Location": self._service.cloud.resolve(files[index]["url"]),
            "OpenNebula-AppMarket-Size": str(files[index]["size"]),
        }
        return self.reply(status, b"", headers)

    def _json(self, document: JsonObject) -> None:
        with self._service.cloud.lock:
            body = self._service.cloud.resolve(json.dumps(document)).encode()
        headers = {
            "Content-Type": "application/json",
            "Cache-Control": "no-cache, no-store, must-revalidate",
        }
        self.reply(HTTPStatus.OK, body, headers)


def _versions(appliance: JsonObject) -> list[str]:
    listed = str(appliance.get("opennebula_version", "")).split(",")
    return [version.strip() for version in listed if version.strip()]
