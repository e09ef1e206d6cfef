"""The private marketplace in an object store, as OpenNebula's driver `s3` fills one.

Its template says SIGNATURE_VERSION=s3, as one that was made in OpenNebula's web interface does,
though the store knows better. One object has been deleted behind OpenNebula's back.
"""

from __future__ import annotations

from nebfs.demo.catalogue import attributes, base64_text
from nebfs.demo.cloud import Cloud
from nebfs.demo.images import EPOCH, DemonstrationImages, MadeImage
from nebfs.demo.records import AppRecord, MarketplaceRecord
from nebfs.demo.s3 import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY

PRIVATE_S3 = 101
"""The marketplace's id."""

BUCKET = "images"


def add_objects(cloud: Cloud, images: DemonstrationImages) -> None:
    """Add the marketplace, its apps and the objects behind them."""
    cloud.marketplaces[PRIVATE_S3] = MarketplaceRecord(
        PRIVATE_S3,
        "Private S3",
        driver="s3",
        total_mb=1048576,
        free_mb=1048484,
        used_mb=92,
        template=attributes(
            ACCESS_KEY_ID=ACCESS_KEY_ID,
            AWS="no",
            BUCKET=BUCKET,
            ENDPOINT="{objects}",
            FORCE_PATH_STYLE="YES",
            MARKET_MAD="s3",
            REGION=REGION,
            SECRET_ACCESS_KEY=SECRET_ACCESS_KEY,
            SIGNATURE_VERSION="s3",
        ),
    )
    _add_app(cloud, 30, "stored qcow2", images.qcow2)
    _add_app(cloud, 31, "stored raw", images.raw)
    _add_app(cloud, 32, "lost object", images.data)
    del cloud.objects[f"/{BUCKET}/marketapp-32"]


def _add_app(cloud: Cloud, number: int, name: str, made: MadeImage) -> None:
    definition = base64_text('DEV_PREFIX="vd"\nTYPE="OS"\n')
    key = f"{BUCKET}/marketapp-{number}"
    cloud.objects[f"/{key}"] = made.path
    cloud.add_app(
        AppRecord(
            number,
            name,
            marketplace_id=PRIVATE_S3,
            regtime=EPOCH + number,
            source=f"s3://{key}",
            md5=made.md5,
            size_mb=made.size_mb,
            format=made.format,
            app_template64=definition,
            template=attributes(APPTEMPLATE64=definition, TYPE="IMAGE"),
        )
    )
