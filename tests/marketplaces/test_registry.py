from __future__ import annotations

import errno
import sys
from importlib import metadata

from nebfs.marketplaces import DRIVERS, UnsupportedMarketplace, driver_for, numbered, stable_id
from nebfs.marketplaces.http import HttpMarketplace
from nebfs.marketplaces.registry import Entry


def test_the_table_is_alphabetical():
    assert list(DRIVERS) == sorted(DRIVERS)


def test_a_driver_is_imported_when_it_is_asked_for(service):
    assert isinstance(driver_for("http", call=service(), version=""), HttpMarketplace)
    assert isinstance(driver_for("gone", call=service(), version=""), UnsupportedMarketplace)


async def test_a_missing_library_is_every_apps_trouble_with_the_remedy(service, app, marketplace):
    drivers = {"far": Entry("nebfs_no_such_library", "Far", "pip install 'nebfs[far]'")}
    driver = driver_for("far", call=service(), version="", drivers=drivers)
    (offer,) = await driver.offers(marketplace(), [app(1)])
    assert offer.trouble.errno == errno.EOPNOTSUPP
    assert "nebfs_no_such_library" in offer.trouble.reason
    assert "pip install 'nebfs[far]'" in offer.trouble.reason


class FarMarketplace(UnsupportedMarketplace):
    """What another package could bring."""

    def __init__(self, *, call, version, platform):
        self.given = (call, version, platform)


def test_another_package_can_bring_a_driver_but_not_take_ours(service, monkeypatch):
    asked = []

    def entry_points(group):
        asked.append(group)
        target = f"{__name__}:FarMarketplace"
        return [metadata.EntryPoint(n, target, group) for n in ("near", "far", "http")]

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[FarMarketplace.__module__])
    call = service()
    far = driver_for("far", call=call, version="7.4.0", platform="linux/arm64")
    assert type(far) is FarMarketplace
    assert far.given == (call, "7.4.0", "linux/arm64")
    assert isinstance(driver_for("http", call=call, version=""), HttpMarketplace)
    assert isinstance(driver_for("farther", call=call, version=""), UnsupportedMarketplace)
    assert set(asked) == {"nebfs.marketplaces"}


def test_numbers_do_not_depend_on_the_order_or_on_the_others():
    keys = [f"appliance-{n}" for n in range(300)]
    numbers = numbered(keys)
    assert numbers == numbered(reversed(keys))
    assert len(set(numbers.values())) == 300
    assert all(0 < number < 2**31 for number in numbers.values())
    assert numbered(keys[:100]).items() <= numbers.items()


def test_two_keys_of_one_hash_get_two_numbers():
    first = stable_id("a")
    assert stable_id("a", {first}) == first + 1
    assert stable_id("a", {first, first + 1}) == first + 2
