"""What the driver and PostgreSQL could do on the same tables, with nothing in between: the floor of every figure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg

FETCH = """
WITH picked AS MATERIALIZED (
    SELECT id FROM oban_jobs WHERE state = 'available' AND queue = 'bench' AND attempt < max_attempts
    ORDER BY priority, scheduled_at, id LIMIT $1 FOR UPDATE SKIP LOCKED
)
UPDATE oban_jobs
SET state = 'executing', attempt = attempt + 1, attempted_at = timezone('UTC', now()), attempted_by = $2
FROM picked WHERE oban_jobs.id = picked.id
RETURNING oban_jobs.id, oban_jobs.worker, oban_jobs.args::text
"""
ACK = """
UPDATE oban_jobs SET state = 'completed', completed_at = timezone('UTC', clock_timestamp())
WHERE id = any($1::bigint[]) AND state::text = 'executing'
"""
ONE = "INSERT INTO oban_jobs (worker, queue, args) VALUES ($1, 'bench', $2) RETURNING id"
MANY = """
INSERT INTO oban_jobs (worker, queue, args) SELECT $1, 'bench', args::jsonb FROM unnest($2::text[]) AS args RETURNING id
"""


async def insert_one(connection: asyncpg.Connection, worker: str, args: str) -> None:
    """One prepared INSERT, in a transaction of its own."""
    await connection.fetchval(ONE, worker, args)


class Listener:
    """Waits for notifications and fetches at once; `arrived` is called for each job."""

    def __init__(
        self, connection: asyncpg.Connection, listening: asyncpg.Connection, *, arrived: Callable[[], None]
    ) -> None:
        self._arrived = arrived
        self._connection = connection
        self._listening = listening
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._listening.add_listener("floor", lambda *_: self._woken.set())
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            rows: list[Any] = await self._connection.fetch(FETCH, 10, ["floor", "0"])
            for _ in rows:
                self._arrived()
            if rows:
                await self._connection.execute(ACK, [row["id"] for row in rows])
