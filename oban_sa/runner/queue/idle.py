"""Find out whether a runner's queues have nothing left to do, on any node."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from oban_sa.runner.database.database import Database
from oban_sa.runner.execution.unknown_workers import parameters
from oban_sa.runner.queue.queues import Queues
from oban_sa.sql.flow import any_noted
from oban_sa.sql.stage import unfinished
from oban_sa.sql.unknown_workers import known

logger = logging.getLogger("oban_sa.runner")


class Idle:
    """Asks the tables; a paused queue counts as idle."""

    def __init__(self, database: Database, queues: Queues) -> None:
        self._line = database.shared
        self._unfinished = database.prepare(unfinished, known(), also=any_noted())
        self._queues = queues

    async def now(self, also: Iterable[str] = ()) -> bool:
        """Whether no job of these queues, and of those in `also`, is available, executing, due or about to be released.

        False where that can't be found out.
        """
        if not all(producer.idle() for producer in self._queues.all):
            return False
        queues = [queue for queue, producer in self._queues.serving.items() if not producer.paused]
        queues += also
        try:
            # Jobs that this program does not know may wait for days for one that does.
            unknown = parameters(name for producer in self._queues.all for name in producer.unknown.names())
            row = (await self._line.fetch(self._unfinished, queues=queues, **unknown))[0]
        except Exception:
            logger.debug("could not ask whether there is more to do", exc_info=True)
            return False
        return not any(row.values())
