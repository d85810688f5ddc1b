"""Find out whether another living node has this node's name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

from oban_sa import telemetry
from oban_sa.runner.database.database import Database
from oban_sa.sql.producers import namesakes

logger = logging.getLogger("oban_sa.runner")


class Namesakes:
    """Looks now and then for producers with this node's name that are not its own, and that beat.

    One that does not beat may be left from before a restart, as where this node was killed.
    """

    def __init__(
        self, database: Database, *, source: telemetry.Source, mine: Callable[[], Sequence[UUID]], every: float
    ) -> None:
        """`mine` returns this node's own producers; `every` is in seconds, more than between two heartbeats."""
        self._line = database.shared
        self._asking = database.prepare(namesakes)
        self._source = source
        self._mine = mine
        self._every = every
        self._beats: dict[UUID, datetime] = {}
        self.queues: tuple[str, ...] = ()
        """The queues that another living node of this name works on; empty where there is none."""

    async def tick(self) -> float:
        """Look once."""
        given: dict[str, object] = {"name": self._source.name, "node": self._source.node, "uuids": list(self._mine())}
        rows = await self._line.fetch(self._asking, **given)
        before, self._beats = self._beats, {row["uuid"]: row["updated_at"] for row in rows}
        alive = [row for row in rows if row["updated_at"] > before.get(row["uuid"], row["updated_at"])]
        queues = tuple(sorted({row["queue"] for row in alive}))
        if queues and not self.queues:
            logger.warning(
                "another living node of %s is named %s too and works on %s; what is said to one by name reaches both, "
                "and no job says which of them runs it. Give each a --node of its own, or leave it out",
                self._source.name,
                self._source.node,
                ", ".join(queues),
            )
        self.queues = queues
        return self._every

    async def close(self) -> None:
        """Close the connection."""
        await self._line.close()
