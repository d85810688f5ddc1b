"""What became of a commit whose answer never came: the transaction is in doubt until the database is asked."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from sqlalchemy.exc import DBAPIError

from oban_sa.describe.exceptions import describe
from oban_sa.errors import CommitUnanswered
from oban_sa.jobs.verdicts import Verdict
from oban_sa.models import Job
from oban_sa.runner.cluster.attempt_age import Written
from oban_sa.runner.database.database import Database
from oban_sa.runner.database.errors import is_away
from oban_sa.runner.sessions.commit import true_start
from oban_sa.schedule import clock
from oban_sa.schedule.periods import describe as span
from oban_sa.sql.activity import idle_limits
from oban_sa.sql.attempt_age import revert
from oban_sa.sql.fence import commit_status

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
        self._line = database.shared
        self._question = database.prepare(commit_status)
        self._reverting = database.prepare(revert)
        self._ending = database.prepare(idle_limits)

    async def explain(self, error: BaseException, *, open_for: float | None) -> None:
        """Add a note to an attempt's error where its connection, open for so long, was ended by a limit of the server.

        The driver says only that the connection is closed. Nothing is added where the database can't be asked.
        """
        if open_for is None or not isinstance(error, DBAPIError) or not is_away(error):
            return
        try:
            rows = await self._line.fetch(self._ending, EXPLAIN_WITHIN)
        except Exception:
            logger.debug("could not ask for the server's limits", exc_info=True)
            return
        for row in rows:
            if row["seconds"] <= open_for:
                error.add_note(
                    f"The server ends sessions by itself: {row['name']} is {span(row['seconds'])}, and this "
                    f"attempt held its connection for {span(round(open_for, 1))}. Let it commit or roll back before it "
                    f"waits for something else, or raise the limit: ALTER ROLE ... SET {row['name']} = ..."
                )

    async def require_committed(self, job: Job, verdict: Verdict, xid: int, error: BaseException) -> None:
        """Return where the transaction `xid` was committed; raise `error` where not, `CommitUnanswered` if unknown."""
        try:
            committed = await self._committed(verdict, xid)
        except asyncio.CancelledError:
            committed = None
        if committed is None:
            raise CommitUnanswered(f"the commit of this attempt was never answered: {describe(error)}") from error
        if not committed:
            raise error
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

    async def _committed(self, verdict: Verdict, xid: int) -> bool | None:
        until = clock.monotonic() + WITHIN
        turn = 0
        while clock.monotonic() < until:
            try:
                # What was rolled back, or lost with the server, had a start of its own among other things.
                if moments := self._young.of(verdict):
                    await self._line.fetch(self._reverting, **true_start(verdict, moments))
                [row] = await self._line.fetch(
                    self._question,
                    xid=xid,
                    job_id=verdict.job_id,
                    attempt=verdict.attempt,
                    attempted_at=verdict.attempted_at,
                    holder=verdict.holder,
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


def in_doubt(error: BaseException) -> bool:
    """Whether the error of a commit leaves open if the transaction was committed: all but a refusal of the server."""
    return not isinstance(error, DBAPIError) or error.connection_invalidated or is_away(error)
