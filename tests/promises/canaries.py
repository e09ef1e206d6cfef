"""Secrets that hold one word, in every place that takes one, and the search for that word."""

from __future__ import annotations

import base64

from nebfs.demo.catalogue import attributes
from nebfs.demo.cloud import Cloud
from nebfs.demo.records import (
    AppRecord,
    DatastoreRecord,
    ImageRecord,
    MarketplaceRecord,
    UserRecord,
    ZoneRecord,
)
from nebfs.model import Permissions, Template

WORD = "canary"
NOWHERE = "127.0.0.1:9"
"""Nobody listens on the port for discarding: whatever is kept there is asked for, and fails."""

USABLE = Permissions(7, 4, 4)


def secret(what: str) -> str:
    """Return a secret that says where it was seen, with what looks different in a URL."""
    return f"{WORD}+{what}/é"


def plain(what: str) -> str:
    """Return one that may stand in a URL, a header or an INI file as it is."""
    return f"{WORD}-{what}"


def seen_in(text: str | bytes) -> list[str]:
    """Return where the word is in `text`, each with what is around it."""
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    at = [text.lower().find(WORD), *(text.find(form) for form in _in_base64())]
    return [text[max(0, a - 60) : a + 60] for a in at if a >= 0]


def _in_base64() -> list[str]:
    """Return what of the word is the same in base64 whatever is around it, for each alignment."""
    whole = [base64.b64encode(b"?" * n + WORD.encode()).decode() for n in range(3)]
    kept = [(0, 8), (2, 9), (3, 10)]  # letters that hold no bit of a neighbour
    return [text[a:b] for text, (a, b) in zip(whole, kept, strict=True)]


def of(kind: str) -> Template:
    """Return attributes of each kind that may not be shown, as people write them."""
    return attributes(
        PASSWORD=secret(f"{kind}-password"),
        API_TOKEN=plain(f"{kind}-token"),
        SSH_PRIVATE_KEY=plain(f"{kind}-ssh"),
        LOOK_AT=f"https://{plain('u')}:{plain(kind)}@h/p?sig={plain(f'{kind}-query')}",
    )


def cloud(store: str) -> Cloud:
    """Return a cloud whose objects hold secrets wherever OpenNebula has them.

    App 1 can be read: its `source` is to be set. App 2 is kept nowhere.
    """
    made = Cloud()
    made.zones[0] = ZoneRecord(0, "OpenNebula", template=attributes(ENDPOINT="{front_end}/RPC2"))
    made.users["oneadmin"] = UserRecord(
        0, "oneadmin", secret("session"), gid=0, gname="oneadmin", groups=(0,)
    )
    for number, (driver, told) in enumerate(MARKETPLACES.items()):
        made.marketplaces[number] = MarketplaceRecord(
            number, f"of {driver}", permissions=USABLE, driver=driver,
            template=with_more(of("market"), MARKET_MAD=driver, **told),
        )  # fmt: skip
    away = f"http://{plain('u')}:{plain('away')}@{NOWHERE}/x?X-Amz-Signature={plain('signed')}"
    for number, source in ((1, ""), (2, away)):
        made.add_app(
            AppRecord(
                number, f"app {number}", permissions=USABLE, source=source, size_mb=1,
                format="raw", template=with_more(of("app"), TYPE="IMAGE"),
            )
        )  # fmt: skip
    for number, (driver, told) in enumerate(DATASTORES.items()):
        made.datastores[number] = DatastoreRecord(
            number, f"of {driver}", permissions=USABLE, driver=driver, base_path=store,
            transfer=driver if driver != "fs" else "local",
            template=with_more(of("datastore"), DS_MAD=driver, TM_MAD=driver, TYPE="IMAGE_DS",
                               **told),
        )  # fmt: skip
        image = ImageRecord(
            number, f"image {number}", datastore_id=number, permissions=USABLE, format="raw",
            source=f"{store}/{number}", size_mb=1, template=of("image"),
        )  # fmt: skip
        made.add_image(image)
    return made


def with_more(template: Template, **more: str) -> Template:
    return Template((*template.items, *more.items()))


MARKETPLACES = {
    "http": {"BASE_URL": f"http://u:{plain('base')}@{NOWHERE}/", "PUBLIC_DIR": "/nowhere"},
    "s3": {
        "ACCESS_KEY_ID": plain("s3-id"),
        "SECRET_ACCESS_KEY": plain("s3-secret"),
        "BUCKET": "b",
        "ENDPOINT": f"http://{NOWHERE}",
    },
    "docker_registry": {"BASE_URL": f"http://u:{plain('registry')}@{NOWHERE}/"},
    "linuxcontainers": {"ENDPOINT": f"http://u:{plain('containers')}@{NOWHERE}/?k={plain('key')}"},
}

DATASTORES = {
    "fs": {},
    "netapp": {"NETAPP_HOST": NOWHERE, "NETAPP_USER": "u", "NETAPP_PASS": plain("netapp")},
    "purefa": {"PUREFA_HOST": NOWHERE, "PUREFA_API_TOKEN": plain("purefa")},
    "vcenter": {"VCENTER_HOST": NOWHERE, "VCENTER_USER": "u", "VCENTER_PASSWORD": plain("vc")},
    "ceph": {"CEPH_HOST": NOWHERE, "POOL_NAME": "p", "CEPH_USER": "u", "CEPH_KEY": plain("ceph")},
    "iscsi_libvirt": {"ISCSI_HOST": NOWHERE, "ISCSI_USER": "u", "ISCSI_PASSWORD": plain("chap")},
    "restic": {"RESTIC_SFTP_SERVER": NOWHERE, "RESTIC_PASSWORD": plain("restic")},
}


def credentials_file(origin: str, key: str) -> str:
    """Return a file of credentials with every kind of entry; the first is for `origin`."""
    return "\n".join(
        (
            f'["{origin}/market"]\nuser = "u"\npassword = "{secret("file-basic")}"',
            f'["{origin}/other"]\nbearer-token = "{plain("file-bearer")}"',
            f'["https://keys.example.org"]\nclient-key = "{key}"\nuser = "u"',
            f'password-file = "password"\nproxy = "http://u:{plain("file-proxy")}@{NOWHERE}"',
            f'["https://array.example.org"]\napi-token = "{plain("file-api")}"',
            f'["s3://b"]\naccess-key-id = "{plain("file-id")}"',
            f'secret-access-key = "{plain("file-secret")}"',
            f'session-token = "{plain("file-session")}"',
            f'["iscsi://127.0.0.1/t"]\nuser = "u"\npassword = "{plain("file-chap")}"',
            f'["sftp://h/d"]\nrepository-password = "{plain("file-restic")}"',
            f'password = "{plain("file-ssh")}"\n',
        )
    )
