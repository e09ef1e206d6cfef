"""One file per kind of marketplace: which apps it has, and where their bytes are.

What lives here: the protocol that every driver follows (``driver``), the table of drivers
(``registry``), what OpenNebula's own record of an app says about its bytes (``record``), what an
answer of a service means (``answers``), the app that OpenNebula would record where it has recorded
none (``own_app``), and the drivers, each with what belongs to it alone:

- ``one``, the appliance service of OpenNebula's public marketplace: ``appliances`` (its JSON),
  ``appliance_app`` (the app that OpenNebula would make of it), ``template_text``;
- ``http`` and ``s3``, whose only list is OpenNebula's own;
- ``linuxcontainers`` (``simplestreams``) and ``turnkeylinux`` (``turnkey_index``), archives of root
  filesystems: ``container_app``;
- ``dockerhub`` and ``docker_registry``, images in container registries: ``oci`` (manifests),
  ``oci_names``, ``oci_registry`` (asking one), ``oci_app``;
- ``unsupported`` for everything else.

Libraries: aiohttp carries all requests (in the fetcher), botocore signs and finds keys for ``s3``.
Simplestreams, OCI manifests and appliance lists are a few JSON documents: the libraries for them
(or a pull of whole images) bring a network of their own, which would pass the fetcher by.

What does not: bytes, their exact length and their real format (content's), asking the front-end
(opennebula's), deadlines and what to show while a marketplace is down (the catalog's). Drivers
return data, never readers, and speak to the network only through the function they are given.

Who may import it: catalog, and rooms above it. Never datastores.

Start reading at ``driver.MarketplaceDriver``, then ``http``: the smallest driver. A new driver is
one file here, one line in ``registry.DRIVERS`` and one line in tests/marketplaces/test_contract.py;
another package announces one by an entry point (docs/marketplaces.md).

Concurrency: drivers hold no state between two calls and may be called by any number of tasks;
JSON is decoded in a worker thread, one catalogue at a time.
"""

from nebfs.marketplaces.driver import Call, DeferringDriver, MarketplaceDriver
from nebfs.marketplaces.identity import numbered, stable_id
from nebfs.marketplaces.registry import DRIVERS, driver_for
from nebfs.marketplaces.unsupported import UnsupportedMarketplace

__all__ = [
    "DRIVERS",
    "Call",
    "DeferringDriver",
    "MarketplaceDriver",
    "UnsupportedMarketplace",
    "driver_for",
    "numbered",
    "stable_id",
]
