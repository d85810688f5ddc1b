"""Find out again and again where this node stands among those that work on its queues."""

from __future__ import annotations

from typing import Final

from oban_sa.runner.database.database import Database
from oban_sa.runner.queue.election import Rank
from oban_sa.runner.queue.queues import Queues
from oban_sa.schedule import clock
from oban_sa.sql.rank import rank

LAST: Final = 3
"""Intervals for which a rank counts, and for which a producer that does not beat is still taken to live."""


class Ranks:
    """Reads the producers' rows every `every` seconds, which is how often they beat.

    All nodes see the same rows, so they agree on the order without a word. For as long as they do not, since one has
    come or gone, too many look for a job or too few; then the next poll finds it.
    """

    def __init__(self, database: Database, queues: Queues, *, every: float) -> None:
        self._line = database.shared
        self._ranking = database.prepare(rank)
        self._queues = queues
        self._every = every

    async def tick(self) -> float:
        """Read them once."""
        producers = self._queues.all
        until = clock.monotonic() + LAST * self._every
        rows = await self._line.fetch(
            self._ranking,
            uuids=[producer.uuid for producer in producers],
            queues=[producer.queue for producer in producers],
            lately=LAST * self._every,
        )
        found = {row["uuid"]: Rank(row["number"], row["nodes"], until) for row in rows}
        for producer in producers:
            producer.ranked(found.get(producer.uuid))
        return self._every

    async def close(self) -> None:
        """Close the connection."""
        await self._line.close()
