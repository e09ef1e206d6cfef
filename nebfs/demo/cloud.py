"""The demonstration's world as data, and the changes that a world goes through.

A Cloud is what three servers look at: objects by id, users by name, the appliances that a public
marketplace's REST service would know, and which URL path of the file server is which file. Hold
`lock` while you change records by hand; the methods here do it themselves.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from nebfs.demo.records import (
    AppRecord,
    DatastoreRecord,
    ImageRecord,
    MarketplaceRecord,
    UserRecord,
    ZoneRecord,
)
from nebfs.errors import Missing
from nebfs.model import AppState, ImageState, Template

OUTSIDE_BMP = "\N{GRINNING FACE}"
"""One such character in an app's name makes oned fail the whole pool's answer."""

JsonObject = dict[str, Any]
_T = TypeVar("_T")


@dataclass(slots=True)
class Cloud:
    """Everything that the servers show."""

    version: str = "7.4.0"
    marketplaces: dict[int, MarketplaceRecord] = field(default_factory=dict)
    apps: dict[int, AppRecord] = field(default_factory=dict)
    datastores: dict[int, DatastoreRecord] = field(default_factory=dict)
    images: dict[int, ImageRecord] = field(default_factory=dict)
    zones: dict[int, ZoneRecord] = field(default_factory=dict)
    users: dict[str, UserRecord] = field(default_factory=dict)
    appliances: dict[str, JsonObject] = field(default_factory=dict)
    """By appliance id, in the order of the catalogue."""
    published: dict[str, Path] = field(default_factory=dict)
    """URL path on the file server (decoded, with its first slash) to the file behind it."""
    objects: dict[str, Path] = field(default_factory=dict)
    """``/BUCKET/KEY`` in the object store (decoded) to the file behind it."""
    origins: dict[str, str] = field(default_factory=dict)
    """``front_end``, ``appliances``, ``files``, ``objects``, ``registry``: the running servers'
    URLs; ``registry_host`` is the last one's without a scheme."""
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def resolve(self, text: str) -> str:
        """Put the running servers' addresses in the place of ``{front_end}`` and its kind."""
        for name, url in self.origins.items():
            text = text.replace(f"{{{name}}}", url)
        return text

    def app(self, app_id: int) -> AppRecord:
        """Return an app's record to be changed; Missing if there is none."""
        return _known(self.apps, app_id, "app")

    def image(self, image_id: int) -> ImageRecord:
        """Return an image's record to be changed; Missing if there is none."""
        return _known(self.images, image_id, "image")

    def add_app(self, record: AppRecord) -> AppRecord:
        """Add an app to the marketplace that it names."""
        with self.lock:
            market = _known(self.marketplaces, record.marketplace_id, "marketplace")
            record.marketplace = market.name
            self.apps[record.id] = record
        return record

    def add_image(self, record: ImageRecord) -> ImageRecord:
        """Add an image to the datastore that it names."""
        with self.lock:
            record.datastore = _known(self.datastores, record.datastore_id, "datastore").name
            self.images[record.id] = record
        return record

    def remove_app(self, app_id: int) -> None:
        """Forget an app; the bytes that it pointed at stay published."""
        with self.lock:
            del self.apps[self.app(app_id).id]

    def remove_image(self, image_id: int) -> None:
        """Forget an image; its file stays where it is."""
        with self.lock:
            del self.images[self.image(image_id).id]

    def rename_app(self, app_id: int, name: str) -> None:
        """Give an app another name. Nothing is refused: a public feed may hold any name."""
        with self.lock:
            self.app(app_id).name = name

    def rename_image(self, image_id: int, name: str) -> None:
        """Give an image another name, allowed by oned or not."""
        with self.lock:
            self.image(image_id).name = name

    def poison_app(self, app_id: int) -> None:
        """Put a character outside the BMP into an app's name: the pool's call fails from now on."""
        self.rename_app(app_id, f"{self.app(app_id).name} {OUTSIDE_BMP}")

    def set_app_state(self, app_id: int, state: AppState, error: str = "") -> None:
        """Change an app's state; an ERROR's reason goes into its template, as oned does it."""
        with self.lock:
            record = self.app(app_id)
            record.state = state
            record.template = _with(record.template, "ERROR", error)

    def set_image_state(self, image_id: int, state: ImageState, error: str = "") -> None:
        """Change an image's state; LOCKED and ERROR take its SOURCE away as oned does."""
        with self.lock:
            record = self.image(image_id)
            record.state = state
            if state in (ImageState.LOCKED, ImageState.ERROR):
                record.source = ""
            record.template = _with(record.template, "ERROR", error)

    def set_password(self, user: str, password: str) -> None:
        """Change a user's password: sessions with the old one are refused from now on."""
        with self.lock:
            self.users[user].password = password

    def disable_marketplace(self, marketplace_id: int) -> None:
        """Disable a marketplace. oned then drops every app record of it, private ones too."""
        with self.lock:
            _known(self.marketplaces, marketplace_id, "marketplace").enabled = False
            for app in [a for a in self.apps.values() if a.marketplace_id == marketplace_id]:
                del self.apps[app.id]

    def publish(self, url_path: str, file: Path) -> None:
        """Serve `file` under `url_path`, from now on; whatever was there is replaced."""
        with self.lock:
            self.published[url_path] = file

    def replace_app_content(self, app_id: int, file: Path, version: str) -> None:
        """Publish other bytes for an app: same id and URLs, new MD5 and VERSION.

        This is what the next monitoring round makes of a new version in a public feed. The app's
        SOURCE must be on the file server or in the appliance service; `file` is read once.
        """
        with self.lock:
            record = self.app(app_id)
            md5, sha256 = digests(file)
            appliance = self.appliances.get(record.template.get("IMPORT_ID"))
            if appliance is None:
                url = record.source
            else:
                first = appliance["files"][0]
                first["checksum"] = {"md5": md5, "sha256": sha256}
                first["md5"] = md5
                appliance["version"] = version
                url = first["url"]
            self.publish(url.removeprefix("{files}"), file)
            record.md5, record.version = md5, version

    def app_ids(self, marketplace_id: int) -> list[int]:
        """Return the ids in a marketplace, ascending, as its document lists them."""
        return sorted(a.id for a in self.apps.values() if a.marketplace_id == marketplace_id)

    def image_ids(self, datastore_id: int) -> list[int]:
        """Return the ids in a datastore, ascending, as its document lists them."""
        return sorted(i.id for i in self.images.values() if i.datastore_id == datastore_id)


def digests(file: Path) -> tuple[str, str]:
    """Return a file's MD5 and SHA-256, read once."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            md5.update(chunk)
            sha256.update(chunk)
    return md5.hexdigest(), sha256.hexdigest()


def _known(table: dict[int, _T], number: int, kind: str) -> _T:
    try:
        return table[number]
    except KeyError as exc:
        raise Missing(f"the demonstration has no such {kind}", id=number) from exc


def _with(template: Template, key: str, value: str) -> Template:
    """Return `template` with `key` set to `value`, or without it when the value is empty."""
    others = [item for item in template if item[0] != key]
    if value:
        others.append((key, value))
    return Template(tuple(sorted(others, key=lambda item: item[0])))
