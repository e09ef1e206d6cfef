"""The small texts beside an app's image, and the rule that no secret gets into them."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping

from nebfs.model import App, AppType, Content, Offer, Template, shown_text, without_credentials

_SECRET = re.compile(
    r"PASS(WORD|WD|PHRASE)?$|SECRET|TOKEN|CREDENTIAL|(ACCESS|PRIVATE|API)_?KEY|_KEY$"
)
_PUBLIC = re.compile(r"SSH_PUBLIC_KEY$")


def is_secret(key: str) -> bool:
    """Whether an attribute called `key` holds a secret, by the names that OpenNebula uses."""
    key = key.upper()
    return bool(_SECRET.search(key)) and not _PUBLIC.search(key)


def plain(template: Template) -> dict[str, object]:
    """Return a template as JSON values, secrets removed; repeated keys become lists."""
    found: dict[str, object] = {}
    for key, value in template:
        if is_secret(key):
            continue
        item: object = plain(value) if isinstance(value, Template) else shown_text(value)
        if key in found:
            known = found[key]
            found[key] = [*known, item] if isinstance(known, list) else [known, item]
        else:
            found[key] = item
    return found


def vm_template(app: App) -> str:
    """Return the VM template that OpenNebula would create: VMTEMPLATE64, decoded."""
    raw = app.template.get("VMTEMPLATE64")
    try:
        return base64.b64decode(raw).decode("utf-8", "replace")
    except ValueError:
        return ""


def definition(offer: Offer) -> bytes:
    """Return app.json: everything OpenNebula and the publisher say about the app."""
    app = offer.app
    facts: dict[str, object] = {
        "id": app.id,
        "name": app.name,
        "owner": {"uid": app.uid, "gid": app.gid, "uname": app.uname, "gname": app.gname},
        "permissions": app.permissions.octal,
        "marketplace": {"id": app.marketplace_id, "name": app.marketplace},
        "zone_id": app.zone_id,
        "type": app.type.name,
        "state": app.state.name,
        "version": app.version,
        "description": shown_text(app.description),
        "format": app.format,
        "size_mb": app.size_mb,
        "md5": app.md5,
        "source": without_credentials(app.source),
        "regtime": app.regtime,
        "locked": None if app.lock is None else app.lock.level,
        "template": {
            k: v
            for k, v in plain(app.template).items()
            if k not in {"APPTEMPLATE64", "VMTEMPLATE64"}
        },
    }
    if offer.trouble is not None:
        facts["trouble"] = offer.trouble.reason
    if offer.published:
        try:
            facts["published"] = json.loads(offer.published)
        except ValueError:
            facts["published"] = offer.published
    # A line per fact, made by hand: with an indent the encoder would be the one in Python, and a
    # listing makes thousands of these.
    lines = (f"  {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in facts.items())
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode("utf-8", "replace")


def documents(offer: Offer) -> dict[str, bytes]:
    """Return the documents of an app by name: app.json always, templates where there are any."""
    app = offer.app
    texts = {"app.json": definition(offer)}
    own, vm = app.app_template, vm_template(app)
    if app.type is AppType.SERVICE_TEMPLATE:
        texts["service.json"] = _text(own)
    elif app.type is AppType.VMTEMPLATE:
        texts["vm.tmpl"] = _text(own)
    else:
        texts["image.tmpl"] = _text(own)
        texts["vm.tmpl"] = _text(vm)
    return {name: text for name, text in texts.items() if text}


def _text(text: str) -> bytes:
    if not text.strip():
        return b""
    return (text if text.endswith("\n") else text + "\n").encode("utf-8", "replace")


def checksums(files: Mapping[str, Content]) -> bytes:
    """Return CHECKSUMS: what was published about `files` (by name), for `md5sum -c` and its kin.

    Each tool takes the lines whose digests have its length and passes over the others. A name with
    a backslash is escaped as coreutils do it.
    """
    lines = [
        f"\\{c.digest}  {name.replace(chr(92), chr(92) * 2)}\n"
        if "\\" in name
        else f"{c.digest}  {name}\n"
        for name, content in files.items()
        for c in content.checksums
    ]
    return "".join(lines).encode("utf-8", "surrogateescape")
