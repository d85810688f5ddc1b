"""Name attempts that keep a transaction open and do nothing with it."""

from __future__ import annotations

import logging
from typing import Final

from oban_sa import clock, telemetry
from oban_sa.periods import describe
from oban_sa.runner.database import Database
from oban_sa.runner.lending import Lender, Loan
from oban_sa.sql.idling import idling

logger = logging.getLogger("oban_sa.runner")

LOOKS: Final = 2
"""How often it looks in the span after which an attempt is named."""


class IdleTransactions:
    """Warns once of each attempt whose connection has been idle in a transaction for `after` seconds.

    The database is asked only where an attempt has held a connection for that long. A transaction that waits for
    its client keeps its locks, and keeps the dead rows of all tables from being removed.
    """

    def __init__(self, database: Database, lender: Lender, *, after: float, source: telemetry.Source) -> None:
        self._after = after
        self._line = database.house
        self._idling = database.prepare(idling)
        self._lender = lender
        self._source = source
        self._told: set[Loan] = set()

    async def tick(self) -> float:
        """Look whether somebody holds a connection for too long, and then ask what it does."""
        loans = dict(self._lender.loans)
        self._told &= loans.keys()
        now = clock.monotonic()
        suspects = {
            pid: loan
            for loan, since in loans.items()
            if now - since >= self._after and loan not in self._told
            for pid in loan.pids
        }
        if suspects:
            for row in await self._line.fetch(self._idling, pids=list(suspects)):
                loan = suspects[row["pid"]]
                if row["idle"] >= self._after and loan in self._lender.loans:
                    self._told.add(loan)
                    self._tell(loan, row["idle"])
        return self._after / LOOKS

    async def close(self) -> None:
        """Close the connection."""
        await self._line.close()

    def _tell(self, loan: Loan, idle: float) -> None:
        job = loan.job
        logger.warning(
            "job %s %s has left its connection idle in a transaction for %s, which keeps locks and holds up vacuum; "
            "let it commit or roll back before it waits for something else",
            job.id,
            job.worker,
            describe(round(idle, 1)),
            extra={"job_id": job.id, "worker": job.worker, "queue": job.queue, "attempt": job.attempt},
        )
        telemetry.emit(telemetry.JobIdle.of(self._source, job, idle=idle))
