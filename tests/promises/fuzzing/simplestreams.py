"""The lists of a server of container images. The first byte says which of the two documents."""

from __future__ import annotations

from nebfs.marketplaces.container_app import app_of_product
from nebfs.marketplaces.simplestreams import by_directory, read_index, read_products
from nebfs.model import Marketplace

BASE = "https://images.example.org/"


def one(data: bytes) -> None:
    """No path may lead out of the server's tree, and each product is an app that can be shown."""
    if not data:
        return
    if data[0] & 1:
        for path in read_index(data[1:]):
            _check(path)
        return
    products = read_products(data[1:])
    by_directory(products)
    for number, product in enumerate(products):
        repr(app_of_product(product, number, Marketplace(0, "m"), BASE, "linux/amd64")).encode()
        for version in product.versions:
            for item in version.items:
                _check(item.path)
                assert item.size is None or item.size >= 0


def _check(path: str) -> None:
    path.encode()
    assert path.isprintable(), path
    assert not {"", ".", ".."} & set(path.split("/")), path
