"""Name the sessions whose locks the runner's own statements wait for."""

from __future__ import annotations

import logging
from typing import Any, Final

import asyncpg

from oban_sa import telemetry
from oban_sa.runner.database.database import Database
from oban_sa.schedule.periods import describe
from oban_sa.sql.locks import blockers

logger = logging.getLogger("oban_sa.runner")

AFTER: Final = 0.5
"""Seconds that a statement takes before the runner asks what it waits for."""

EVERY: Final = 0.4
"""Seconds between looks. A statement gives up waiting for a lock after `LOCK_WITHIN` seconds, so it is seen before."""

_MOST: Final = 1000
"""Transactions that are named in the life of a runner."""

_SHOWN: Final = 200
"""Characters of a query that are shown."""


class Blockers:
    """Warns once of each transaction that the runner waits for.

    The database is asked only while a statement takes long, on a connection that is closed again afterwards. Behind a
    pooler nothing is found: it doesn't tell which server process a statement runs in.
    """

    def __init__(self, database: Database, *, source: telemetry.Source) -> None:
        self._database = database
        self._line = database.line()
        self._blocking = database.prepare(blockers)
        self._source = source
        self._told: set[tuple[Any, ...]] = set()
        self._asked = False

    async def tick(self) -> float:
        """Ask for whom the statements wait that have been under way for long."""
        lines = [line for line in self._database.slow(AFTER) if line is not self._line]
        waiting = [line.pid for line in lines if line.pid is not None]
        if not waiting:
            if self._asked:
                self._asked = False
                await self._line.close()
            return EVERY
        self._asked = True
        rows = await self._line.fetch(self._blocking, pids=waiting)
        for row in rows:
            transaction = row["pid"], row["began"]
            if transaction not in self._told and len(self._told) < _MOST:
                self._told.add(transaction)
                self._tell(row)
        return EVERY

    async def close(self) -> None:
        """Close the connection."""
        await self._line.close()

    def _tell(self, row: asyncpg.Record) -> None:
        query = " ".join((row["query"] or "").split())[:_SHOWN]
        since = None if row["since"] is None else max(row["since"], 0.0)
        logger.warning(
            "a statement of this runner waits for a lock that another session holds: %s; it ran last: %s",
            ", ".join(_known(row, since)),
            query or "unknown",
        )
        telemetry.emit(
            telemetry.RunnerLocked(
                runner=self._source,
                pid=row["pid"],
                application=row["application"] or "",
                user=row["username"] or "",
                state=row["state"] or "",
                held_for=since,
                query=query,
            )
        )


def _known(row: Any, since: float | None) -> list[str]:
    known = [f"pid {row['pid']}" if row["pid"] else "a prepared transaction"]
    if row["application"]:
        known.append(row["application"])
    if row["username"]:
        known.append(f"user {row['username']}")
    if row["state"]:
        known.append(row["state"])
    if since is not None:
        known.append(f"in its transaction for {describe(round(since, 1))}")
    return known
