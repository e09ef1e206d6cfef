"""A threaded HTTP server on loopback that starts quickly and stops with connections open."""

from __future__ import annotations

import socket
import socketserver
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

STOP_TIMEOUT = 5.0
"""Seconds that close() waits for handlers: each ends as soon as its socket is shut down."""


class Listener(ThreadingHTTPServer):
    """Serve `handler` on an ephemeral loopback port until close() is called."""

    daemon_threads = True
    block_on_close = False  # close() below waits by itself, and for a bounded time
    request_queue_size = 128

    def __init__(self, handler: Callable[..., BaseHTTPRequestHandler]) -> None:
        self._connections: set[Any] = set()
        self._quiet = threading.Condition()
        self._thread: threading.Thread | None = None
        self.failures: list[BaseException] = []
        """What handlers raised by mistake; broken connections are not among it."""
        super().__init__(("127.0.0.1", 0), handler)

    @property
    def url(self) -> str:
        """The server's address without a slash at its end."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def start(self) -> None:
        """Begin to answer, in a thread."""
        # The default polling interval of 0.5 s is what a stop would take.
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop answering, break every open connection and wait for the handlers to end."""
        if self._thread is not None:
            self.shutdown()
            self._thread.join(STOP_TIMEOUT)
            self._thread = None
        self.server_close()
        self.break_connections()
        with self._quiet:
            self._quiet.wait_for(lambda: not self._connections, STOP_TIMEOUT)

    def break_connections(self) -> None:
        """Cut every open connection, as a restarted server or a failing network does."""
        with self._quiet:
            for connection in self._connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # the client was faster

    def server_bind(self) -> None:
        """Bind without the reverse name look-up of HTTPServer, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection until it is closed."""
        with self._quiet:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        super().shutdown_request(request)
        with self._quiet:
            self._connections.discard(request)
            self._quiet.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep what went wrong; a client that went away is nothing wrong."""
        failure = sys.exception()
        if failure is None or isinstance(failure, (ConnectionError, TimeoutError)):
            return
        self.failures.append(failure)
        super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """What the handlers of all three servers have in common."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a small answer must not wait for an acknowledgement
    timeout = 60.0  # an idle keep-alive connection is given up after a minute

    def answer(self) -> None:
        """Answer one request of any method, told by `self.command`."""
        raise NotImplementedError

    def do_GET(self) -> None:
        """Answer a GET request."""
        self.answer()

    def do_HEAD(self) -> None:
        """Answer a HEAD request."""
        self.answer()

    def do_POST(self) -> None:
        """Answer a POST request."""
        self.answer()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Say nothing: the servers count, they do not log."""

    def body(self) -> bytes:
        """Return the request's body; empty without a Content-Length."""
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Send a whole answer; a HEAD request gets its headers only."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
