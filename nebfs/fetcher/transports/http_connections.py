"""HTTP connections: the pool, proxies, redirects, who may see secrets, failures named by cause.

Our own loop around redirects, because aiohttp's would send headers of a locator on to other hosts
and lets a redirect leave http. Our own choice of the proxy, because aiohttp's looks it up in a
thread for every request and reads ~/.netrc on the way.
"""

from __future__ import annotations

import base64
import contextlib
import io
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.request import getproxies_environment, proxy_bypass

import aiohttp
from yarl import URL

from nebfs.errors import BadAnswer, NebfsError, Refused, Unreachable, Unsupported
from nebfs.fetcher.access import Accesses
from nebfs.fetcher.access import load as load_accesses
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports.http_private import EVERYWHERE, Private
from nebfs.model import without_credentials

READ_BUFFER = 1 << 20
"""aiohttp stops reading a socket at twice this. Its default of 64 KiB is less than what asyncio
receives at once (256 KiB), so that it would stop and go on for every chunk."""

KEEP_ALIVE = 30.0
"""Seconds that an idle connection is kept: below the 60 to 75 at which common servers hang up."""

DNS_CACHE = 60
"""Seconds that a resolved name is believed."""

MAX_REDIRECTS = 10

REDIRECTS = frozenset((301, 302, 303, 307, 308))
_PLAIN = re.compile(r"[\x21-\x7e]+")
# What a locator's headers may tell to a host that a redirect leads to: nothing that identifies.
_PUBLIC = frozenset(("accept", "accept-language", "content-type", "user-agent"))
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Target:
    """One address to ask, without credentials, and the headers that its host may see."""

    url: URL
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def shown(self) -> str:
        """The address as it may be logged."""
        return without_credentials(str(self.url))


def parse_url(text: str) -> URL:
    """Read an http(s) address; one that is plain ASCII goes out as it is. Raises BadAnswer."""
    try:
        url = URL(text, encoded=_PLAIN.fullmatch(text) is not None)
        valid = url.scheme in _DEFAULT_PORTS and bool(url.host) and url.port is not None
    except ValueError as exc:
        raise BadAnswer("an address is malformed") from exc
    if not valid:
        raise BadAnswer("an address is not of http or https", scheme=url.scheme)
    return url


def first_target(address: str, headers: tuple[tuple[str, str], ...] = ()) -> Target:
    """Turn an address as a person or a feed wrote it into a target; userinfo is Basic auth."""
    url = parse_url(address)
    if url.user is not None or url.password is not None:
        pair = f"{url.user or ''}:{url.password or ''}".encode()
        headers = (*headers, ("Authorization", "Basic " + base64.b64encode(pair).decode()))
    return Target(url.with_user(None).with_fragment(None), headers)


def next_target(target: Target, location: str) -> Target:
    """Follow a Location header; headers that identify stay with their host. Raises BadAnswer."""
    try:
        reference = URL(location, encoded=_PLAIN.fullmatch(location) is not None)
        joined = str(target.url.join(reference))
    except ValueError as exc:
        raise BadAnswer("a redirect leads to a malformed address", url=target.shown) from exc
    following = first_target(joined)
    if _same_place(target.url, following.url):
        if any(name == "Authorization" for name, _ in following.headers):
            kept = tuple(h for h in target.headers if h[0].lower() != "authorization")
            return Target(following.url, kept + following.headers)
        return Target(following.url, target.headers)
    public = tuple((name, text) for name, text in target.headers if name.lower() in _PUBLIC)
    return Target(following.url, public + following.headers)


def _same_place(old: URL, new: URL) -> bool:
    if old.host != new.host:
        return False
    if (old.scheme, old.port) == (new.scheme, new.port):
        return True
    return (old.scheme, old.port, new.scheme, new.port) == ("http", 80, "https", 443)


class Connections:
    """A pool of kept connections, opened with the first request."""

    def __init__(self, settings: FetcherSettings) -> None:
        """Raises UserError when the file of credentials cannot be used."""
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._contexts: dict[tuple[str, str, str], ssl.SSLContext] = {}
        path = settings.credentials_file
        self.accesses = load_accesses(path) if path else Accesses({})
        """What is shown to whom."""
        self._proxies = getproxies_environment() if settings.trust_env else {}
        self.fetch_timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=settings.connect_timeout, sock_read=settings.stall_timeout
        )
        self.call_timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=settings.connect_timeout, sock_read=None
        )

    async def aclose(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def follow(
        self,
        method: str,
        target: Target,
        headers: Mapping[str, str],
        *,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - settings of the library, not a deadline
        body: bytes = b"",
        private: Private = EVERYWHERE,
    ) -> tuple[aiohttp.ClientResponse, Target]:
        """Ask `target`, follow redirects; return the answer, to be closed, and who gave it.

        `headers` go to every host. A body is never sent to another host than it was meant for.
        `private` says where none of it may lead. Raises Unreachable, BadAnswer, Refused (a proxy,
        or `private`) or Unsupported.
        """
        for _ in range(MAX_REDIRECTS + 1):
            await self._vet(target, private)
            response = await self._ask(method, target, headers, timeout, body)
            location = response.headers.get("Location", "")
            if response.status not in REDIRECTS or not location:
                return response, target
            response.release()
            following = next_target(target, location)
            if response.status == 303 or (response.status in (301, 302) and method == "POST"):
                method, body = ("HEAD" if method == "HEAD" else "GET"), b""
            if body and not _same_place(target.url, following.url):
                raise BadAnswer(
                    "a request with a body was redirected to another host, and not sent there",
                    url=target.shown,
                    to=following.shown,
                )
            target = self.authorized(following)
        raise BadAnswer("too many redirects", url=target.shown)

    def authorized(self, target: Target) -> Target:
        """Add what the file of credentials says for this address, unless it is known better."""
        shown = self.accesses.of(str(target.url)).authorization
        if not shown or any(name.lower() == "authorization" for name, _ in target.headers):
            return target
        return Target(target.url, (*target.headers, ("Authorization", shown)))

    async def _vet(self, target: Target, private: Private) -> None:
        if private is not EVERYWHERE:
            with network_failures(target.shown, self._settings):
                await private.vet(target.url, proxied=self.proxy_of(target.url) is not None)

    async def _ask(
        self,
        method: str,
        target: Target,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - as above
        body: bytes,
    ) -> aiohttp.ClientResponse:
        session = self._session or self._open()
        proxy = self.proxy_of(target.url)
        with network_failures(target.shown, self._settings):
            return await session.request(
                method,
                target.url,
                headers={**headers, **dict(target.headers)},
                data=io.BytesIO(body) if body else None,
                proxy=proxy,
                ssl=self.tls(target.url),
                timeout=timeout,
                allow_redirects=False,
            )

    def tls(self, url: URL) -> ssl.SSLContext:
        """Return the context for https connections to `url`. Raises Unsupported."""
        files = self.accesses.of(str(url)).certificates
        context = self._contexts.get(files)
        if context is None:
            context = self._contexts[files] = self._make_context(*files)
        return context

    def _make_context(self, authorities: str, certificate: str, key: str) -> ssl.SSLContext:
        authorities = authorities or self._settings.ca_file
        try:
            context = ssl.create_default_context(cafile=authorities or None)
        except OSError as exc:  # SSLError is one
            raise Unsupported(
                "the file of certificate authorities cannot be used",
                file=authorities,
                reason=str(exc),
            ) from exc
        if certificate or key:
            try:
                # Without a password at hand OpenSSL would ask for one on the terminal.
                context.load_cert_chain(certificate or key, key or None, password="")
            except (OSError, ValueError) as exc:
                raise Unsupported(
                    "the client certificate cannot be used", file=certificate, reason=str(exc)
                ) from exc
        return context

    def _open(self) -> aiohttp.ClientSession:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                limit_per_host=self._settings.connections_per_host,
                keepalive_timeout=KEEP_ALIVE,
                ttl_dns_cache=DNS_CACHE,
            ),
            headers={"User-Agent": self._settings.user_agent, "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=READ_BUFFER,
        )
        return self._session

    def proxy_of(self, url: URL) -> URL | None:
        """Return the proxy that `url` is to be asked through. Raises Unsupported."""
        text = self.accesses.of(str(url)).proxy
        if text == "none" or not url.host:
            return None
        if not text:
            text = self._proxies.get(url.scheme) or self._proxies.get("all") or ""
            if not text or proxy_bypass(f"{url.host}:{url.port}", self._proxies):
                return None
        try:
            proxy = URL(text if "://" in text else f"http://{text}")
        except ValueError as exc:
            raise Unsupported("the address of the proxy is malformed") from exc
        if proxy.scheme not in _DEFAULT_PORTS:
            raise Unsupported("only http proxies are supported", scheme=proxy.scheme)
        return proxy


@contextlib.contextmanager
def network_failures(url: str, settings: FetcherSettings) -> Iterator[None]:
    """Turn what aiohttp raises into our own failures, with the cause in words and `url` shown."""
    try:
        yield
    except (aiohttp.ClientError, OSError, ValueError) as exc:
        raise _failure(exc, url, settings) from exc


def connect_failure(exc: Exception, url: str, settings: FetcherSettings) -> NebfsError:
    """Say why asyncio could not make a connection."""
    match exc:
        case TimeoutError():
            return Unreachable("no connection in time", after=settings.connect_timeout, url=url)
        case socket.gaierror() | UnicodeError():
            return Unreachable("the server's name could not be resolved", url=url)
        case ssl.SSLCertVerificationError():
            reason = exc.verify_message or "certificate"
            return Unreachable("the server's certificate is not trusted", reason=reason, url=url)
        case ssl.SSLError():
            return Unreachable("TLS failed", reason=exc.reason or exc.strerror, url=url)
        case OSError():
            return Unreachable("could not connect", reason=_reason(exc), url=url)
        case _:
            return Unreachable("could not connect", reason=type(exc).__name__, url=url)


def _failure(exc: Exception, url: str, settings: FetcherSettings) -> NebfsError:
    # From the special to the general: aiohttp's failures inherit from each other.
    match exc:
        case aiohttp.ClientConnectorDNSError() | socket.gaierror() | UnicodeError():
            return Unreachable("the server's name could not be resolved", url=url)
        case aiohttp.ClientConnectorCertificateError():
            reason = getattr(exc.certificate_error, "verify_message", "") or "certificate"
            return Unreachable("the server's certificate is not trusted", reason=reason, url=url)
        case aiohttp.ClientSSLError():
            return Unreachable("TLS failed", reason=exc.os_error.strerror, url=url)
        case aiohttp.ClientProxyConnectionError():
            return Unreachable(
                "could not connect to the proxy", reason=_reason(exc.os_error), url=url
            )
        case aiohttp.ClientConnectorError():
            return Unreachable("could not connect", reason=_reason(exc.os_error), url=url)
        case aiohttp.ConnectionTimeoutError():
            return Unreachable("no connection in time", after=settings.connect_timeout, url=url)
        case aiohttp.SocketTimeoutError():
            return Unreachable("the server fell silent", after=settings.stall_timeout, url=url)
        case aiohttp.ServerDisconnectedError():
            return Unreachable("the server closed the connection without an answer", url=url)
        case aiohttp.ClientPayloadError():
            return Unreachable("the answer broke off", url=url)
        case aiohttp.ClientHttpProxyError(status=407):
            return Refused("the proxy refuses access", url=url)
        case aiohttp.ClientHttpProxyError():
            return Unreachable("the proxy could not connect", status=exc.status, url=url)
        case aiohttp.ClientResponseError():
            return BadAnswer("the answer is not HTTP", url=url)
        case OSError():
            return Unreachable("the connection broke", reason=_reason(exc), url=url)
        case ValueError():
            # A header with a line break, an address that cannot be sent.
            return BadAnswer("the request cannot be written as HTTP", url=url)
        case _:
            return Unreachable("the request failed", reason=type(exc).__name__, url=url)


def _reason(exc: OSError) -> str:
    return exc.strerror or type(exc).__name__
