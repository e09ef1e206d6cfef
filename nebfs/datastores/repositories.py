"""Where the repository of a backup is that restic has made, by the records of OpenNebula alone.

A repository is of one VM or of one backup job: ``BASE_PATH/<VM's id>`` or ``BASE_PATH/job_<id>`` on
RESTIC_SFTP_SERVER, where RESTIC_SFTP_USER logs in, else ``oneadmin``; with RESTIC_BACKEND=S3 it is
the same name at the top of RESTIC_S3_BUCKET. Where ``[datastores.paths]`` says that BASE_PATH is on
this machine, it is read here.
Source: OpenNebula's datastore driver ``restic``, 6.6 to 7.4. Without RESTIC_S3_FORCE_PATH_STYLE
buckets are hosts of Amazon's alone, as restic's option ``s3.bucket-lookup=auto`` has it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from nebfs.datastores.bridges import Elsewhere, written
from nebfs.datastores.places import SFTP, PathMap, is_inside, plain
from nebfs.errors import BadAnswer
from nebfs.model import Datastore, Image, Template

_JOB = re.compile(r"[0-9]{1,9}")
_OF_VM = re.compile(r"/(?P<vm>[0-9]{1,9})/backup/[^/]+")
_USER = "oneadmin"

_REGION = re.compile(r"[A-Za-z0-9_-]{1,64}")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
# A bucket of any other name cannot be a part of a host's name that a certificate is for.
_HOST_PART = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_ENDPOINT = re.compile(
    r"(?:(?P<scheme>https?)://)?(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)"
    r"(?P<port>:[0-9]{1,5})?/?",
    re.IGNORECASE,
)
_AMAZON = re.compile(r"s3(?:[.-][a-z0-9-]+)?\.amazonaws\.com(?P<china>\.cn)?", re.IGNORECASE)
_REGION_OF_AMAZON = "us-east-1"


@dataclass(frozen=True, slots=True)
class Repository:
    """An address, and the options to ask for it with, in the words of the transport ``restic``."""

    address: str
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)


class Repositories:
    """Knows where those of all backups are."""

    def __init__(self, paths: Mapping[str, str], ssh: Mapping[str, str]) -> None:
        """`paths` as every driver has them, `ssh` as the driver ``fs`` is told about hosts."""
        self._map = PathMap(paths)
        self._prefixes = [plain(one) for one, to in paths.items() if not to.startswith(SFTP)]
        self._ssh = dict(ssh)

    def of(self, datastore: Datastore, image: Image) -> tuple[Repository, ...]:
        """Return where the repository is, the nearest first. Raises BadAnswer if nobody says so."""
        name = name_of(image)
        template = datastore.template
        secret = password_of(template)
        base = plain(datastore.base_path)
        found: list[Repository] = []
        if any(base == prefix or is_inside(base, prefix) for prefix in self._prefixes):
            found.append(Repository(f"file://{self._map.local(base)}/{name}", secret))
        if template.get("RESTIC_BACKEND").strip().upper() == "S3":
            found.append(_in_bucket(template, name, secret))
        elif (place := self._host(template, base)) is not None:
            host, base = place
            locator = host.locator(f"{base}/{name}", 0)
            found.append(Repository(locator.address, (*locator.options, *secret)))
        if not found:
            raise BadAnswer(
                "the datastore has no usable RESTIC_SFTP_SERVER, and is not mapped here"
            )
        return tuple(found)

    def _host(self, template: Template, base: str) -> tuple[Elsewhere, str] | None:
        host, mapped = self._map.remote(base)
        if host:
            base = mapped
        else:
            host = template.get("RESTIC_SFTP_SERVER").strip()
            user = template.get("RESTIC_SFTP_USER").strip() or self._ssh.get("user", "") or _USER
            host = host if "@" in host else f"{user}@{host}"
        named = written(host)
        if not named or base in {"", "/"}:
            return None
        told = self._ssh
        options = tuple((n, told[n]) for n in ("identity", "known-hosts") if told.get(n))
        return Elsewhere((named,), options), base


def name_of(image: Image) -> str:
    """Return the name of a backup's repository. Raises BadAnswer."""
    job = image.template.get("BACKUP_JOB_ID").strip()
    if job:
        if not _JOB.fullmatch(job):
            raise BadAnswer("OpenNebula's record of the backup has a BACKUP_JOB_ID that is none")
        return f"job_{int(job)}"
    if image.vm_ids and image.vm_ids[0] >= 0:
        return str(image.vm_ids[0])
    found = _OF_VM.search(image.path)
    if found is None:
        raise BadAnswer("OpenNebula's record of the backup does not say which VM it is of")
    return str(int(found["vm"]))


def password_of(template: Template) -> tuple[tuple[str, str], ...]:
    """Return what the template has for a password, as an option."""
    # OpenNebula drops quotes before it hands the password to restic.
    password = template.get("RESTIC_PASSWORD").translate({ord('"'): None, ord("'"): None})
    return (("password", password),) if password else ()


def _in_bucket(template: Template, name: str, secret: tuple[tuple[str, str], ...]) -> Repository:
    bucket = template.get("RESTIC_S3_BUCKET").strip()
    region = template.get("RESTIC_S3_REGION").strip() or _REGION_OF_AMAZON
    endpoint = template.get("RESTIC_S3_ENDPOINT").strip() or "s3.amazonaws.com"
    place = _ENDPOINT.fullmatch(endpoint)
    if place is None or not _BUCKET.fullmatch(bucket) or not _REGION.fullmatch(region):
        raise BadAnswer("RESTIC_S3_ENDPOINT, _BUCKET or _REGION of the datastore is not usable")
    scheme, host = (place["scheme"] or "https").lower(), place["host"]
    amazon = _AMAZON.fullmatch(host)
    if amazon is not None:
        host = f"s3.{region}.amazonaws.com{amazon['china'] or ''}"
    host += place["port"] or ""
    by_path = template.get("RESTIC_S3_FORCE_PATH_STYLE").strip().upper() == "YES"
    if amazon is not None and not by_path and _HOST_PART.fullmatch(bucket):
        base = f"{scheme}://{bucket}.{host}/"
    else:
        base = f"{scheme}://{host}/{quote(bucket, safe='')}/"
    options = {
        "base": base,
        "bucket": bucket,
        "region": region,
        "access-key-id": template.get("RESTIC_S3_ACCESS_KEY_ID").strip(),
        "secret-access-key": template.get("RESTIC_S3_SECRET_ACCESS_KEY").strip(),
        "insecure-tls": (
            "yes" if template.get("RESTIC_S3_INSECURE_TLS").strip().upper() == "YES" else ""
        ),
    }
    kept = tuple((name, text) for name, text in options.items() if text)
    return Repository(f"{base}{name}", (*kept, *secret))
