"""The XML-RPC codec: calls to bytes, answers to values. No I/O, no threads.

Source: the XML-RPC specification as xmlrpc-c (the front-end's library) speaks it, and OpenNebula's
result array: ``[true, value, 0]`` or ``[false, message, code, ...]``, of which only the first three
elements are the same in all versions.

The encoding and the value types are the standard library's; its parser is replaced by defusedxml's,
which refuses every document type declaration, and with it entity bombs and external entities. The
library's module-wide monkey patch is not used: other code of the process keeps what it had.
"""

from __future__ import annotations

import re
from xml.parsers.expat import ExpatError
from xmlrpc.client import Error, Fault, Unmarshaller, dumps

from defusedxml.common import DefusedXmlException
from defusedxml.xmlrpc import DefusedExpatParser

from nebfs.errors import BadAnswer, UserError
from nebfs.opennebula.failures import failure
from nebfs.units import MIB, format_size

Parameter = str | int | bool
Value = str | int | bool

# 2.5 kB per app: this is room for 100,000 in one answer, and asking is by ranges of far fewer.
# Parsing takes some four times the size in memory, which is what the bound is for.
MAX_ANSWER = 256 * MIB

# Outside XML 1.0's Char production, or outside the Basic Multilingual Plane: xmlrpc-c answers a
# call that holds one of these with fault -503.
_UNSENDABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd]")

# The same in an answer. oned passes control characters of templates through as they are, and one
# of them would make the whole answer unreadable.
_CONTROLS = bytes(b for b in range(0x20) if b not in b"\t\n\r")
_NONCHARACTERS = ("\ufffe".encode(), "\uffff".encode())

# What the standard library's unmarshaller raises, besides its own Error, for elements in the wrong
# place or with the wrong content (ArithmeticError: <bigdecimal>). defusedxml's are ValueErrors.
_MISPLACED = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError)


def encode(method: str, params: tuple[Parameter, ...]) -> bytes:
    """Return the body of a call. The first parameter is the session string.

    Raises UserError for a text that cannot be sent: the front-end would answer that the call is not
    XML, which tells nobody which text was meant.
    """
    for place, param in enumerate(params):
        if isinstance(param, str) and (found := _UNSENDABLE.search(param)):
            # Parameter 0 is the session: not even one character of it belongs into a message.
            what = "the session" if place == 0 else f"parameter {place}"
            which = "a character" if place == 0 else f"the character U+{ord(found[0]):04X}"
            raise UserError(
                f"{what} of {method} holds {which} that OpenNebula's XML-RPC cannot take;"
                " emoji, other characters above U+FFFF and control characters have to go"
            )
    return dumps(params, method, encoding="utf-8").encode("utf-8")


def decode(body: bytes, *, method: str = "", secret: str = "", limit: int = MAX_ANSWER) -> Value:
    """Return the value of a successful call from the body of its answer.

    Raises the RpcError for a failed call or a fault (see failures.py), and BadAnswer for a body
    that is no XML-RPC answer, is cut off, declares a document type, or is over `limit` bytes.
    `method` and `secret` are for the error's text: the first is named, the second kept out.
    """
    if len(body) > limit:
        raise BadAnswer(
            f"the answer is larger than {format_size(limit)}", method=method, size=len(body)
        )
    try:
        values = _unmarshalled(body)
    except Fault as exc:
        code: object = exc.faultCode  # whatever type the other side sent
        number = code if isinstance(code, int) else 0
        # Not chained: the fault says nothing more, and its own text was not freed of secrets.
        raise failure(number, str(exc.faultString), method=method, secret=secret) from None
    except (ExpatError, Error, *_MISPLACED) as exc:
        # Never the exception's own text: it may repeat what the other side declared.
        raise BadAnswer(_complaint(body, exc), method=method, size=len(body)) from exc
    return _result(values, method, secret)


def _complaint(body: bytes, cause: Exception) -> str:
    if body[:256].lstrip()[:14].lower().startswith((b"<html", b"<!doctype html")):
        return "the answer is an HTML page, not XML-RPC; is this the XML-RPC endpoint?"
    if isinstance(cause, DefusedXmlException):
        return "the answer declares a document type or entities, which no front-end does"
    return "the answer is not well-formed XML-RPC"


def _unmarshalled(body: bytes) -> tuple[object, ...]:
    unmarshaller = Unmarshaller()
    parser = DefusedExpatParser(unmarshaller, forbid_dtd=True)
    clean = body.translate(None, _CONTROLS)
    for noncharacter in _NONCHARACTERS:
        clean = clean.replace(noncharacter, b"")
    parser.feed(clean)
    parser.close()
    values: tuple[object, ...] = tuple(unmarshaller.close())
    return values


def _result(values: tuple[object, ...], method: str, secret: str) -> Value:
    match values:
        case ([True, (str() | int()) as value, *_],):
            return value
        case ([False, text, int(code), *_],):
            raise failure(code, str(text), method=method, secret=secret)
        case ([False, text, *_],):
            raise failure(0, str(text), method=method, secret=secret)
        case _:
            raise BadAnswer("the answer is not OpenNebula's result array", method=method)
