"""A database that is there and can't write is told of once, in words that say what to do."""

from __future__ import annotations

import logging

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa.runner.database import availability
from oban_sa.runner.database.database import Database
from oban_sa.schedule import clock


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (asyncpg.DiskFullError("could not extend file"), "the disk of the database is full"),
        (asyncpg.ReadOnlySQLTransactionError("cannot execute UPDATE"), "the database takes no writes"),
        (asyncpg.OutOfMemoryError("out of shared memory"), "the database is out of memory"),
        (asyncpg.ConfigurationLimitExceededError("x"), "the database has reached a limit of its configuration"),
        (asyncpg.exceptions.InsufficientResourcesError("x"), "the database lacks resources"),
    ],
)
def test_it_is_told_once_though_reads_work_in_between(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, error: Exception, what: str
) -> None:
    database = Database(engine)
    heard: list[str] = []
    database.availability.heard_again = [lambda: heard.append("again")]
    now = clock.monotonic()
    monkeypatch.setattr(availability.clock, "monotonic", lambda: now)
    for _ in range(12):
        database.availability.went_away(error)
        database.availability.came_back()
        now += availability.OVER_AFTER / 2
    (told,) = caplog.messages
    assert told.startswith(what) and str(error) in told
    assert heard == []
    now += availability.OVER_AFTER
    database.availability.came_back()
    database.availability.came_back()
    assert caplog.messages[1:] == [f"no longer: {told.partition(' (')[0]}, as it was for 165 s"]
    assert heard == ["again"]
    database.availability.went_away(error)
    assert len(caplog.messages) == 3
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_a_database_that_starts_up_is_away(engine: AsyncEngine, caplog: pytest.LogCaptureFixture) -> None:
    database = Database(engine)
    for _ in range(3):
        database.availability.went_away(asyncpg.CannotConnectNowError("the database system is starting up"))
    (told,) = caplog.messages
    assert told.startswith("the database is away (CannotConnectNowError: the database system is starting up)")
