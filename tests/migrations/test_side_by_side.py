"""Replicas and test workers start together, and each of them migrates."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection, NullPool, create_engine, event, text
from sqlalchemy.ext.asyncio import create_async_engine

from oban_sa.migrations import LATEST, installed, migrate, missing
from tests.migrations.project import connecting, query, run_script
from tests.support import eventually, sync_url

FOLDER = Path(__file__).parent
MANY = 8
ROUNDS = 4


def side_by_side(url: str, work: Callable[[Connection], object], driver: str = "psycopg") -> None:
    """Let many processes' worth of connections do the same at the same moment; raises what any of them raises."""
    start = threading.Barrier(MANY)

    def one() -> None:
        engine = create_engine(sync_url(url, driver), poolclass=NullPool)
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
            connection.rollback()
            start.wait(30)
            work(connection)
        engine.dispose()

    with ThreadPoolExecutor(MANY) as threads:
        for done in [threads.submit(one) for _ in range(MANY)]:
            done.result(120)


def relations(url: str, schema: str = "public") -> list[object]:
    return query(url, f"SELECT oid FROM pg_class WHERE relnamespace = to_regnamespace('{schema}') AND relkind = 'r'")


def locks(url: str) -> list[object]:
    return query(
        url,
        "SELECT objid FROM pg_locks JOIN pg_database ON pg_database.oid = database "
        "WHERE locktype = 'advisory' AND datname = current_database()",
    )


@pytest.mark.parametrize("schema", ["public", "jobs"])
def test_many_migrate_an_empty_database_at_once(empty_database_url: str, schema: str) -> None:
    for _ in range(ROUNDS):
        side_by_side(empty_database_url, lambda connection: migrate(connection, schema))
        with connecting(empty_database_url) as connection:
            assert installed(connection, schema) == LATEST
            assert missing(connection, schema) == []
        side_by_side(empty_database_url, lambda connection: migrate(connection, schema, down=True))
        assert relations(empty_database_url, schema) == []
    assert locks(empty_database_url) == []


def test_many_adopt_a_table_that_has_rows_at_once(empty_database_url: str) -> None:
    run_script(empty_database_url, (FOLDER / "elixir_v14.sql").read_text())
    query(empty_database_url, "INSERT INTO public.oban_jobs (worker) SELECT 'Theirs' FROM generate_series(1, 1000)")
    for _ in range(ROUNDS):
        side_by_side(empty_database_url, migrate)
        with connecting(empty_database_url) as connection:
            assert installed(connection) == LATEST
            assert missing(connection) == []
        side_by_side(empty_database_url, lambda connection: migrate(connection, down=True))
    assert query(empty_database_url, "SELECT count(*) FROM public.oban_jobs") == [1000]
    assert locks(empty_database_url) == []


def test_some_go_up_while_others_go_down(empty_database_url: str) -> None:
    down = iter(range(1_000_000))
    for _ in range(ROUNDS):
        side_by_side(empty_database_url, lambda connection: migrate(connection, down=next(down) % 2 == 0))
    migrate_once(empty_database_url)
    with connecting(empty_database_url) as connection:
        assert missing(connection) == []


async def test_many_migrate_at_once_from_one_loop(empty_database_url: str) -> None:
    engines = [create_async_engine(empty_database_url, pool_size=1, max_overflow=0) for _ in range(MANY)]

    async def one(number: int) -> None:
        async with engines[number].connect() as connection:
            await connection.run_sync(migrate)

    for _ in range(3):
        await asyncio.wait_for(asyncio.gather(*map(one, range(MANY))), 120)
        async with engines[0].connect() as connection:
            assert await connection.run_sync(missing) == []
            await connection.rollback()
            await connection.run_sync(lambda sync: migrate(sync, down=True))
    for engine in engines:
        await engine.dispose()


def test_a_transaction_of_the_caller_keeps_others_waiting_until_it_ends(empty_database_url: str) -> None:
    others = threading.Thread(target=migrate_once, args=(empty_database_url,))
    with connecting(empty_database_url) as connection, connection.begin():
        operations = Operations(MigrationContext.configure(connection))
        operations.upgrade_oban()  # type: ignore[attr-defined]
        operations.upgrade_oban()  # type: ignore[attr-defined] - the lock is ours already
        others.start()
        asyncio.run(eventually(lambda: _sleepers(empty_database_url)))
        assert relations(empty_database_url) == []
    others.join(30)
    assert not others.is_alive()
    with connecting(empty_database_url) as connection:
        assert missing(connection) == []


def test_a_migration_that_fails_leaves_no_lock_behind(empty_database_url: str) -> None:
    query(empty_database_url, "CREATE TABLE public.oban_jobs (id int)")
    with connecting(empty_database_url) as connection, pytest.raises(Exception, match="scheduled_at"):
        migrate(connection)
    assert locks(empty_database_url) == []


def test_an_application_s_pool_of_one_connection_is_enough(empty_database_url: str) -> None:
    engine = create_engine(sync_url(empty_database_url), pool_size=1, max_overflow=0, pool_timeout=1)
    pids: set[int] = set()
    event.listen(engine, "connect", lambda made, _: pids.add(made.info.backend_pid))
    with engine.connect() as connection:
        migrate(connection)
    assert len(pids) == 2  # one is not the pool's
    assert engine.pool.checkedin() == 1  # type: ignore[attr-defined]
    engine.dispose()


def migrate_once(url: str) -> None:
    with connecting(url) as connection:
        migrate(connection)


def _sleepers(url: str) -> bool:
    """Whether one connection waits for the lock, which it does in naps."""
    napping = "datname = current_database() AND query LIKE 'SELECT pg_sleep%' AND state = 'active'"
    return query(url, f"SELECT count(*) FROM pg_stat_activity WHERE {napping}") == [1]
