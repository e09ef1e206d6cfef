"""Signatures of Amazon's S3, which every object store of that kind understands: versions 4 and 2.

Made by botocore, which knows the odd corners of both and is Amazon's own. Only what names the
object and who asks is signed, and no Range: so one signature serves all ranges of an object.
Source: "Authenticating Requests: Using the Authorization Header (AWS Signature Version 4)" and
"Signing and authenticating REST requests" (version 2) of the S3 reference.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from botocore.auth import HmacV1Auth, S3SigV4Auth  # type: ignore[import-untyped]
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]
from botocore.credentials import Credentials  # type: ignore[import-untyped]

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Keys:
    """Who asks. Temporary keys have a token."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)


def signed_v4(url: str, keys: Keys, region: str) -> Headers:
    """Return the headers of a GET of `url`, whose path is percent-encoded as it is to be sent."""
    request = AWSRequest("GET", url)
    S3SigV4Auth(_for_botocore(keys), "s3", region).add_auth(request)
    return tuple(request.headers.items())


def signed_v2(url: str, keys: Keys, resource: str) -> Headers:
    """Return the same in version 2; `resource` is ``/BUCKET/KEY``, encoded as in `url`."""
    request = AWSRequest("GET", url, auth_path=resource)
    HmacV1Auth(_for_botocore(keys)).add_auth(request)
    return tuple(request.headers.items())


def _for_botocore(keys: Keys) -> Credentials:
    return Credentials(keys.access_key_id, keys.secret_access_key, keys.session_token or None)
