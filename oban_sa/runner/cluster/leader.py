"""Leadership: a lease in the database, which one node at a time has, for work that must be done once."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime

from oban_sa import telemetry
from oban_sa.jobs import values
from oban_sa.runner.database.connection import Transaction
from oban_sa.runner.database.database import Database
from oban_sa.runner.database.errors import is_away
from oban_sa.schedule import clock
from oban_sa.sql.lease import elect, lease_name, lock_lease, resign
from oban_sa.sql.notify import NOTIFY
from oban_sa.wire import messages

logger = logging.getLogger("oban_sa.runner")

CLOSING = 2.0
"""Seconds that a stopping leader spends on giving up its lease."""


class Leader:
    """Takes the lease when it is free, renews it at half its life, and gives it up when the runner stops.

    The database's clock decides which node leads, inside the transaction that does the work: see `holds`. `leading` is
    only this node's own opinion, which saves the question where it is False.
    """

    def __init__(self, database: Database, *, source: telemetry.Source, lasts: float) -> None:
        self._line = database.shared
        self._lasts = lasts
        self._source = source
        self._electing = database.prepare(elect)
        self._leading = database.prepare(lock_lease)
        self._resigning = database.prepare(resign)
        self._announcing = database.prepare(NOTIFY)
        self._channel = messages.channel(source.schema, "leader")
        self._held_since: datetime | None = None
        self._elected_at = 0.0
        self._until = 0.0

    @property
    def leading(self) -> bool:
        """Whether this node believes that it leads."""
        return self._held_since is not None and clock.monotonic() < self._until

    @property
    def led_for(self) -> float:
        """Seconds for which this node has believed that it leads, without a break; 0 where it does not."""
        return clock.monotonic() - self._elected_at if self.leading else 0.0

    async def tick(self) -> float:
        """Take the lease or renew it."""
        asked_at = clock.monotonic()
        rows = await self._line.fetch(self._electing, **self._mine(), lasts=self._lasts)
        before, self._held_since = self._held_since, rows[0]["elected_at"] if rows else None
        # A lease of this node's own that ran out is taken again with its old `elected_at`, yet it did run out. A new
        # one, while the last should still last, means that the unlogged table was emptied; so may the producers' be.
        if not self.leading or self._held_since != before:
            self._elected_at = clock.monotonic()
        self._until = asked_at + self._lasts
        if self._held_since != before:
            telemetry.emit(telemetry.LeaderElection(runner=self._source, leader=self._held_since is not None))
        # Others look as often as the leader renews, so a lease that runs out is taken within half its life.
        return self._lasts / 2 if rows else self._lasts / 4

    async def holds(self, transaction: Transaction) -> bool:
        """Whether this node leads, asked in the transaction that does the work; it leads until that has committed."""
        return bool(await transaction.fetch(self._leading, **self._mine()))

    async def close(self) -> None:
        """Give the lease up, so that another node leads at once."""
        try:
            if self._held_since is not None:
                async with asyncio.timeout(CLOSING):
                    await self._line.fetch(self._resigning, **self._mine())
                    resigned = messages.resign(self._source.name, self._source.node)
                    payloads = values.dumps([messages.encode(resigned)])
                    await self._line.fetch(self._announcing, channel=self._channel, payloads=payloads)
        except Exception as error:
            if not is_away(error):
                logger.exception("the lease could not be given up; it runs out by itself")
        finally:
            self._held_since = None
            await self._line.close()

    def _mine(self) -> dict[str, object]:
        return {"lease": lease_name(self._source.name), "holder": self._source.node, "held_since": self._held_since}
