"""Asking an object store through the transport `s3`, for the tests of it."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports.s3 import S3
from nebfs.model import Locator

QUICK = FetcherSettings(connect_timeout=10, stall_timeout=10, trust_env=False)


@pytest.fixture(autouse=True)
def no_keys_of_this_machine(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws-credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))


def locator(url, key="marketapp-1", bucket="images", **options):
    base = f"{url}/{bucket}/"
    said = {"base": base, "bucket": bucket, "region": "us-east-1"}
    named = {name.replace("_", "-"): text for name, text in options.items()}
    return Locator("s3", base + key, tuple({**said, **named}.items()))


def run(settings, use):
    async def main():
        transport = S3(settings)
        try:
            return await use(transport)
        finally:
            await transport.aclose()

    return asyncio.run(main())


def bring(target, where, *ranges, settings=QUICK, expected=None):
    """Fetch slots; return the revision."""
    request = target.request("", *(ranges or ((0, 10),)), expected=expected)
    request = dataclasses.replace(request, locator=where)
    return run(settings, lambda s3: s3.fetch(request, target.fd, target.listener()))
