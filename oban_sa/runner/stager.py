"""Make jobs available when their moment comes."""

from __future__ import annotations

from collections.abc import Callable

from oban_sa import clock, messages, telemetry
from oban_sa.runner.database import Database
from oban_sa.sql.staging import staging

LIMIT = 5000
"""Jobs staged by one statement."""


class Stager:
    """Stages due jobs of every queue and sleeps until the next is due, at most `every` seconds."""

    def __init__(
        self, database: Database, *, source: telemetry.Source, every: float, staged: Callable[[str], None]
    ) -> None:
        self._line = database.line()
        self._staging = database.prepare(staging())
        self._channel = messages.channel(source.schema, "insert")
        self._source = source
        self._every = every
        self._staged = staged

    async def tick(self) -> float:
        """Stage what is due; the seconds until the next job is."""
        started = clock.monotonic()
        rows = await self._line.fetch(self._staging, limit=LIMIT, channel=self._channel)
        ahead = rows[0]["seconds"]
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
        # A millisecond later than the moment, lest it be a microsecond too early.
        return self._every if ahead is None else min(max(ahead, 0) + 0.001, self._every)

    async def close(self) -> None:
        """Close the connection."""
        await self._line.close()
