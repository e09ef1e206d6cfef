from __future__ import annotations

from dataclasses import replace

from nebfs.catalog import changed_places, differs


async def test_when_a_snapshot_was_taken_is_no_difference(world):
    first, second = await world.survey(), await world.survey()
    assert first != second
    assert not differs(first, second)
    assert changed_places(first, second) == frozenset()


async def test_every_other_field_is_a_difference(world):
    first = await world.survey()
    assert differs(None, first)
    assert differs(first, replace(first, version="7.6.0"))
    assert differs(first, replace(first, user=None))
    assert differs(first, replace(first, trouble="down"))
    assert changed_places(first, replace(first, trouble="down")) == frozenset()


async def test_places_that_changed_came_or_went_are_named(world, make):
    first = await world.survey()
    world.cloud._marketplaces = [make.marketplace(0), make.marketplace(2)]
    world.cloud._apps = [make.app(1), make.app(2)]
    world.cloud._datastores = [make.datastore(1, free_mb=7)]
    second = await world.survey()
    assert changed_places(first, second) == {
        ("marketplace", 1),
        ("marketplace", 2),
        ("datastore", 1),
    }
    assert differs(first, second)
    assert changed_places(None, second) == {
        ("marketplace", 0),
        ("marketplace", 2),
        ("datastore", 1),
    }


async def test_an_app_that_changed_changes_its_place_only(world, make):
    first = await world.survey()
    world.cloud._apps[0] = make.app(1, version="2")
    assert changed_places(first, await world.survey()) == {("marketplace", 0)}
