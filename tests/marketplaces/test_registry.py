from __future__ import annotations

import errno

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
