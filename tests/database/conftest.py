"""Databases that the tests of a module share, one for each driver, emptied before each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.database.places import DRIVERS, Place
from tests.databases import Databases


@pytest.fixture(scope="module", params=DRIVERS)
def shared_place(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Place]:
    with databases.fresh() as url:
        place = Place(url, request.param)
        yield place
        place.close()


@pytest.fixture
def place(shared_place: Place) -> Place:
    """A database without rows, reached through each driver in turn."""
    shared_place.empty()
    return shared_place
