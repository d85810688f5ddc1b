"""How many jobs there are and how long the first of each queue has waited, for those who watch from outside."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from oban_sa.jobs.states import JobState
from oban_sa.runner.cluster.leader import Leader
from oban_sa.runner.database.database import Database
from oban_sa.schedule import clock
from oban_sa.sql.counts import count
from oban_sa.sql.overview import oldest
from oban_sa.sql.producers import living

EVERY: Final = 10.0
"""Seconds between two looks."""

MOST: Final = 10_000
"""Jobs of one state and queue that are counted; where there are more, it says so."""

SHARE: Final = 0.02
"""The part of the time that may be spent counting: where one count takes long, the next comes later."""


@dataclass(frozen=True, slots=True)
class Found:
    """What one look found: jobs by queue and state, and by queue the seconds that the first has waited, and nodes."""

    jobs: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    oldest: dict[str, float] = field(default_factory=dict[str, float])
    nodes: dict[str, int] = field(default_factory=dict[str, int])


class Backlog:
    """Counts jobs again and again while this node leads: one node's figures are enough, and they cost something."""

    def __init__(self, database: Database, leader: Leader, *, lately: float) -> None:
        """`lately` is for how many seconds a silent node still counts as one that lives."""
        self._line = database.shared
        self._leader = leader
        self._lately = lately
        self._counting = database.prepare(count)
        self._oldest = database.prepare(oldest)
        self._living = database.prepare(living)
        self.found: Found | None = None
        """What was found last; None where this node does not lead."""

    async def tick(self) -> float:
        """Look; a node that leads no more forgets what it has found."""
        if not self._leader.leading:
            self.found = None
            return 1.0
        began = clock.monotonic()
        counts = {
            (row["queue"], row["state"]): int(row["count"])
            for row in await self._line.fetch(self._counting, limit=MOST)
        }
        queues = [queue for queue, state in counts if state == JobState.AVAILABLE]
        waits = await self._line.fetch(self._oldest, queues=queues)
        nodes = await self._line.fetch(self._living, lately=self._lately)
        # A queue that has no available jobs has none that waits: its line must come down to 0, and not end.
        served = {str(row["queue"]): int(row["nodes"]) for row in nodes}
        known = {queue for queue, _ in counts} | served.keys()
        self.found = Found(
            jobs=counts,
            oldest=dict.fromkeys(known, 0.0) | {row["queue"]: max(float(row["waiting_for"]), 0.0) for row in waits},
            nodes=dict.fromkeys(known, 0) | served,
        )
        took = clock.monotonic() - began
        return max(EVERY, took / SHARE)

    async def close(self) -> None:
        """Close the connection."""
        await self._line.close()
