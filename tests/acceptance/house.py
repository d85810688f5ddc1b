"""Words for tests that look at a database which real runners work on."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from oban_sa import Job, enqueue_many


async def enqueue(engine: AsyncEngine, *wanted: Job) -> list[int]:
    async with async_sessionmaker(engine, expire_on_commit=False).begin() as session:
        enqueue_many(session, wanted)
    return [job.id for job in wanted]


async def sql(engine: AsyncEngine, statement: str) -> list[Any]:
    async with engine.begin() as connection:
        result = await connection.execute(text(statement))
        return [tuple(row) for row in result.all()] if result.returns_rows else []
