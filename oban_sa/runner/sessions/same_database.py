"""Check that the application's sessions lead to the database that the runner works in."""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Final

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa.describe.exceptions import describe
from oban_sa.errors import InvalidOption, RunnerError
from oban_sa.runner.database.database import Database
from oban_sa.runner.database.errors import is_passing
from oban_sa.runner.database.start_steps import reached, watch
from oban_sa.sql.locks import try_lock

logger = logging.getLogger("oban_sa.runner")

UNPREPARING: Final = {
    "asyncpg": (
        '{"statement_cache_size": 0, "prepared_statement_cache_size": 0, "prepared_statement_name_func": lambda: ""}'
    ),
    "psycopg": '{"prepare_threshold": None}',
}
"""The connect arguments with which a driver prepares nothing under a name."""


def prepares(driver: object) -> bool:
    """Whether a driver's connection prepares statements under names, which a pooler in transaction mode loses."""
    config = getattr(driver, "_config", None)
    if config is not None:  # asyncpg
        return bool(getattr(config, "statement_cache_size", 0))
    # psycopg prepares what it has seen so often; None is never.
    return getattr(driver, "prepare_threshold", None) is not None


def pooled(driver: object, pid: int) -> bool:
    """Whether a pooler stands between a driver's connection and the server's process `pid` that answers it."""
    # A pooler answers with a pid of its own when a connection is made.
    asked = getattr(driver, "get_server_pid", None)
    told = getattr(getattr(driver, "info", None), "backend_pid", None if asked is None else asked())
    return told is not None and told != pid


def _warn_of_prepared(engine: Engine, connection: Connection, database: Database) -> None:
    """Log what to write where the runner was told of a pooler and the application's engine was not."""
    driver = connection.connection.driver_connection
    if not database.prepares and prepares(driver):
        pid = connection.execute(select(func.pg_backend_pid())).scalar_one()
        if pooled(driver, pid):
            logger.warning(
                "sessions: %r leads through a pooler and prepares statements, which one in transaction mode loses or "
                "mixes up; give the engine connect_args=%s, as docs/poolers.md has it",
                engine.url,
                UNPREPARING["asyncpg" if engine.dialect.driver == "asyncpg" else "psycopg"],
            )


async def check_same_database(engine: Engine, database: Database) -> None:
    """Raise InvalidOption where an engine leads to another database than the runner's; a URL alone can't tell.

    The runner takes an advisory lock; if a connection of this engine can take it too, it is another database.
    """
    if engine.pool is database.engine.pool:
        return
    watch(engine.pool)
    key = secrets.randbits(62)
    async with database.shared.transaction() as transaction:
        await transaction.fetch(database.prepare(try_lock), key=key)
        try:
            free: bool
            if engine.dialect.is_async:
                async with AsyncEngine(engine).begin() as connection:
                    free = await connection.run_sync(lambda made: _try_lock(engine, made, key, database))
            else:
                free = await asyncio.to_thread(_try_lock_in_thread, engine, key, database)
        except Exception as error:
            if reached(engine.pool) and is_passing(error):
                raise  # it went away just now, and is tried again
            raise RunnerError(f"sessions: {engine.url!r} can't be used: {describe(error)}") from error
    if free:
        raise InvalidOption(
            f"sessions: it leads to {engine.url!r}, which is not the database that the runner works in, "
            f"{database.engine.url!r}; a worker's writes could not be committed with its job"
        )


def _try_lock_in_thread(engine: Engine, key: int, database: Database) -> bool:
    with engine.begin() as connection:
        return _try_lock(engine, connection, key, database)


def _try_lock(engine: Engine, connection: Connection, key: int, database: Database) -> bool:
    _warn_of_prepared(engine, connection, database)
    return bool(connection.execute(try_lock(), {"key": key}).scalar_one())
