"""Where the images of a driver are that nebfs does not know, as the administrator has written it.

A mapping is a path or an address with placeholders: ``file:///dev/storpool/{source_base}``,
``https://gw.example/{id}``, ``sftp://user@host/srv/{source}``. What is put in for a placeholder
comes from OpenNebula's database: it fills a component of a path, and never leads out of it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from nebfs.model import Datastore, Image

PLACEHOLDERS = ("id", "name", "source", "source_base", "datastore_id", "datastore")
SCHEMES = ("file", "http", "https", "sftp")

_TELLING = {"id", "name", "source", "source_base"}
"""What tells the images of one datastore apart."""

_PIECE = re.compile(r"\{([^{}]*)\}")
_HOST = re.compile(r"([\w.$-]+@)?(\[[0-9A-Fa-f:.%]+\]|[\w.-]+)(:[0-9]{1,5})?", re.ASCII)
_LONGEST = 4095
"""PATH_MAX without its NUL: bytes."""


class Unfit(ValueError):
    """What an image has cannot be put into the template; the text says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """A mapping that was read: what it names, `host` with a user before it, and the rest."""

    scheme: str
    host: str
    path: str
    query: str = ""

    @classmethod
    def of(cls, text: str) -> Place:
        """Read a mapping. Raises ValueError with what is wrong; it never repeats `text`, which may
        hold a password.
        """
        scheme, colon, rest = text.partition("://")
        if not colon:
            scheme, rest = "file", text
        if scheme not in SCHEMES:
            raise ValueError(f"write file:///path, {', '.join(f'{s}://' for s in SCHEMES[1:])}...")
        host, slash, path = rest.partition("/")
        path, mark, query = (slash + path).partition("?")
        used = _PIECE.findall(rest)
        for name in used:
            if name not in PLACEHOLDERS:
                known = ", ".join(f"{{{one}}}" for one in PLACEHOLDERS)
                raise ValueError(f"{{{name}}} is no placeholder; there are {known}")
        if set(_PIECE.sub("", text)) & set("{}"):
            raise ValueError("a brace belongs to no placeholder")
        if not text.isprintable() or "#" in text:
            raise ValueError("there is a character in it that has no place in an address")
        if not _TELLING.intersection(used):
            raise ValueError("nothing in it tells images apart: it needs {id} or {source_base}")
        made = cls(scheme, host, path, query)
        made._check_place(bool(mark))
        return made

    def _check_place(self, queried: bool) -> None:
        if self.scheme == "file":
            if self.host or not self.path.startswith("/"):
                raise ValueError("a file needs an absolute path: file:///directory/{source_base}")
        elif not _HOST.fullmatch(self.host):
            raise ValueError("the host must be named, without placeholders and without a password")
        elif self.scheme != "sftp" and "@" in self.host:
            raise ValueError("a user has no place in it: write it into the credentials_file")
        if _climbs(self.path):
            raise ValueError("its path may have no component . or ..")
        if self.scheme in {"file", "sftp"}:
            if queried:
                raise ValueError("a path has no ? in it")
            if self.directory == "/":
                raise ValueError("it must begin with a directory that all of the images are in")

    @property
    def directory(self) -> str:
        """The directory that does not depend on the image, and that nothing leads out of."""
        return posixpath.dirname(self.path.partition("{")[0]).rstrip("/") or "/"

    def path_of(self, image: Image, datastore: Datastore) -> str:
        """Return the path of an image, below `directory` as text. Raises Unfit."""
        values = _values(image, datastore)
        path = _PIECE.sub(lambda found: _component(found[1], values), self.path)
        if _climbs(path):
            raise Unfit("its record has .. in it")
        path = posixpath.normpath(re.sub("/{2,}", "/", path))
        if not path.startswith(f"{self.directory}/") or path == self.directory:
            raise Unfit("its record leads out of the directory of the mapping")
        if len(path.encode("utf-8", "surrogatepass")) > _LONGEST:
            raise Unfit("its record is too long for a path")
        if self.scheme == "sftp" and set(path) & set("?#"):
            raise Unfit("its record has a ? or # in it")
        return path

    def url_of(self, image: Image, datastore: Datastore) -> str:
        """Return the address of an image, for HTTP. Raises Unfit."""
        values = _values(image, datastore)
        path = _PIECE.sub(
            lambda found: quote(_component(found[1], values), safe="/", errors="surrogatepass"),
            self.path,
        )
        if _climbs(path):
            raise Unfit("its record has .. in it")
        query = _PIECE.sub(
            lambda found: quote(_value(found[1], values), safe="", errors="surrogatepass"),
            self.query,
        )
        url = f"{self.scheme}://{self.host}{path}{f'?{query}' if query else ''}"
        if len(url) > 2 * _LONGEST:
            raise Unfit("its record is too long for an address")
        return url


def _values(image: Image, datastore: Datastore) -> dict[str, str]:
    source = image.source.strip()
    source = "" if source == "-" else source
    return {
        "id": str(image.id),
        "name": image.name,
        "source": source,
        "source_base": source.rstrip("/").rpartition("/")[2],
        "datastore_id": str(datastore.id),
        "datastore": datastore.name,
    }


def _value(name: str, values: Mapping[str, str]) -> str:
    value = values[name]
    if not value:
        raise Unfit(f"OpenNebula's record of the image has nothing for {{{name}}}")
    if not value.isprintable():
        raise Unfit(f"its {name} has control characters in it")
    return value


def _component(name: str, values: Mapping[str, str]) -> str:
    value = _value(name, values)
    if name == "source":
        return value.lstrip("/")
    if "/" in value:
        raise Unfit(f"its {name} has a / in it")
    return value


def _climbs(path: str) -> bool:
    return any(part in {".", ".."} for part in path.split("/"))
