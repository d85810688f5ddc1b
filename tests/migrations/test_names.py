"""Any name of a schema is quoted as a name."""

from __future__ import annotations

import asyncio
import io

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from oban_sa import Job, Oban, enqueue_many, schema_map
from oban_sa.errors import InvalidOption
from oban_sa.migrations import LATEST, installed, migrate, missing, write_sql
from tests.migrations.project import connecting, query
from tests.support import plain_url

NAMES = [
    'a"b',
    "a'b",
    "a''b",
    "$oban$",
    "a$oban$; DROP TABLE x; --",
    "$oban1$ $oban$",
    "$$",
    "$1",
    "a:b",
    ":a",
    "a\\:b",
    "a::int",
    "a\\b",
    "a\\'b",
    "\\",
    "%s",
    "%(a)s",
    "50%",
    "a.b",
    "-- a",
    "/* a",
    "*/ a",
    "; SELECT 1",
    "Ünïcödé",
    "a b",
    "{a}",
    "[SCHEMA_a]",
    "__[SCHEMA_a]",
    "SELECT",
]


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
@pytest.mark.parametrize("schema", NAMES)
def test_a_schema_of_any_name_is_migrated_up_and_down(empty_database_url: str, schema: str, driver: str) -> None:
    query(empty_database_url, "CREATE TABLE public.x (id int)")

    async def asynchronously() -> None:
        engine = create_async_engine(empty_database_url)
        async with engine.connect() as connection:
            await connection.run_sync(lambda sync: migrate(sync, schema))
        await engine.dispose()

    if driver == "asyncpg":
        asyncio.run(asynchronously())
    with connecting(empty_database_url) as connection:
        migrate(connection, schema)
        assert missing(connection, schema) == []
        assert installed(connection, schema) == LATEST
    found = "SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information)'"
    assert set(query(empty_database_url, found)) == {"public", schema}
    with connecting(empty_database_url) as connection:
        migrate(connection, schema, down=True)
        assert installed(connection, schema) == 0
    left = "SELECT relname FROM pg_class WHERE relname LIKE 'oban%' OR relname = 'x'"
    assert query(empty_database_url, left) == ["x"]


@pytest.mark.parametrize("conforming", ["on", "off"])
@pytest.mark.parametrize("schema", NAMES)
def test_a_script_for_a_schema_of_any_name_does_the_same(empty_database_url: str, schema: str, conforming: str) -> None:
    query(empty_database_url, "CREATE TABLE public.x (id int)")
    for down in (False, True):
        script = io.StringIO()
        write_sql(script, schema, down=down)
        with psycopg.connect(plain_url(empty_database_url), autocommit=True) as connection:
            connection.execute(sql.SQL("SET standard_conforming_strings = {}").format(sql.Literal(conforming)))
            for statement in statements(script.getvalue()):
                connection.execute(statement.encode())
        if not down:
            with connecting(empty_database_url) as looking:
                assert missing(looking, schema) == []
    assert query(empty_database_url, "SELECT relname FROM pg_class WHERE relname LIKE 'oban%' OR relname = 'x'") == [
        "x"
    ]


def statements(script: str) -> list[str]:
    """The statements of a script; ours end with a semicolon at the end of a line before an empty one."""
    return [each.removesuffix(";") for each in script.split(";\n\n") if each.strip()]


@pytest.mark.parametrize("schema", NAMES)
async def test_jobs_are_written_and_found_in_a_schema_of_any_name(empty_database_url: str, schema: str) -> None:
    with connecting(empty_database_url) as connection:
        migrate(connection, schema)
    engine = create_async_engine(empty_database_url)
    try:
        oban = Oban(engine, schema=schema)
        await oban.verify()
        await oban.enqueue(Job("w"))
        await oban.enqueue_many(Job("w") for _ in range(3))
        assert await oban.retry_jobs(Job.queue == "default") == 0
        assert await oban.cancel_jobs(select(Job).limit(4)) == 4
        async with AsyncSession(engine.execution_options(schema_translate_map=schema_map(schema))) as session:
            enqueue_many(session, [Job("w")])
            await session.commit()
        assert sum(each.count for each in await oban.count_jobs()) == 5
        await oban.pause_queue("default")
    finally:
        await engine.dispose()


@pytest.mark.parametrize("schema", ["a\nb", "a\tb", "a\rb", "\x1b[31m", "a\x7fb"])
def test_a_name_with_control_characters_is_refused(empty_database_url: str, schema: str) -> None:
    with connecting(empty_database_url) as connection, pytest.raises(InvalidOption, match="can't be used"):
        migrate(connection, schema)
