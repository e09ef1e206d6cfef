"""A front-end that answers from recordings, and one whose pools can hold poisonous objects."""

from __future__ import annotations

import re
import xmlrpc.client
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from nebfs.fetcher.messages import CallAnswer, CallRequest
from nebfs.opennebula import Caller, FrontEnd, Session

ONED = Path(__file__).parents[1] / "fixtures" / "oned"
SECRET = "canary-7f3a"
ENDPOINT = "http://one.example.com:2633/RPC2"


def success(value: str) -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\r\n<methodResponse>\r\n<params>\r\n'
        "<param><value><array><data>\r\n<value><boolean>1</boolean></value>\r\n"
        f"<value><string>{escape(value)}</string></value>\r\n<value><i4>0</i4></value>\r\n"
        "</data></array></value></param>\r\n</params>\r\n</methodResponse>\r\n"
    ).encode()


def failed(code: int, text: str) -> bytes:
    return xmlrpc.client.dumps(([False, text, code, -1, -1],), methodresponse=True).encode()


def fault(code: int, text: str) -> bytes:
    return xmlrpc.client.dumps(xmlrpc.client.Fault(code, text), methodresponse=True).encode()


class Recorded:
    """Answers a call as the recording of the same method and parameters did."""

    def __init__(self, *names: str) -> None:
        self.answers = {}
        self.calls = []
        for name in names:
            request = (ONED / f"{name}.request.xml").read_bytes()
            params, method = xmlrpc.client.loads(request)
            self.answers[method, params] = (ONED / f"{name}.response.xml").read_bytes()

    async def __call__(self, request: CallRequest) -> CallAnswer:
        params, method = xmlrpc.client.loads(request.body)
        self.calls.append((method, params))
        return CallAnswer(200, (), self.answers[method, params])


class Pool:
    """A pool of the recorded objects of `name`; an answer that would hold a `bad` id is a fault."""

    def __init__(self, name: str, tag: str, bad: tuple[int, ...] = ()) -> None:
        recorded = (ONED / f"{name}.response.xml").read_bytes()
        ((_, document, _),), _ = xmlrpc.client.loads(recorded)
        self.tag, self.bad = tag, set(bad)
        self.fault = (ONED / "fault-marketapppool.info-non-bmp-character.response.xml").read_bytes()
        found = re.findall(rf"<{tag}>.*?</{tag}>", document, re.DOTALL)
        self.objects = {int(re.search(r"<ID>(\d+)</ID>", one)[1]): one for one in found}
        self.calls = []

    def cloned(self, ids) -> Pool:
        """Hold copies of one object under `ids` instead."""
        one = next(iter(self.objects.values()))
        self.objects = {
            number: re.sub(r"<ID>\d+</ID>", f"<ID>{number}</ID>", one, count=1) for number in ids
        }
        return self

    def body(self, start: int, end: int) -> bytes:
        def wanted(number: int) -> bool:
            return number >= start and (end == -1 or number <= end)

        if any(wanted(number) for number in self.bad):
            return self.fault
        newest_first = sorted(filter(wanted, self.objects), reverse=True)
        inner = "".join(self.objects[number] for number in newest_first)
        return success(f"<{self.tag}_POOL>{inner}</{self.tag}_POOL>")

    async def __call__(self, request: CallRequest) -> CallAnswer:
        (_, filter_, start, end), _ = xmlrpc.client.loads(request.body)
        assert filter_ == -2
        self.calls.append((start, end))
        return CallAnswer(200, (), self.body(start, end))


class Kit:
    """What tests build with, in one fixture: test modules cannot import one another."""

    oned, secret, endpoint = ONED, SECRET, ENDPOINT
    success, failed, fault = staticmethod(success), staticmethod(failed), staticmethod(fault)
    Recorded, Pool = Recorded, Pool

    @staticmethod
    def caller(call, user: str = "oneadmin", secret: str = SECRET, **options) -> Caller:
        return Caller(call, ENDPOINT, Session(user, secret), **options)

    @classmethod
    def front_end(cls, call, user: str = "oneadmin", secret: str = SECRET) -> FrontEnd:
        return FrontEnd(cls.caller(call, user, secret))

    @staticmethod
    def document(name: str) -> str:
        """Return the document inside the recorded answer `name`."""
        ((_, text, _),), _ = xmlrpc.client.loads((ONED / f"{name}.response.xml").read_bytes())
        return text


@pytest.fixture
def kit() -> type[Kit]:
    return Kit
