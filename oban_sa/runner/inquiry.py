"""What became of a commit that nobody answered."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from sqlalchemy.exc import DBAPIError

from oban_sa import clock
from oban_sa.errors import CommitUnanswered
from oban_sa.models import Job
from oban_sa.runner.database import Database, describe
from oban_sa.runner.disconnects import is_away
from oban_sa.runner.settling import Settled
from oban_sa.sql.inquiring import inquiring

logger = logging.getLogger("oban_sa.runner")

WITHIN: Final = 60.0
"""Seconds for which the database is asked."""

AGAIN: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between the first questions; the last one between all others."""


class Inquiry:
    """Asks the database, on a connection of the runner's own."""

    def __init__(self, database: Database) -> None:
        self._line = database.house
        self._question = database.prepare(inquiring())

    async def answer(self, job: Job, settled: Settled, error: BaseException) -> Settled:
        """Return what was settled if it was committed; raise `error` if not, and CommitUnanswered if nobody knows."""
        try:
            committed = await self._committed(settled)
        except asyncio.CancelledError:
            committed = None
        if committed is None:
            raise CommitUnanswered(f"the commit of this attempt was never answered: {describe(error)}") from error
        if not committed:
            raise error
        settled.written = True
        if isinstance(error, Exception) and not is_away(error):
            logger.error(
                "job %s %s was committed, and an error came after that: %s",
                job.id,
                job.worker,
                describe(error),
                exc_info=error,
            )
        else:
            logger.info("job %s %s was committed, although the connection broke meanwhile", job.id, job.worker)
        return settled

    async def _committed(self, settled: Settled) -> bool | None:
        until = clock.monotonic() + WITHIN
        turn = 0
        while clock.monotonic() < until:
            try:
                [row] = await self._line.fetch(
                    self._question,
                    xid=settled.xid,
                    job_id=settled.verdict.job_id,
                    attempt=settled.verdict.attempt,
                    attempted_at=settled.verdict.attempted_at,
                    holder=settled.verdict.holder,
                )
            except Exception as error:
                if not is_away(error):
                    # A server that was restored from a backup knows no such transaction.
                    logger.warning("could not ask what became of a commit: %s", describe(error))
                    return None
            else:
                if row["status"] is None:
                    return None
                if row["status"] != "in progress":
                    return row["status"] == "committed" and not row["held"]
            await asyncio.sleep(AGAIN[min(turn, len(AGAIN) - 1)])
            turn += 1
        return None


def unanswered(settled: Settled, error: BaseException) -> bool:
    """Whether this error leaves open if what was settled is committed."""
    if settled.xid is None or settled.written is not None:
        return False
    refused = isinstance(error, DBAPIError) and not error.connection_invalidated and not is_away(error)
    return not refused
