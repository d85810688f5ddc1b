"""What became of a commit that nobody answered."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from sqlalchemy.exc import DBAPIError

from oban_sa import clock
from oban_sa.errors import CommitUnanswered
from oban_sa.models import Job
from oban_sa.periods import describe as span
from oban_sa.runner.database import Database, describe
from oban_sa.runner.disconnects import is_away
from oban_sa.runner.settling import Settled, true_start
from oban_sa.runner.young import Written
from oban_sa.sql.idling import ending
from oban_sa.sql.inquiring import inquiring
from oban_sa.sql.keeping import reverting

logger = logging.getLogger("oban_sa.runner")

WITHIN: Final = 60.0
"""Seconds for which the database is asked."""

EXPLAIN_WITHIN: Final = 2.0
"""Seconds in which the server must have said which limits it has."""

AGAIN: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between the first questions; the last one between all others."""


class Inquiry:
    """Asks the database, on a connection of the runner's own."""

    def __init__(self, database: Database, young: Written | None = None) -> None:
        """`young` knows which attempts were kept young."""
        self._young = Written() if young is None else young
        self._line = database.house
        self._question = database.prepare(inquiring)
        self._reverting = database.prepare(reverting)
        self._ending = database.prepare(ending)

    async def explain(self, error: BaseException, *, held_for: float | None) -> None:
        """Add a note to an attempt's error where its connection, held for so long, was ended by a limit of the server.

        The driver says only that the connection is closed. Nothing is added where the database can't be asked.
        """
        if held_for is None or not isinstance(error, DBAPIError) or not is_away(error):
            return
        try:
            rows = await self._line.fetch(self._ending, within=EXPLAIN_WITHIN)
        except Exception:
            logger.debug("could not ask for the server's limits", exc_info=True)
            return
        for row in rows:
            if row["seconds"] <= held_for:
                error.add_note(
                    f"The server ends sessions by itself: {row['name']} is {span(row['seconds'])}, and this "
                    f"attempt held its connection for {span(round(held_for, 1))}. Let it commit or roll back before it "
                    f"waits for something else, or raise the limit: ALTER ROLE ... SET {row['name']} = ..."
                )

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
                # What was rolled back, or lost with the server, had a start of its own among other things.
                if moments := self._young.of(settled.verdict):
                    await self._line.fetch(self._reverting, **true_start(settled.verdict, moments))
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
