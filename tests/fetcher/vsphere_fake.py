"""A fake of a vCenter: the files of one datastore over HTTPS, and the login that opens them.

It answers as VMware's published description says, and as vCenters were seen to answer:

- FileManager (https://developer.broadcom.com/xapis/virtual-infrastructure-json-api/latest/
  virtual-infrastructure/file-manager): ``https://HOST/folder/PATH?dcPath=..&dsName=..``; dcPath has
  to be there with a vCenter (https://github.com/cuckoosandbox/cuckoo/issues/901).
- SessionManager.Login of the vSphere Web Services API, over SOAP at ``/sdk``; the answer sets the
  cookie ``vmware_soap_session``, its value in double quotes (as seen in
  https://github.com/vmware/govmomi/pull/3655); a wrong password is the fault InvalidLogin.
- GET understands Range and answers 206 with Content-Range, HEAD tells the length, and there is no
  Last-Modified (as govmomi takes it: object/datastore_file.go).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote
from xml.etree import ElementTree as ET

from tests.fetcher.service import Asked, Told

_SOAP = "{http://schemas.xmlsoap.org/soap/envelope/}"
_VIM = "{urn:vim25}"
_RANGE = re.compile(r"bytes=(\d+)-(\d+)")

FAULT = (
    b'<?xml version="1.0" encoding="UTF-8"?><soapenv:Envelope '
    b'xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"><soapenv:Body><soapenv:Fault>'
    b"<faultcode>ServerFaultCode</faultcode><faultstring>Cannot complete login due to an incorrect "
    b'user name or password.</faultstring><detail><InvalidLoginFault xmlns="urn:vim25" '
    b'xsi:type="InvalidLogin" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"/></detail>'
    b"</soapenv:Fault></soapenv:Body></soapenv:Envelope>"
)


@dataclass
class VsphereFake:
    """One vCenter with one datastore: path -> bytes."""

    user: str = "reader@vsphere.local"
    password: str = "canary-<pass>&word"
    centre: str = "DC 1"
    store: str = "nfs/ä"
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[Asked] = field(default_factory=list)
    sessions: set[str] = field(default_factory=set)
    logins: int = 0
    broken: dict[str, Told] = field(default_factory=dict)
    """Answers of some paths, instead."""

    def put_disk(self, path: str, data: bytes, content_id: str = "fffffffe") -> None:
        """Add a disk as VMFS has it: a descriptor, and beside it the bytes."""
        flat = path.removesuffix(".vmdk") + "-flat.vmdk"
        self.files[flat] = data
        self.files[path] = descriptor(len(data), flat.rpartition("/")[2], content_id)

    def respond(self, asked: Asked) -> Told:
        self.requests.append(asked)
        if asked.path == "/sdk":
            return self._sdk(asked)
        if not asked.path.startswith("/folder/"):
            return Told(404)
        if asked.headers.get("cookie", "") not in self.sessions:
            return Told(401, headers={"WWW-Authenticate": 'Basic realm="VMware HTTP server"'})
        path = unquote(asked.path.removeprefix("/folder/"))
        if asked.query.get("dcPath") != self.centre or asked.query.get("dsName") != self.store:
            return Told(404)
        if path in self.broken:
            return self.broken[path]
        data = self.files.get(path)
        if data is None:
            return Told(404)
        if asked.method == "HEAD":
            return Told(200, data, {"Accept-Ranges": "bytes"})
        found = _RANGE.fullmatch(asked.headers.get("range", ""))
        if found is None:
            return Told(200, data)
        start, stop = int(found[1]), min(int(found[2]) + 1, len(data))
        if start >= len(data):
            return Told(416, headers={"Content-Range": f"bytes */{len(data)}"})
        part = f"bytes {start}-{stop - 1}/{len(data)}"
        return Told(206, data[start:stop], {"Content-Range": part})

    def _sdk(self, asked: Asked) -> Told:
        body = ET.fromstring(asked.body).find(f"{_SOAP}Body")
        (method,) = body
        assert method.find(f"{_VIM}_this").get("type") == "SessionManager"
        assert asked.headers["soapaction"].startswith("urn:vim25")
        if method.tag == f"{_VIM}Logout":
            self.sessions.discard(asked.headers.get("cookie", ""))
            return Told(200, b"<LogoutResponse/>")
        assert method.tag == f"{_VIM}Login"
        self.logins += 1
        said = (method.findtext(f"{_VIM}userName"), method.findtext(f"{_VIM}password"))
        if said != (self.user, self.password):
            return Told(500, FAULT, {"Content-Type": "text/xml; charset=utf-8"})
        cookie = f'vmware_soap_session="canary{self.logins:036x}"'
        self.sessions.add(cookie)
        return Told(
            200, b"<LoginResponse/>", {"Set-Cookie": f"{cookie}; Path=/; HttpOnly; Secure; "}
        )


def descriptor(size: int, flat: str, content_id: str = "fffffffe", **changes: str) -> bytes:
    """The text in the form of VMware's Virtual Disk Format 5.0, chapter "The Descriptor"."""
    said = {"parent": "ffffffff", "access": "RW", "kind": "VMFS", "type": "vmfs", **changes}
    return f"""# Disk DescriptorFile
version=1
encoding="UTF-8"
CID={content_id}
parentCID={said["parent"]}
createType="{said["type"]}"

# Extent description
{said["access"]} {size // 512} {said["kind"]} "{flat}"

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.geometry.sectors = "63"
ddb.uuid = "60 00 C2 9e"
ddb.virtualHWVersion = "8"
""".encode()
