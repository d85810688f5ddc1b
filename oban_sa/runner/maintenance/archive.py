"""The function of a user that archives jobs, called in the transaction that deletes them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from oban_sa.describe import callables
from oban_sa.errors import InvalidOption
from oban_sa.jobs.retention import Archive
from oban_sa.models import Job, schema_map
from oban_sa.runner.database.connection import Transaction

WITHIN: Final = 60.0
"""Seconds that archiving and deleting one batch may take: a long transaction keeps the whole database from vacuum."""


class Archiving:
    """Hands jobs to the function, in sessions on the application's engine."""

    def __init__(self, archive: Archive, engine: AsyncEngine, *, schema: str) -> None:
        self._archive = archive
        mapped = schema_map(schema)
        self._bind = engine.execution_options(schema_translate_map=mapped) if mapped else engine

    @classmethod
    def of(cls, archive: Archive | str | None, engine: AsyncEngine, *, schema: str) -> Archiving | None:
        """Return what archives by a function, or None where there is none; raises `InvalidOption` for anything else."""
        found = checked(archive)
        return None if found is None else cls(found, engine, schema=schema)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[tuple[Transaction, AsyncSession]]:
        """Begin the transaction of a session, for statements of both; it is committed at the end."""
        async with (
            asyncio.timeout(WITHIN),
            AsyncSession(self._bind, expire_on_commit=False) as session,
            session.begin(),
        ):
            connection = await session.connection()
            await connection.exec_driver_sql("SELECT 1")  # the driver begins with the first statement that it sees
            raw: Any = (await connection.get_raw_connection()).driver_connection
            yield Transaction(raw), session

    async def archive(self, session: AsyncSession, jobs: Sequence[Job]) -> None:
        """Have jobs archived, and write what the function left in the session; raises where it has ended that."""
        await self._archive(session, list(jobs))
        await session.flush()
        await session.connection()


def checked(archive: Archive | str | None) -> Archive | None:
    """Return an archive that can be awaited, or None; raises `InvalidOption` for anything else."""
    if archive is None:
        return None
    if isinstance(archive, str) or inspect.isclass(archive) or not callables.is_async(archive):
        raise InvalidOption(f"archive is an async function of a session and a list of jobs, not {archive!r}")
    return archive
