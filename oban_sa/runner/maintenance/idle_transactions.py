"""Name attempts that keep a transaction open and do nothing with it."""

from __future__ import annotations

import logging
from typing import Final

from oban_sa import telemetry
from oban_sa.describe.job_facts import job_facts
from oban_sa.runner.database.database import Database
from oban_sa.runner.sessions.connections import AttemptConnections, Connections
from oban_sa.schedule import clock
from oban_sa.schedule.periods import describe
from oban_sa.sql.activity import idle

logger = logging.getLogger("oban_sa.runner")

LOOKS: Final = 2
"""How often it looks in the span after which an attempt is named."""


class IdleTransactions:
    """Warns once of each attempt whose connection has been idle in a transaction for `after` seconds.

    The database is asked only where an attempt has held a connection for that long. A transaction that waits for
    its client keeps its locks, and keeps the dead rows of all tables from being removed.
    """

    def __init__(self, database: Database, connections: Connections, *, after: float, source: telemetry.Source) -> None:
        self._after = after
        self._line = database.shared
        self._idling = database.prepare(idle)
        self._connections = connections
        self._source = source
        self._told: set[AttemptConnections] = set()

    async def tick(self) -> float:
        """Look for attempts that have had a connection for too long, and ask the server what they do."""
        in_use = dict(self._connections.in_use)
        self._told &= in_use.keys()
        now = clock.monotonic()
        suspects = {
            pid: attempt
            for attempt, since in in_use.items()
            if now - since >= self._after and attempt not in self._told
            for pid in attempt.pids
        }
        if suspects:
            for row in await self._line.fetch(self._idling, pids=list(suspects)):
                attempt = suspects[row["pid"]]
                if row["idle"] >= self._after and attempt in self._connections.in_use:
                    self._told.add(attempt)
                    self._tell(attempt, row["idle"])
        return self._after / LOOKS

    async def close(self) -> None:
        """Close the connection."""
        await self._line.close()

    def _tell(self, attempt: AttemptConnections, idle: float) -> None:
        job = attempt.job
        logger.warning(
            "job %s %s has left its connection idle in a transaction for %s, which keeps locks and holds up vacuum; "
            "let it commit or roll back before it waits for something else",
            job.id,
            job.worker,
            describe(round(idle, 1)),
            extra=job_facts(job),
        )
        telemetry.emit(telemetry.JobIdle.of(self._source, job, idle=idle))
