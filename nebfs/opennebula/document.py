"""OpenNebula's XML documents: parsed once, read tolerantly.

Every element is optional (versions differ, see the decode modules), unknown ones are ignored,
numbers that are none become the default. Only what cannot be a document at all is an error.

Source: OpenNebula's XSD files of 7.4 and recordings of a real front-end. Real documents have
neither the namespace of those files nor a prolog.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypedDict
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from nebfs.errors import BadAnswer
from nebfs.model import Lock, Permissions, Template

# Not allowed in XML 1.0, yet found in template values that users or feeds supplied.
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# No size in MiB, id or time comes near 2**53; beyond it a number is damage, and would not survive
# JSON, a struct field or a time in nanoseconds further up.
_MAX_NUMBER = 1 << 53

# OpenNebula's templates have two levels: attributes, and vectors of attributes. A document nested
# deeper was not written by OpenNebula; what is below is left out instead of recursed into.
_MAX_DEPTH = 4


class MalformedDocument(BadAnswer):
    """The call succeeded and what it returned is not the document that it should be.

    Not temporary: the same objects would give the same document. Asking for fewer of them helps.
    """

    temporary = False


class Identity(TypedDict):
    """The arguments that every nebfs.model.Owned takes."""

    id: int
    name: str
    uid: int
    gid: int
    uname: str
    gname: str
    permissions: Permissions


class Node:
    """An element whose children are looked up by name; of a repeated name the first one counts."""

    __slots__ = ("_children", "element")

    def __init__(self, element: Element) -> None:
        self.element = element
        self._children: dict[str, Element] = {}
        for child in element:
            self._children.setdefault(child.tag, child)

    def __contains__(self, tag: str) -> bool:
        return tag in self._children

    def text(self, tag: str, default: str = "") -> str:
        """Return the text of the child `tag`, exactly as it is."""
        child = self._children.get(tag)
        return default if child is None else child.text or ""

    def number(self, tag: str, default: int = 0) -> int:
        """Return the whole number in the child `tag`, or `default` when there is none."""
        return _number(self.text(tag), default)

    def node(self, tag: str) -> Node | None:
        """Return the child `tag`, or None."""
        child = self._children.get(tag)
        return None if child is None else Node(child)

    def nodes(self, tag: str) -> Iterator[Node]:
        """Return all children called `tag`, in order."""
        return (Node(child) for child in self.element if child.tag == tag)

    def ids(self, tag: str) -> tuple[int, ...]:
        """Return the numbers of ``<tag><ID>1</ID><ID>2</ID></tag>``, ascending."""
        child = self._children.get(tag)
        if child is None:
            return ()
        found = (_number(entry.text or "", -1) for entry in child if entry.tag == "ID")
        return tuple(sorted({number for number in found if number >= 0}))

    def identity(self) -> Identity:
        """Who the object is and whose. Raises MalformedDocument when it has no id."""
        return Identity(
            id=self.object_id(),
            name=self.text("NAME"),
            uid=self.number("UID"),
            gid=self.number("GID"),
            uname=self.text("UNAME"),
            gname=self.text("GNAME"),
            permissions=self.permissions(),
        )

    def object_id(self) -> int:
        """Return the ID; an object without one cannot be told from another."""
        number = self.number("ID", -1)
        if number < 0:
            raise MalformedDocument("an object without an id", element=self.element.tag[:40])
        return number

    def permissions(self) -> Permissions:
        """Return PERMISSIONS/{OWNER,GROUP,OTHER}_{U,M,A}."""
        bits = self.node("PERMISSIONS")
        if bits is None:
            return Permissions()

        def sum_of(who: str) -> int:
            kinds = (("U", 4), ("M", 2), ("A", 1))
            return sum(weight for kind, weight in kinds if bits.text(f"{who}_{kind}") == "1")

        return Permissions(sum_of("OWNER"), sum_of("GROUP"), sum_of("OTHER"))

    def lock(self) -> Lock | None:
        """Return the user's lock, which is there only while it is held."""
        lock = self.node("LOCK")
        if lock is None or not lock.number("LOCKED"):
            return None
        return Lock(lock.number("LOCKED"), lock.number("OWNER", -1), lock.number("TIME"))

    def template(self, tag: str = "TEMPLATE") -> Template:
        """Return the child `tag` as a Template: order and repeated keys kept."""
        child = self._children.get(tag)
        return Template() if child is None else _template(child, _MAX_DEPTH)


def parse(document: str, *expected: str) -> Node:
    """Return the root of `document`, whose name must be one of `expected`.

    Raises MalformedDocument, also for any document type declaration (entity bombs need one).
    """
    try:
        root = _parsed(document)
    except DefusedXmlException as exc:
        raise MalformedDocument("a document with a document type declaration") from exc
    except (ParseError, ValueError) as exc:
        raise MalformedDocument(
            "a document that is not well-formed XML", expected=expected
        ) from exc
    if root.tag not in expected:
        raise MalformedDocument("another document", expected=expected, got=root.tag[:40])
    return Node(root)


def objects(document: str, tag: str) -> Iterator[Node]:
    """Return the objects called `tag` of a pool (``<TAG_POOL>``), or the single one (``<TAG>``)."""
    root = parse(document, f"{tag}_POOL", tag)
    return iter((root,)) if root.element.tag == tag else root.nodes(tag)


def _parsed(document: str) -> Element:
    try:
        root: Element = fromstring(document, forbid_dtd=True)
    except (ParseError, UnicodeEncodeError):
        # Cleaning first would cost every good document a pass; almost none needs it.
        root = fromstring(_ILLEGAL.sub("", document), forbid_dtd=True)
    return root


def _template(element: Element, depth: int) -> Template:
    return Template(
        tuple(
            (child.tag, _template(child, depth - 1) if len(child) and depth else child.text or "")
            for child in element
        )
    )


def _number(text: str, default: int) -> int:
    try:
        number = int(text)
    except ValueError:
        return default
    return number if abs(number) <= _MAX_NUMBER else default
