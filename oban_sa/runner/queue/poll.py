"""Look now and then for jobs that no message told of, with one statement for all queues of a node."""

from __future__ import annotations

import logging

from oban_sa.describe.exceptions import describe
from oban_sa.runner.database.database import Database
from oban_sa.runner.database.server_settings import ENOUGH
from oban_sa.runner.queue.queues import Queues
from oban_sa.schedule import clock
from oban_sa.sql.look import look

logger = logging.getLogger("oban_sa.runner")


class Poll:
    """Looks every `every` seconds, and wakes the producers of the queues in which jobs wait.

    Each producer would poll by itself, with a fetch, were it not told again and again that a look has succeeded. So
    where the statement fails or hangs, queues are polled all the same.
    """

    def __init__(self, database: Database, queues: Queues, *, every: float) -> None:
        self._line = database.shared
        self._looking = database.prepare(look, enough=ENOUGH)
        self._table = database.named("oban_jobs")
        self._queues = queues
        self._every = every

    async def tick(self) -> float:
        """Look once: seconds until the next look."""
        sent_at = clock.monotonic()
        asked = [producer.queue for producer in self._queues.all if producer.has_room]
        try:
            [found] = await self._line.fetch(self._looking, queues=asked, table=self._table)
        except Exception as error:
            logger.debug("could not look for jobs of all queues at once (%s); each looks by itself", describe(error))
            for producer in self._queues.all:
                producer.nudge()
        else:
            waiting = frozenset(found["waiting"])
            for producer in self._queues.all:
                producer.looked(sent_at, waits=producer.queue in waiting, size=found["size"])
        return self._every

    async def close(self) -> None:
        """Close the connection."""
        await self._line.close()
