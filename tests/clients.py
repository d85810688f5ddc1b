"""What tests of the client share: jobs in the tables, and notifications that were sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from oban_sa.models import Job
from oban_sa.wire import messages
from tests.support import plain_url


async def stored(engine: AsyncEngine, *jobs: Job) -> list[Job]:
    """Write jobs as they are, in any state."""
    async with AsyncSession(engine, expire_on_commit=False) as session, session.begin():
        session.add_all(jobs)
    return list(jobs)


async def change(engine: AsyncEngine, *ids: int, **values: Any) -> None:
    """Set columns of jobs by an UPDATE, without the client."""
    async with engine.begin() as connection:
        await connection.execute(update(Job.__table__).where(Job.id.in_(ids)).values(**values))


async def one_row(engine: AsyncEngine, sql: str, **parameters: Any) -> dict[str, Any]:
    async with engine.connect() as connection:
        return dict((await connection.execute(text(sql), parameters)).mappings().one())


class Ears:
    """Receives the notifications on our channels."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._heard: list[tuple[str, Any]] = []
        self._done = asyncio.Event()

    async def listen(self, schema: str = "public") -> None:
        for short in ("insert", "signal", messages.NODES):
            await self._connection.add_listener(messages.channel(schema, short), self._hear)
        await self._connection.add_listener("done", self._end)

    async def heard(self) -> list[tuple[str, Any]]:
        """The notifications of transactions committed since the last call: (`insert`, `signal` or `nodes`, message).

        Of new jobs without what is said beside their queue, which `tests/outbox/test_news.py` looks at.
        """
        self._done.clear()
        await self._connection.execute("NOTIFY done")
        await asyncio.wait_for(self._done.wait(), 10)
        heard, self._heard = self._heard, []
        return heard

    def _hear(self, _connection: object, _pid: int, channel: str, payload: str) -> None:
        short, message = channel.rpartition("oban_")[2], messages.decode(payload)
        if short == "insert" and message is not None:
            message = {"queue": message["queue"]}
        self._heard.append((short, message))

    def _end(self, *_: object) -> None:
        self._done.set()


@asynccontextmanager
async def ears(url: str, schema: str = "public") -> AsyncIterator[Ears]:
    connection = await asyncpg.connect(plain_url(url))
    try:
        listening = Ears(connection)
        await listening.listen(schema)
        yield listening
    finally:
        await connection.close()
