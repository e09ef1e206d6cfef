"""A real container registry: Debian's docker-registry on loopback, and a token service for it.

Images are pushed with plain requests. What was sent is counted from the registry's access log.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import http.client
import io
import json
import random
import re
import signal
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

USER, PASSWORD = "bob", "canary-password"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
# bcrypt with the least work, by crypt(3): the registry takes no other kind.
HTPASSWD = f"{USER}:$2y$04$nebfsnebfsnebfsnebfsnesF6fXviDkHdb/Nm.8SUMlLfe6ZDw.ca\n"
OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."
_SENT = re.compile(r'"(?:GET|HEAD) (\S+) HTTP/1\.1" (\d+) (\d+)')


def digest(body: bytes) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()


class Registry:
    """One docker-registry; `auth` is empty, ``htpasswd`` or ``token``."""

    def __init__(self, root: Path, auth: str = "") -> None:
        self.root = root
        self.auth = auth
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.tokens: TokenService | None = None
        self.sizes: dict[str, int] = {}
        """Of the manifests that were pushed, by digest."""

    @contextlib.contextmanager
    def running(self) -> Iterator[Registry]:
        with contextlib.ExitStack() as stack:
            if self.auth == "token":
                self.tokens = stack.enter_context(TokenService(self.root).running())
            self._configure()
            log = stack.enter_context((self.root / "log").open("wb"))
            process = subprocess.Popen(
                ["docker-registry", "serve", str(self.root / "config.yml")],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            try:
                self._wait(process)
                yield self
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(10)

    def _configure(self) -> None:
        auth = ""
        if self.auth == "htpasswd":
            (self.root / "htpasswd").write_text(HTPASSWD)
            auth = f"auth: {{htpasswd: {{realm: test, path: {self.root}/htpasswd}}}}\n"
        elif self.tokens is not None:
            auth = (
                f"auth: {{token: {{realm: '{self.tokens.url}/token', service: test, "
                f"issuer: test, rootcertbundle: {self.root}/token.pem}}}}\n"
            )
        (self.root / "config.yml").write_text(
            "version: 0.1\nlog: {level: error}\n"
            f"storage: {{filesystem: {{rootdirectory: {self.root}/storage}}}}\n"
            f"http: {{addr: '127.0.0.1:{self.port}'}}\n{auth}"
        )

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert process.poll() is None, (self.root / "log").read_text()
                assert time.monotonic() < end, (self.root / "log").read_text()
                time.sleep(0.02)
            else:
                return

    def sent(self, path: str, least: int = 0) -> list[tuple[int, int]]:
        """Return the lengths of the parts that were sent of `path` until now, with their statuses.

        Waits for `least` of them: the registry writes its log after it has answered.
        """
        end = time.monotonic() + 10
        while True:
            found = _SENT.findall((self.root / "log").read_text())
            parts = [(int(s), int(n)) for where, s, n in found if where == path and s == "206"]
            if len(parts) >= least or time.monotonic() > end:
                return parts
            time.sleep(0.02)

    # --- pushing ---

    def push_blob(self, name: str, body: bytes) -> str:
        status, headers, _ = self._ask("POST", f"/v2/{name}/blobs/uploads/", name)
        assert status == 202, status
        place = urlsplit(headers["Location"])
        target = f"{place.path}?{place.query}&digest={digest(body)}"
        status, _, answer = self._ask(
            "PUT", target, name, body, {"Content-Type": "application/octet-stream"}
        )
        assert status == 201, answer
        return digest(body)

    def push_manifest(self, name: str, reference: str, document: dict[str, object]) -> str:
        body = json.dumps(document).encode()
        kind = str(document["mediaType"])
        self.sizes[digest(body)] = len(body)
        status, _, answer = self._ask(
            "PUT", f"/v2/{name}/manifests/{reference}", name, body, {"Content-Type": kind}
        )
        assert status == 201, answer
        return digest(body)

    def push(self, name: str, tag: str, layers: list[bytes], family: str = OCI) -> str:
        """Push an image of one platform; return its manifest's digest."""
        config = json.dumps({"architecture": "amd64", "os": "linux"}).encode()
        kinds = {
            OCI: ("manifest.v1+json", "config.v1+json", "layer.v1.tar+gzip"),
            DOCKER: (
                "distribution.manifest.v2+json",
                "container.image.v1+json",
                "image.rootfs.diff.tar.gzip",
            ),
        }[family]
        manifest, configuration, layer = (family + kind for kind in kinds)
        blobs = [(configuration, config), *((layer, one) for one in layers)]
        described = [
            {"mediaType": kind, "digest": self.push_blob(name, one), "size": len(one)}
            for kind, one in blobs
        ]
        return self.push_manifest(
            name,
            tag,
            {
                "schemaVersion": 2,
                "mediaType": manifest,
                "config": described[0],
                "layers": described[1:],
            },
        )

    def _ask(
        self,
        method: str,
        target: str,
        name: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        shown = dict(headers or {})
        if self.auth == "htpasswd":
            shown["Authorization"] = BASIC
        elif self.tokens is not None:
            token = self.tokens.make([f"repository:{name}:pull,push"], 60)
            shown["Authorization"] = f"Bearer {token}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, target, body, shown)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()


class TokenService:
    """Gives tokens to who shows USER and PASSWORD: JSON web tokens, signed by openssl."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = ""
        self.asked: list[dict[str, list[str]]] = []
        self.seconds = 300

    @contextlib.contextmanager
    def running(self) -> Iterator[TokenService]:
        subprocess.run(
            (
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                *("-subj", "/CN=test", "-keyout", "token.key", "-out", "token.pem"),
            ),
            cwd=self.root,
            check=True,
            capture_output=True,
        )
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                service.asked.append(query)
                if self.headers.get("Authorization") != BASIC:
                    self.send_response(401)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                token = service.make(query.get("scope", []), service.seconds)
                body = json.dumps({"token": token, "expires_in": service.seconds}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def make(self, scopes: list[str], seconds: int) -> str:
        """Return a token for `scopes` that is good for so many seconds, which may be past."""
        pem = (self.root / "token.pem").read_text()
        certificate = "".join(line for line in pem.splitlines() if "-" not in line)
        now = int(time.time())
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        claims = {
            "iss": "test",
            "sub": USER,
            "aud": "test",
            "exp": now + seconds,
            "nbf": now - 3600,
            "iat": now - 3600,
            "jti": str(random.random()),
            "access": access,
        }
        header = {"typ": "JWT", "alg": "RS256", "x5c": [certificate]}
        text = ".".join(_packed(json.dumps(part).encode()) for part in (header, claims))
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", str(self.root / "token.key")],
            input=text.encode(),
            check=True,
            capture_output=True,
        ).stdout
        return f"{text}.{_packed(signature)}"


def _packed(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def make_layer(seed: int, size: int) -> bytes:
    """Return a gzip-compressed archive with one file of `size` bytes that do not compress."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        entry = tarfile.TarInfo(f"data-{seed}")
        entry.size = size
        archive.addfile(entry, io.BytesIO(random.Random(seed).randbytes(size)))
    return gzip.compress(raw.getvalue(), compresslevel=1, mtime=0)
