"""Make scheduled and retryable jobs available when they are due."""

from __future__ import annotations

import logging
from collections.abc import Callable

import asyncpg

from oban_sa import telemetry
from oban_sa.describe import exceptions
from oban_sa.jobs.backoff import REFUSED_WAITS
from oban_sa.runner.database.database import Database
from oban_sa.runner.database.errors import is_refused
from oban_sa.schedule import clock
from oban_sa.schedule.periods import describe
from oban_sa.sql.stage import among, due, postpone, stage
from oban_sa.wire import messages

logger = logging.getLogger("oban_sa.runner")

LIMIT = 5000
"""Jobs staged by one statement."""


class Stager:
    """Stages due jobs of every queue, and rests until the next is due, for `every` seconds at most."""

    def __init__(
        self, database: Database, *, source: telemetry.Source, every: float, staged: Callable[[str], None]
    ) -> None:
        self._line = database.line()
        self._stage_all = database.prepare(stage)
        self._stage_some = database.prepare(stage, among())
        self._due = database.prepare(due)
        self._postpone_one = database.prepare(postpone)
        self._told: set[int] = set()
        self._channel = messages.channel(source.schema, "insert")
        self._source = source
        self._every = every
        self._staged = staged

    async def tick(self) -> float:
        """Stage what is due: seconds until the next job is due."""
        started = clock.monotonic()
        try:
            rows = await self._line.fetch(self._stage_all, limit=LIMIT, channel=self._channel)
        except Exception as error:
            if not is_refused(error):
                raise
            rows = await self._one_by_one()
        ahead = rows[-1]["seconds"]
        staged = [row for row in rows if row["queue"] is not None]
        for row in staged:
            self._staged(row["queue"])
        count = sum(row["count"] for row in staged)
        if count:
            telemetry.emit(
                telemetry.StagerStage(
                    runner=self._source,
                    count=count,
                    queues=tuple(row["queue"] for row in staged),
                    duration=clock.monotonic() - started,
                )
            )
        if count >= LIMIT:
            return 0
        # A millisecond later: the timer may fire a little too early.
        return self._every if ahead is None else min(max(ahead, 0) + 0.001, self._every)

    async def _one_by_one(self) -> list[asyncpg.Record]:
        """Stage what the database allows, and postpone each job that a rule of the application refuses.

        Such as a unique index over available jobs: the job is tried again once the other has begun.
        """
        ids = [row["id"] for row in await self._line.fetch(self._due, limit=LIMIT)]
        halves = [ids] if len(ids) == 1 else [ids[: len(ids) // 2], ids[len(ids) // 2 :]]
        found: list[asyncpg.Record] = []
        while halves:
            half = halves.pop(0)
            try:
                found += await self._stage(half)
            except Exception as error:
                if not is_refused(error):
                    raise
                if len(half) > 1:
                    halves[:0] = [half[: len(half) // 2], half[len(half) // 2 :]]
                else:
                    await self._postpone(half[0], error)
        # Once more for no job, to learn when the next is due by now.
        return found + await self._stage([])

    async def _stage(self, ids: list[int]) -> list[asyncpg.Record]:
        return await self._line.fetch(self._stage_some, limit=LIMIT, channel=self._channel, ids=ids)

    async def _postpone(self, job_id: int, error: Exception) -> None:
        try:
            await self._line.fetch(self._postpone_one, job_id=job_id, seconds=REFUSED_WAITS)
        except Exception as refused:
            if not is_refused(refused):
                raise
        if job_id not in self._told:
            self._told.add(job_id)
            logger.warning(
                "the database refused to make job %d available, which is tried again every %s: %s",
                job_id,
                describe(REFUSED_WAITS),
                exceptions.describe(error),
            )

    async def close(self) -> None:
        """Close the connection."""
        await self._line.close()
