"""Make jobs available when their moment comes."""

from __future__ import annotations

from collections.abc import Callable

from oban_sa import clock, messages, telemetry
from oban_sa.runner.database import Database
from oban_sa.sql.staging import next_due, staging

LIMIT = 5000
"""Jobs staged by one statement."""


class Stager:
    """Stages due jobs of every queue and sleeps until the next is due, at most `every` seconds."""

    def __init__(
        self, database: Database, *, source: telemetry.Source, every: float, staged: Callable[[str], None]
    ) -> None:
        self._line = database.line()
        self._staging = database.prepare(staging())
        self._next_due = database.prepare(next_due())
        self._channel = messages.channel(source.schema, "insert")
        self._source = source
        self._every = every
        self._staged = staged

    async def tick(self) -> float:
        """Stage what is due; the seconds until the next job is."""
        started = clock.monotonic()
        rows = await self._line.fetch(self._staging, limit=LIMIT, channel=self._channel)
        for row in rows:
            self._staged(row["queue"])
        count = sum(row["count"] for row in rows)
        if count:
            telemetry.emit(
                telemetry.StagerStage(
                    runner=self._source,
                    count=count,
                    queues=tuple(row["queue"] for row in rows),
                    duration=clock.monotonic() - started,
                )
            )
        if count >= LIMIT:
            return 0
        seconds = (await self._line.fetch(self._next_due))[0]["seconds"]
        # A job that is overdue and was not staged is being staged elsewhere: no reason to hurry.
        return self._every if seconds is None or seconds <= 0 else min(seconds + 0.001, self._every)

    async def close(self) -> None:
        """Close the connection."""
        await self._line.close()
