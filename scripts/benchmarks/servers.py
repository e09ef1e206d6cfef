"""nginx with and without TLS, and the throw-away certificate authority behind it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.benchmarks.processes import Failed, run, running, wait_until
from scripts.benchmarks.toolbox import find


def certificate(home: Path, *addresses: str) -> None:
    """Make an authority (ca.pem) and a certificate for IP addresses (server.pem, server.key)."""
    names = ",".join(f"IP:{address}" for address in addresses)
    elliptic = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    authority = ("-x509", "-days", "2", "-subj", "/CN=nebfs benchmark authority")
    key = ("-keyout", home / "ca.key", "-out", home / "ca.pem")
    run("openssl", "req", *elliptic, *authority, *key)
    signed = ("-x509", "-days", "2", "-subj", "/CN=nebfs benchmark server")
    by = ("-CA", home / "ca.pem", "-CAkey", home / "ca.key")
    names_of = ("-addext", f"subjectAltName={names}", "-addext", "basicConstraints=CA:FALSE")
    key = ("-keyout", home / "server.key", "-out", home / "server.pem")
    run("openssl", "req", *elliptic, *signed, *by, *names_of, *key)


class Nginx:
    """A running nginx: where it answers, and how many bytes of a file it sent."""

    def __init__(self, address: str, port: int, tls_port: int, log: Path) -> None:
        self.address, self.port, self.tls_port = address, port, tls_port
        self._log = log

    def url(self, tls: bool = False) -> str:
        """The address of its root, without a slash at its end."""
        scheme, port = ("https", self.tls_port) if tls else ("http", self.port)
        return f"{scheme}://{self.address}:{port}"

    def sent(self) -> int:
        """Return the bytes sent until now, headers included, of the requests that have ended."""
        return sum(int(line) for line in self._log.read_text().split())


@contextmanager
def nginx(
    home: Path, root: Path, tls: Path, address: str, enter: tuple[str, ...] = ()
) -> Iterator[Nginx]:
    """Serve `root` at `address`; `tls` holds the certificate, `enter` leads into a namespace."""
    command = find("nginx")
    if command is None:
        raise Failed("nginx is missing: scripts/install-needs --tests installs it")
    home.mkdir(parents=True)
    port, tls_port = (8080, 8443) if enter else _free_ports(address)
    server = Nginx(address, port, tls_port, home / "sent.log")
    config = home / "nginx.conf"
    config.write_text(
        f"""
        worker_processes 1; daemon off; pid {home}/pid; error_log {home}/error.log; user root;
        events {{}}
        http {{
            log_format sent '$bytes_sent';
            access_log {home}/sent.log sent;
            client_body_temp_path {home}/t1; proxy_temp_path {home}/t2;
            fastcgi_temp_path {home}/t3; uwsgi_temp_path {home}/t4; scgi_temp_path {home}/t5;
            sendfile on; keepalive_requests 100000; autoindex on;
            server {{
                listen {address}:{port};
                listen {address}:{tls_port} ssl;
                ssl_certificate {tls}/server.pem; ssl_certificate_key {tls}/server.key;
                root {root};
            }}
        }}
        """
    )
    log = home / "output"
    with running([*enter, command, "-c", config, "-p", home], log) as process:
        # It writes its pid when it listens.
        wait_until((home / "pid").exists, process, log)
        yield server


def _free_ports(address: str) -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind((address, 0))
        other.bind((address, 0))
        return one.getsockname()[1], other.getsockname()[1]
