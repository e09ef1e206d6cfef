"""The front-end: what oned 7.4.0 answers to the XML-RPC calls that read, as recorded from one.

Transport, envelope, error and fault texts are those of xmlrpc-c's Abyss server 1.33.14 and of oned;
the tests replay the recordings against this module. Calls that write are answered as unknown
methods: nebfs makes none.
"""

from __future__ import annotations

import functools
import threading
import time
import xmlrpc.client
from collections import Counter
from datetime import UTC, datetime
from xml.parsers import expat

from nebfs.demo.calls import METHODS, Call, FailureError, FaultError
from nebfs.demo.cloud import Cloud
from nebfs.demo.documents import wrap
from nebfs.demo.listening import Handler, Listener
from nebfs.demo.records import UserRecord

_AUTHENTICATION = 256
_METHOD_BROKE = (
    "Unexpected error executing code for particular method, detected by Xmlrpc-c method registry "
    "code.  Method did not fail; rather, it did not complete at all.  "
)
_CALL_REFUSED = "Call XML not a proper XML-RPC call.  "
# xmlrpc-c prints the lead byte 0xf0 as a signed char; that is how the recordings have it.
_NOT_IN_BMP = (
    "{count}-byte supposed UTF-8 string is not valid UTF-8.  UTF-8 string contains a character not "
    "in the Basic Multilingual Plane (first byte 0xfffffff0)"
)
_PAGE = (
    "<HTML><HEAD><TITLE>Error {status}</TITLE></HEAD><BODY><H1>Error {status}</H1><P>{text}</P>"
    '<p><HR><b><i><a href="http://xmlrpc-c.sourceforge.net">ABYSS Web Server for XML-RPC For '
    "C/C++</a></i></b> version 1.33.14<br></p></BODY></HTML>"
)
_NOT_FOUND = (
    "This XML-RPC For C/C++ Abyss XML-RPC server responds to only one URI path.  I don't know what "
    "URI path that is, but it's not the one you requested: '{path}'.  (Typically, it's '/RPC2')"
)
_NOT_POST = "POST is the only HTTP method this server understands"
_EMPTY = "According to your content-length HTTP header, your request is empty (zero length)"
_NO_LENGTH = "You must send a content-length HTTP header"


class FrontEnd:
    """Answers calls about one Cloud; counts them; can be told to be slow or to fail."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.calls: Counter[str] = Counter()
        """How often each method was called, refused calls included."""
        self.delay = 0.0
        """Seconds that every answer takes longer."""
        self.fail_next = 0
        """How many of the next requests a proxy in front would answer with 503."""
        self._guard = threading.Lock()

    def listener(self) -> Listener:
        """Return a server, not yet started, that answers for this front-end."""
        return Listener(functools.partial(_FrontEndHandler, front_end=self))

    def fails_now(self) -> bool:
        """Wait out the delay, then say whether this request is one of those to fail."""
        time.sleep(self.delay)
        with self._guard:
            failing = self.fail_next > 0
            self.fail_next -= failing
        return failing

    def answer(self, body: bytes) -> bytes:
        """Return the XML-RPC document that answers `body`; nothing is raised."""
        try:
            method, parameters = _parse(body)
            with self._guard:
                self.calls[method] += 1
            return _success(self._result(method, parameters))
        except FailureError as failure:
            return _failure(failure)
        except FaultError as fault:
            return _fault(fault)

    def _result(self, method: str, parameters: tuple[object, ...]) -> str:
        function = METHODS.get(method)
        if function is None:
            raise FaultError(-506, f"Method '{method}' not defined")
        if not parameters:
            raise FaultError(-500, _METHOD_BROKE + "Subscript of xmlrpc_c::paramList out of bounds")
        with self.cloud.lock:
            user = self._authenticate(method, parameters[0])
            result = self.cloud.resolve(function(Call(self.cloud, user, method, parameters)))
        if _outside_bmp(result):
            count = len(result.encode())
            raise FaultError(-500, _METHOD_BROKE + _NOT_IN_BMP.format(count=count))
        return result

    def _authenticate(self, method: str, session: object) -> UserRecord:
        if not isinstance(session, str):
            raise FaultError(-501, "Parameter that is supposed to be string is not")
        name, _, secret = session.partition(":")
        user = self.cloud.users.get(name)
        if user is not None:
            if secret == user.password:
                return user
            if any(t.secret == secret and t.expires > time.time() for t in user.tokens):
                return user
        raise FailureError(
            f"[{method}] User couldn't be authenticated, aborting call.", _AUTHENTICATION
        )


class _FrontEndHandler(Handler):
    server_version = "Xmlrpc-c_Abyss/1.33.14"

    def __init__(self, *args: object, front_end: FrontEnd) -> None:
        self._front_end = front_end
        super().__init__(*args)  # type: ignore[arg-type] # socketserver's own three

    def version_string(self) -> str:
        return self.server_version

    def date_time_string(self, timestamp: float | None = None) -> str:
        moment = datetime.now(UTC) if timestamp is None else datetime.fromtimestamp(timestamp, UTC)
        return moment.strftime("%a, %d %b %Y %H:%M:%S UTC")  # Abyss says UTC, not GMT

    def answer(self) -> None:
        if self.command != "POST":
            return self._page(405, _NOT_POST)
        if self.headers.get("Content-Length") is None:
            return self._page(411, _NO_LENGTH)
        body = self.body()
        if self._front_end.fails_now():
            return self._page(503, "The front-end is away for a moment")
        if self.path != "/RPC2":
            return self._page(404, _NOT_FOUND.format(path=self.path))
        if not body:
            return self._page(400, _EMPTY)
        return self._send(200, self._front_end.answer(body), "text/xml; charset=utf-8")

    def _page(self, status: int, text: str) -> None:
        self._send(status, _PAGE.format(status=status, text=text).encode(), "text/html")

    def _send(self, status: int, body: bytes, content_type: str) -> None:
        # Every answer ends its connection, asked for keep-alive or not; error pages have no length.
        self.send_response_only(status)
        self.send_header("Content-type", content_type)
        if status == 200:
            self.send_header("Content-length", str(len(body)))
        self.send_header("Connection", "close")
        self.send_header("Date", self.date_time_string())
        self.send_header("Server", self.version_string())
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _outside_bmp(text: str) -> bool:
    # The four-byte sequences of UTF-8; max() would be slower, this is one pass in C.
    return bool(text) and max(text) > "\uffff"


def _parse(body: bytes) -> tuple[str, tuple[object, ...]]:
    """Return the method and the parameters of a call; FaultError -503 in xmlrpc-c's words."""
    try:
        if b"<!DOCTYPE" in body:
            raise FaultError(-503, _CALL_REFUSED + "Call is not valid XML.  syntax error")
        parameters, method = xmlrpc.client.loads(body.decode(errors="replace"))
    except expat.ExpatError as exc:
        words = expat.ErrorString(exc.code)
        if exc.code != expat.errors.codes[expat.errors.XML_ERROR_SYNTAX]:
            words = f"Invalid XML \"content\".  Problem with token at '...': {words}"
        raise FaultError(-503, f"{_CALL_REFUSED}Call is not valid XML.  {words}") from exc
    except (xmlrpc.client.Error, ValueError, TypeError, LookupError) as exc:
        raise FaultError(-503, _CALL_REFUSED + "Call is not an XML-RPC call") from exc
    if method is None:
        raise FaultError(-503, _CALL_REFUSED + "Call is not an XML-RPC call")
    for parameter in parameters:
        if isinstance(parameter, str) and _outside_bmp(parameter):
            count = len(parameter.encode())
            raise FaultError(-503, _CALL_REFUSED + _NOT_IN_BMP.format(count=count))
    return method, tuple(parameters)


def _string(text: str) -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return wrap("string", (escaped.replace("\r", "&#x0d;"),))


def _response(inner: list[str]) -> bytes:
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', "<methodResponse>"]
    return "\r\n".join([*lines, *inner, "</methodResponse>", ""]).encode()


def _array(values: list[str]) -> bytes:
    return _response(
        [
            "<params>",
            "<param><value><array><data>",
            *(wrap("value", (value,)) for value in values),
            "</data></array></value></param>",
            "</params>",
        ]
    )


def _success(result: str) -> bytes:
    return _array(["<boolean>1</boolean>", _string(result), "<i4>0</i4>"])


def _failure(failure: FailureError) -> bytes:
    return _array(
        [
            "<boolean>0</boolean>",
            _string(failure.text),
            f"<i4>{failure.code}</i4>",
            f"<i4>{failure.object_id}</i4>",
            "<i8>-1</i8>",
        ]
    )


def _fault(fault: FaultError) -> bytes:
    return _response(
        [
            "<fault>",
            "<value><struct>",
            "<member><name>faultCode</name>",
            f"<value><i4>{fault.code}</i4></value></member>",
            "<member><name>faultString</name>",
            f"<value>{_string(fault.text)}</value></member>",
            "</struct></value>",
            "</fault>",
        ]
    )
