"""A container registry with tokens, and Docker Hub's list over the same images.

What is published on the file server below ``/v2/`` is what it has: manifests by tag and by digest,
and blobs. Manifests come from here and whole (registries give no ranges of them); a blob is a
redirect to the file server, as hosted registries redirect to a CDN, and every switch of the file
server spoils it. Both are shown only to who brings a token for that repository.
Source: the OCI distribution specification 1.1, Docker's "Token Authentication Specification" and
its ``_catalog``, and the pages of hub.docker.com's ``/v2/repositories/library/``.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qs, quote, urlsplit

from nebfs.demo.cloud import Cloud, JsonObject
from nebfs.demo.listening import Handler, Listener

SERVICE = "registry.demonstration"

_MANIFEST = re.compile(r"/v2/(.+)/manifests/([^/]+)")
_BLOB = re.compile(r"/v2/(.+)/blobs/([^/]+)")
_CATALOGUE, _HUB, _TOKEN = "/v2/_catalog", "/v2/repositories/library/", "/token"
_LISTING = "registry:catalog:*"


@dataclass(frozen=True, slots=True)
class _Grant:
    scopes: frozenset[str]
    ends: float


class ContainerRegistry:
    """Answers for `cloud.published`; counts; gives tokens to everybody, or to `users`."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.requests: Counter[str] = Counter()
        """How often each path was asked for."""
        self.users: dict[str, str] = {}
        """Passwords by name; while there are none, everybody is given tokens."""
        self.page = 2
        """Names on one page of a list, however many are asked for."""
        self.seconds = 300
        """How long a token is good, and said to be."""
        self.now: Callable[[], float] = time.monotonic
        self._grants: dict[str, _Grant] = {}
        self._guard = threading.Lock()

    def listener(self) -> Listener:
        """Return a server, not yet started, that answers for this registry."""
        return Listener(functools.partial(_RegistryHandler, registry=self))

    def revoke(self) -> None:
        """Take every token back."""
        with self._guard:
            self._grants.clear()

    def counted(self, path: str) -> None:
        """Count a request."""
        with self._guard:
            self.requests[path] += 1

    def granted(self, scopes: list[str]) -> str:
        """Return a new token for `scopes`."""
        token = secrets.token_urlsafe(32)
        with self._guard:
            self._grants[token] = _Grant(frozenset(scopes), self.now() + self.seconds)
        return token

    def admits(self, token: str, scope: str) -> bool:
        """Say whether `token` is good for `scope` now."""
        with self._guard:
            grant = self._grants.get(token)
        return grant is not None and scope in grant.scopes and self.now() < grant.ends

    def knows(self, authorization: str) -> bool:
        """Say whether an Authorization header is of one of the users."""
        pairs = (f"{name}:{password}" for name, password in self.users.items())
        known = {"Basic " + base64.b64encode(pair.encode()).decode() for pair in pairs}
        return not self.users or authorization in known

    def repositories(self) -> list[str]:
        """Return the names of all repositories, sorted."""
        with self.cloud.lock:
            found = (_MANIFEST.fullmatch(path) for path in self.cloud.published)
            return sorted({match[1] for match in found if match is not None})

    def document(self, path: str) -> bytes | None:
        """Return a manifest."""
        with self.cloud.lock:
            file = self.cloud.published.get(path)
        return file.read_bytes() if file is not None else None


class _RegistryHandler(Handler):
    server_version = "nebfs-demonstration"

    def __init__(self, *args: object, registry: ContainerRegistry) -> None:
        self._registry = registry
        super().__init__(*args)  # type: ignore[arg-type] # socketserver's own three

    def answer(self) -> None:
        if self.command == "POST":
            return self.reply(HTTPStatus.METHOD_NOT_ALLOWED, b"", {"Connection": "close"})
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        self._registry.counted(parts.path)
        manifest, blob = _MANIFEST.fullmatch(parts.path), _BLOB.fullmatch(parts.path)
        if parts.path == _TOKEN:
            return self._token(query)
        if parts.path == _HUB:
            return self._hub(query)
        if parts.path == _CATALOGUE:
            return self._catalogue(query) if self._admitted(_LISTING) else None
        repository = manifest or blob
        if repository is None:
            return self._error(HTTPStatus.NOT_FOUND, "UNSUPPORTED")
        if not self._admitted(f"repository:{repository[1]}:pull"):
            return None
        if blob is not None:
            # Not looked for: whether it is there, the CDN says.
            location = self._registry.cloud.resolve(f"{{files}}{quote(parts.path, safe='/:')}")
            return self.reply(HTTPStatus.TEMPORARY_REDIRECT, b"", {"Location": location})
        return self._manifest(parts.path)

    def _admitted(self, scope: str) -> bool:
        """Say whether the request brings a token for `scope`; if not, it has been answered."""
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        if kind == "Bearer" and self._registry.admits(token, scope):
            return True
        realm = f"http://{self.headers['Host']}{_TOKEN}"
        challenge = f'Bearer realm="{realm}",service="{SERVICE}",scope="{scope}"'
        self._error(HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED", {"WWW-Authenticate": challenge})
        return False

    def _token(self, query: dict[str, list[str]]) -> None:
        known = self._registry.knows(self.headers.get("Authorization", ""))
        if not known or query.get("service") != [SERVICE]:
            return self._error(HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED")
        token = self._registry.granted(query.get("scope", []))
        return self._json({"token": token, "expires_in": self._registry.seconds})

    def _manifest(self, path: str) -> None:
        body = self._registry.document(path)
        if body is None:
            return self._error(HTTPStatus.NOT_FOUND, "MANIFEST_UNKNOWN")
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        kind = json.loads(body).get("mediaType", "application/json")
        if kind not in self.headers.get("Accept", ""):
            return self._error(HTTPStatus.NOT_FOUND, "MANIFEST_UNKNOWN")
        headers = {
            "Content-Type": kind,
            "Docker-Content-Digest": digest,
            "ETag": f'"{digest}"',
        }
        return self.reply(HTTPStatus.OK, body, headers)

    def _catalogue(self, query: dict[str, list[str]]) -> None:
        last = query.get("last", [""])[0]
        names = [name for name in self._registry.repositories() if name > last]
        page = names[: self._registry.page]
        headers = {}
        if len(page) < len(names):
            following = f"{_CATALOGUE}?last={quote(page[-1], safe='')}&n={self._registry.page}"
            headers["Link"] = f'<{following}>; rel="next"'
        self._json({"repositories": page}, headers)

    def _hub(self, query: dict[str, list[str]]) -> None:
        names = [n for n in self._registry.repositories() if n.startswith("library/")]
        number, size = int(query.get("page", ["1"])[0]), self._registry.page
        start, stop = (number - 1) * size, number * size
        address = f"http://{self.headers['Host']}{_HUB}?page_size={size}&page="
        results = [
            {
                "name": name.removeprefix("library/"),
                "namespace": "library",
                "repository_type": "image",
                "status": 1,
                "description": "Made by `nebfs demo`",
                "is_private": False,
                "last_updated": "2026-01-01T00:00:00.000000Z",
            }
            for name in names[start:stop]
        ]
        self._json(
            {
                "count": len(names),
                "next": f"{address}{number + 1}" if stop < len(names) else None,
                "previous": f"{address}{number - 1}" if number > 1 else None,
                "results": results,
            }
        )

    def _json(self, document: JsonObject, headers: dict[str, str] | None = None) -> None:
        named = {"Content-Type": "application/json", **(headers or {})}
        self.reply(HTTPStatus.OK, json.dumps(document).encode(), named)

    def _error(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        body = json.dumps({"errors": [{"code": code, "message": code.lower()}]}).encode()
        self.reply(status, body, {"Content-Type": "application/json", **(headers or {})})
