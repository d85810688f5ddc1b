"""See that the application's sessions lead to where the runner works."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa.errors import InvalidOption, RunnerError
from oban_sa.failures import describe
from oban_sa.runner.database import Database
from oban_sa.runner.disconnects import is_passing
from oban_sa.runner.starting import reached, watch
from oban_sa.sql.sameness import marking


async def check_same_database(engine: Engine, database: Database) -> None:
    """Raise InvalidOption where an engine leads to another database than the runner's; a URL alone can't tell.

    What the runner marks must be marked for a connection of this engine too.
    """
    if engine.pool is database.engine.pool:
        return
    watch(engine.pool)
    key = secrets.randbits(62)
    async with database.house.transaction() as transaction:
        await transaction.fetch(database.prepare(marking()), key=key)
        try:
            free: Any
            if engine.dialect.is_async:
                async with AsyncEngine(engine).begin() as connection:
                    free = (await connection.execute(marking(), {"key": key})).scalar_one()
            else:
                free = await asyncio.to_thread(_free, engine, key)
        except Exception as error:
            if reached(engine.pool) and is_passing(error):
                raise  # it went away just now, and is tried again
            raise RunnerError(f"sessions: {engine.url!r} can't be used: {describe(error)}") from error
    if free:
        raise InvalidOption(
            f"sessions: it leads to {engine.url!r}, which is not the database that the runner works in, "
            f"{database.engine.url!r}; a worker's writes could not be committed with its job"
        )


def _free(engine: Engine, key: int) -> Any:
    with engine.begin() as connection:
        return connection.execute(marking(), {"key": key}).scalar_one()
