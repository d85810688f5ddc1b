"""The promises of conftest that every other test leans on."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from tests.support import eventually, process, run_python, sync_url

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("turn", [1, 2])
async def test_every_test_gets_a_database_that_no_other_test_wrote_to(engine: AsyncEngine, turn: int) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE left_behind ()"))


async def test_sync_and_async_fixtures_share_one_database(
    sessions: async_sessionmaker[AsyncSession], sync_engine: Engine
) -> None:
    with sync_engine.begin() as connection:
        connection.execute(text("CREATE TABLE shared AS SELECT 7 AS n"))
    async with sessions() as session:
        assert await session.scalar(text("SELECT n FROM shared")) == 7


async def test_the_fresh_database_has_the_tables_for_jobs(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT to_regclass('public.oban_jobs') IS NOT NULL"))


async def test_the_empty_database_has_no_tables(empty_database_url: str) -> None:
    engine = create_async_engine(empty_database_url)
    async with engine.connect() as connection:
        count = "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        assert await connection.scalar(text(count)) == 0
    await engine.dispose()


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "pg8000"])
def test_sync_url_names_the_same_database_for_another_driver(database_url: str, driver: str) -> None:
    assert sync_url(database_url, driver) == database_url.replace("+asyncpg", f"+{driver}")


async def test_eventually_waits_for_a_truthy_answer_and_returns_it() -> None:
    answers = iter([0, [], "ready"])
    assert await eventually(lambda: next(answers)) == "ready"


async def test_eventually_raises_the_last_assertion_when_the_time_is_over() -> None:
    def never() -> None:
        raise AssertionError("not yet")

    with pytest.raises(AssertionError, match="not yet"):
        await eventually(never, within=0.05)


async def test_eventually_lets_other_errors_through_at_once() -> None:
    with pytest.raises(ZeroDivisionError):
        await eventually(lambda: 1 / 0)


async def test_a_process_can_be_watched_and_ended() -> None:
    with process(["-c", "import time; print('up'); time.sleep(60)"]) as running:
        assert await running.says("up") == "up"
        running.terminate()
        assert await running.ended() == -15


def test_a_process_does_not_outlive_its_block() -> None:
    with process(["-c", "import time; time.sleep(60)"]) as running:
        assert running.returncode is None
    assert running.returncode == -9


def test_processes_do_not_see_the_settings_of_whoever_runs_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBAN_DATABASE_URL", "postgresql://real")
    found = run_python("-c", "import os, oban_sa; print(os.environ.get('OBAN_DATABASE_URL'))")
    assert found.stdout == "None\n"
