"""Delete rows of unique keys, rates, leases, journals and signals that no job needs any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from uuid import UUID

from sqlalchemy import Executable

from oban_sa.runner.cluster.leader import Leader
from oban_sa.runner.database.database import Database
from oban_sa.schedule import clock
from oban_sa.sql.leftovers import forget_journals, forget_keys, forget_leases, forget_rates, forget_signals

EVERY: Final = 60.0
"""Seconds between two walks over all rows."""

BATCH: Final = 2000
"""Rows that one statement looks at."""

REST: Final = 9.0
"""How long to rest after a batch in which many rows were deleted, in times of what the batch took."""

LONG_REST: Final = 99.0
"""The same after one in which few were: most keys are needed, and looking at them costs the server something."""

_WALKS: Final[tuple[tuple[Callable[[], Executable], UUID | int], ...]] = (
    (forget_keys, UUID(int=0)),
    (forget_journals, -(2**63)),
    (forget_signals, -(2**63)),
)
"""The tables of which all rows are looked at, and what comes before the first."""


class Leftovers:
    """Deletes what is left of jobs and holders that are gone, while this node leads.

    Nothing depends on when it is deleted: a key whose job is gone stands in no way, nothing reads its journal, and a
    rate that is full again and a lease that is over limit nothing. So there is no lease to be asked for, and two nodes
    that do it do no harm.
    """

    def __init__(self, database: Database, leader: Leader) -> None:
        self._line = database.shared
        self._leader = leader
        self._walks = [(database.prepare(statement), first) for statement, first in _WALKS]
        self._others = [database.prepare(each) for each in (forget_rates, forget_leases)]
        self._walk = 0
        self._after: UUID | int | None = None

    async def tick(self) -> float:
        """Delete a batch: seconds until the next one."""
        if not self._leader.leading:
            self._walk, self._after = 0, None
            return EVERY
        started = clock.monotonic()
        if self._walk == 0 and self._after is None:
            for each in self._others:
                while len(await self._line.fetch(each, batch=BATCH)) == BATCH:
                    pass
        while self._walk < len(self._walks):
            statement, first = self._walks[self._walk]
            after = first if self._after is None else self._after
            [row] = await self._line.fetch(statement, after=after, batch=BATCH)
            if row["seen"] == BATCH:
                self._after = row["last"]
                return (clock.monotonic() - started) * (REST if row["count"] * 10 > BATCH else LONG_REST)
            self._walk, self._after = self._walk + 1, None
        self._walk = 0
        return EVERY

    async def close(self) -> None:
        """Close the connection."""
        await self._line.close()
