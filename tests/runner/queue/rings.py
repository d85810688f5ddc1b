"""A queue with partitions, and producers' statements on it, each on a connection of its own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa import telemetry
from oban_sa.jobs.attempted_by import new_producer
from oban_sa.jobs.limits import Queue
from oban_sa.jobs.states import JobState
from oban_sa.jobs.verdicts import Verdict
from oban_sa.runner.database.connection import in_order
from oban_sa.runner.database.database import Database
from oban_sa.runner.database.prepared import prepared
from oban_sa.runner.queue.limits import Limited
from oban_sa.sql.ack import as_completed
from oban_sa.sql.fetch import BEGINNING
from oban_sa.sql.plan import Plan
from oban_sa.sql.producers import register


def key_of(row: Any) -> str:
    key: str = json.loads(row["meta"])["partition"]
    return key


def keys(rows: Sequence[Any]) -> Counter[str]:
    return Counter(map(key_of, rows))


class Fetcher:
    """A producer's statements within limits, in transactions that a test may keep open."""

    def __init__(self, connection: asyncpg.Connection, queue: Queue, plan: Plan | None = None) -> None:
        self.connection = connection
        self.uuid = new_producer()
        self.holder = ["web.1", str(self.uuid)]
        assert queue.limits is not None
        self.limited = Limited(queue.limits, "default", telemetry.Source(node="n"))
        self.plan = self.limited.plan(plan or Plan())

    @classmethod
    @asynccontextmanager
    async def on(cls, engine: AsyncEngine, queue: Queue, plan: Plan | None = None) -> AsyncIterator[Fetcher]:
        connection = await Database(engine).connect(keeps_plans=True)
        made = cls(connection, queue, plan)
        await made.run(prepared("public", register), name="Oban", node="web.1", meta="{}", uuid=made.uuid)
        try:
            yield made
        finally:
            await connection.close()

    async def run(self, statement: Any, before: str = "", **given: Any) -> list[Any]:
        values = {**self.plan.parameters, "queue": "default", "producer": self.uuid, "holder": self.holder, **given}
        return await self.connection.fetch(before + statement.text.sql, *in_order(statement.text, values))

    async def fetch(self, demand: int, done: Sequence[Any] = (), before: str = "", **more: Any) -> list[Any]:
        """Complete the jobs of some rows and take others, or explain how."""
        given = {
            # A producer begins at any key; a test that does not say where, at the first one.
            "ring": "{}",
            **{name: value for name, value in self.limited.given().items() if value is not None},
            "demand": demand,
            "from_priority": BEGINNING.priority,
            "from_scheduled_at": BEGINNING.scheduled_at,
            "from_id": BEGINNING.id,
            **more,
        }
        make = Plan.fetch
        if done:
            make = Plan.complete_and_fetch
            verdicts = [
                Verdict(row["id"], row["attempt"], JobState.COMPLETED, attempted_at=row["attempted_at"]) for row in done
            ]
            given |= as_completed(verdicts)
        rows = await self.run(prepared("public", make, self.plan), before, **given)
        if before:
            return rows
        return [row for row in self.limited.hear(rows) if row["acked"] is None]

    async def buffers(self, demand: int, **more: Any) -> int:
        """How many buffers a fetch reads, once what it needs of the catalog is known; it takes nothing."""
        for _ in range(2):
            transaction = self.connection.transaction()
            await transaction.start()
            [(answer,)] = await self.fetch(demand, before="EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ", **more)
            await transaction.rollback()
        plan = answer[0]["Plan"]
        return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


async def fill(
    connection: asyncpg.Connection, key: str | None, count: int = 1, *, priority: int = 0, numbered: bool = False
) -> None:
    """Write available jobs, of one key or each of its own."""
    await connection.execute(
        "INSERT INTO oban_jobs (worker, queue, priority, meta, scheduled_at, max_attempts) "
        "SELECT 'worker', 'default', $1, CASE WHEN $2::text IS NULL THEN '{}' ELSE "
        "jsonb_build_object('partition', $2 || CASE WHEN $4 THEN n::text ELSE '' END) END, "
        "timezone('UTC', now()) - interval '1 minute' + n * interval '1 microsecond', 20 "
        "FROM generate_series(1, $3::int) n",
        priority,
        key,
        count,
        numbered,
    )
