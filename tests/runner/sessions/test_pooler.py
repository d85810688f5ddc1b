"""A sessionmaker whose engine prepares statements behind the pooler that the runner was told of."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker

from oban_sa.runner import Runner
from oban_sa.runner.database.engine import UNPREPARED
from oban_sa.runner.sessions import same_database
from tests.runner.conftest import Harness


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("prepares", [True, False])
@pytest.mark.parametrize("pooled", [True, False])
async def test_an_engine_of_the_application_that_prepares_behind_a_pooler_is_warned_of(
    harness: Harness,
    database_url: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    driver: str,
    prepares: bool,
    pooled: bool,
) -> None:
    monkeypatch.setattr(same_database, "pooled", lambda driver, pid: pooled)
    own = create_async_engine(database_url, connect_args=dict(UNPREPARED))
    if driver == "asyncpg":
        theirs = create_async_engine(database_url, connect_args={} if prepares else dict(UNPREPARED))
        sessions, close = async_sessionmaker(theirs), theirs.dispose
    else:
        arguments = {} if prepares else {"prepare_threshold": None}
        sync = create_engine(database_url.replace("+asyncpg", "+psycopg"), connect_args=arguments)
        sessions, close = sessionmaker(sync), None
    options = {**harness.options, "registry": harness.registry}
    async with Runner(own, sessions=sessions, **options):
        pass
    told = [said for said in caplog.messages if "leads through a pooler and prepares statements" in said]
    assert len(told) == (prepares and pooled)
    for said in told:
        assert ("statement_cache_size" if driver == "asyncpg" else "prepare_threshold") in said
    await own.dispose()
    if close is None:
        sync.dispose()
    else:
        await close()


async def test_a_direct_connection_is_no_pooled_one(database_url: str) -> None:
    engine = create_async_engine(database_url)
    async with engine.connect() as connection:
        pid = (await connection.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one()
        driver = (await connection.get_raw_connection()).driver_connection
        assert not same_database.pooled(driver, pid)
        assert same_database.pooled(driver, pid + 1)
    await engine.dispose()
