"""Delete rows of unique keys, rates and leases that no job needs any more."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from oban_sa.runner.cluster.leader import Leader
from oban_sa.runner.database.database import Database
from oban_sa.schedule import clock
from oban_sa.sql.leftovers import forget_keys, forget_leases, forget_rates

EVERY: Final = 60.0
"""Seconds between two walks over all rows."""

BATCH: Final = 2000
"""Rows that one statement looks at."""

REST: Final = 9.0
"""How long to rest after a batch in which many rows were deleted, in times of what the batch took."""

LONG_REST: Final = 99.0
"""The same after one in which few were: most keys are needed, and looking at them costs the server something."""

_FIRST: Final = UUID(int=0)


class Leftovers:
    """Deletes what is left of jobs and holders that are gone, while this node leads.

    Nothing depends on when it is deleted: a key whose job is gone stands in no way, and a rate that is full again and a
    lease that is over limit nothing. So there is no lease to be asked for, and two nodes that do it do no harm.
    """

    def __init__(self, database: Database, leader: Leader) -> None:
        self._line = database.shared
        self._leader = leader
        self._keys = database.prepare(forget_keys)
        self._others = [database.prepare(each) for each in (forget_rates, forget_leases)]
        self._after = _FIRST

    async def tick(self) -> float:
        """Delete a batch: seconds until the next one."""
        if not self._leader.leading:
            self._after = _FIRST
            return EVERY
        started = clock.monotonic()
        if self._after == _FIRST:
            for each in self._others:
                while len(await self._line.fetch(each, batch=BATCH)) == BATCH:
                    pass
        [row] = await self._line.fetch(self._keys, after=self._after, batch=BATCH)
        if row["seen"] < BATCH:
            self._after = _FIRST
            return EVERY
        self._after = row["last"]
        return (clock.monotonic() - started) * (REST if row["count"] * 10 > BATCH else LONG_REST)

    async def close(self) -> None:
        """Close the connection."""
        await self._line.close()
