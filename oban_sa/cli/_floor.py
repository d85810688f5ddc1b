"""What the driver alone does on our tables, with nothing in between: the floor that `bench` compares with."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from oban_sa import clock

_FETCH: Final = """
WITH picked AS MATERIALIZED (
    SELECT id FROM {jobs} WHERE state = 'available' AND queue = 'default' AND attempt < max_attempts
    ORDER BY priority, scheduled_at, id LIMIT $1 FOR UPDATE SKIP LOCKED
)
UPDATE {jobs} AS jobs SET state = 'executing', attempt = attempt + 1, attempted_at = timezone('UTC', now()),
    attempted_by = '{{floor,0}}'
FROM picked WHERE jobs.id = picked.id RETURNING jobs.id, jobs.worker, jobs.args::text
"""
_ACK: Final = """
UPDATE {jobs} SET state = 'completed', completed_at = timezone('UTC', clock_timestamp())
WHERE id = any($1::bigint[]) AND state::text = 'executing'
"""
_INSERT: Final = "INSERT INTO {jobs} (worker, args) VALUES ('bench.nothing', $1::text::jsonb) RETURNING id"
_INSERTS: Final = (
    "INSERT INTO {jobs} (worker, args) SELECT 'bench.nothing', args::jsonb FROM unnest($1::text[]) AS args"
)
_COLUMNS: Final = ("worker", "queue", "state", "args", "meta", "tags", "max_attempts", "priority", "scheduled_at")


class Floor:
    """The driver's connection, which asyncpg has given to an engine."""

    def __init__(self, driver: Any, schema: str) -> None:
        self._driver = driver
        self._schema = schema
        # The name of the schema is made by us, of letters, digits and underscores.
        self._statements = {
            name: statement.format(jobs=f"{schema}.oban_jobs")
            for name, statement in (("fetch", _FETCH), ("ack", _ACK), ("insert", _INSERT), ("inserts", _INSERTS))
        }

    @classmethod
    async def of(cls, connection: AsyncConnection, schema: str) -> Floor:
        """Take the connection below SQLAlchemy's, which must not be used meanwhile."""
        return cls((await connection.get_raw_connection()).driver_connection, schema)

    async def drain(self, limit: int) -> int:
        """Fetch a batch, do nothing, complete it, until none is left."""
        done = 0
        while rows := await self._driver.fetch(self._statements["fetch"], limit):
            await self._driver.execute(self._statements["ack"], [row["id"] for row in rows])
            done += len(rows)
        return done

    async def by_copy(self, args: Sequence[str]) -> None:
        """Write jobs by binary COPY, with the columns that ours has."""
        now: datetime = await self._driver.fetchval("SELECT timezone('UTC', now())")
        rows: list[tuple[Any, ...]] = [
            ("bench.nothing", "default", "available", each, "{}", [], 20, 0, now) for each in args
        ]
        await self._driver.copy_records_to_table("oban_jobs", schema_name=self._schema, columns=_COLUMNS, records=rows)

    async def at_once(self, args: Sequence[str]) -> None:
        """Write jobs by one INSERT, in a transaction of its own."""
        await self._driver.execute(self._statements["inserts"], list(args))

    async def one(self, args: str) -> None:
        """Write one job in a transaction of its own."""
        await self._driver.fetchval(self._statements["insert"], args)

    async def round_trips(self, count: int) -> list[float]:
        """Seconds that a statement takes which does nothing: the way to the server and back."""
        return await self._timed("SELECT 1", count)

    async def commits(self, count: int) -> list[float]:
        """Seconds that the smallest possible write takes, with its commit."""
        return await self._timed(self._statements["insert"], count, "{}")

    async def empty(self) -> None:
        """Remove all jobs."""
        await self._driver.execute(f"TRUNCATE {self._schema}.oban_jobs")

    async def settle(self) -> None:
        """Bring the table's statistics up to date, as autovacuum does in time."""
        await self._driver.execute(f"VACUUM ANALYZE {self._schema}.oban_jobs", timeout=300)

    async def completed(self) -> int:
        """Jobs that were completed by their first attempt."""
        query = f"SELECT count(*) FROM {self._schema}.oban_jobs WHERE state = 'completed' AND attempt = 1"  # noqa: S608
        found: int = await self._driver.fetchval(query)
        return found

    async def _timed(self, statement: str, count: int, *arguments: Any) -> list[float]:
        taken: list[float] = []
        for _ in range(count + 3):
            began = clock.monotonic()
            await self._driver.fetchval(statement, *arguments)
            taken.append(clock.monotonic() - began)
        return sorted(taken[3:])  # the first ones also prepare
