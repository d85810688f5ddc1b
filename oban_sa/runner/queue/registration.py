"""The row of a producer: written, kept up to date, found to have been removed by others, and removed at the end."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from uuid import UUID

from oban_sa import telemetry
from oban_sa.runner.queue.attempts import Attempts
from oban_sa.runner.queue.exchange import Tables
from oban_sa.runner.queue.states import Row
from oban_sa.schedule import clock
from oban_sa.sql.producers import ProducerRow

logger = logging.getLogger("oban_sa.runner")


class Registration:
    """The row by which a producer is known to live, and under which it holds its jobs.

    The heartbeat keeps it young. Where it was silent for `dead_after` seconds, other nodes delete the row and take the
    jobs that are held under it.
    """

    def __init__(
        self,
        uuid: UUID,
        *,
        queue: str,
        tables: Tables,
        attempts: Attempts,
        source: telemetry.Source,
        dead_after: float,
        settings: Callable[[], Mapping[str, object]],
    ) -> None:
        """`settings` returns what the row says of the producer beside its running jobs; it is called in any thread."""
        self.row = Row.UNWRITTEN
        self.outdated = False
        """Whether the row says something that is no longer so."""
        self._uuid = uuid
        self._queue = queue
        self._tables = tables
        self._attempts = attempts
        self._source = source
        self._dead_after = dead_after
        self._settings = settings
        self.seen_at = -math.inf
        """When the row was last known to stand, by the monotonic clock."""
        self.sure_for = dead_after / 2
        """Seconds after that in which no other node can have taken this one for dead; see `surely_there`."""
        self.renew_after = dead_after / 10
        """Seconds after that from which on it is worth while to call `seen`."""

    def values(self) -> ProducerRow:
        """Return the row, as the parameters of `oban_sa.sql.producers.register`; may be called from any thread."""
        # A row without a beat for `dead_after` seconds may be taken for that of a dead node.
        meta = {**self._settings(), "running": self._attempts.begun(), "dead_after": self._dead_after}
        return {
            "uuid": self._uuid,
            "name": self._source.name,
            "node": self._source.node,
            "queue": self._queue,
            "meta": json.dumps(meta),
        }

    async def write(self) -> None:
        """Write the row, for the first time or once more."""
        sent_at = clock.monotonic()
        self.row = self.row.send()
        self.outdated = False  # before the statement: what changes during it has to be written as well
        try:
            fresh = await self._tables.register(self.values())
        except BaseException:
            self.outdated = True
            raise
        self.row = self.row.written(fresh=fresh)
        # The row may be gone by the time the answer is heard, as where a job has blocked the loop meanwhile: until then
        # the heartbeat does not know of a new row.
        self.seen_at = sent_at

    def surely_there(self) -> bool:
        """Whether no other node can have taken this one for dead by now.

        After an outage, or when the process stood still, jobs must not be fetched under a row that is gone: were the
        node to die before its next beat, no other would look for them.
        """
        return clock.monotonic() - self.seen_at < self.sure_for

    def seen(self, at: float) -> None:
        """Take note that this node works and the database answers, so the heartbeat would have missed the row.

        `at` is when the database was asked, by the monotonic clock. A row that others may have taken for a dead node's
        by then is not saved by that: it has to be written first.
        """
        if self.surely_there():
            self.seen_at = max(self.seen_at, at)

    def doubt(self) -> None:
        """Take note that the database failed: the row is written once more before the next fetch."""
        self.seen_at = -math.inf

    def lost(self) -> None:
        """Take note that other nodes had removed the row; the heartbeat has written it again."""
        self.row = self.row.gone()

    async def recount(self) -> None:
        """Interrupt the attempts whose jobs were given to other nodes while the row was gone."""
        mine = list(self._attempts.running.items())
        self.row = self.row.recounted()  # before the question: the row may be lost once more during it
        try:
            held = await self._tables.held([job_id for job_id, _ in mine])
        except BaseException:
            self.lost()
            raise
        telemetry.emit(telemetry.ProducerLost(runner=self._source, queue=self._queue))
        gone = [each for job_id, each in mine if (job_id, each.attempt.attempted_at) not in held]
        for each in gone:
            self._attempts.lose(each)
        logger.warning(
            "queue %s was taken for dead while it lived and registers again; %d of its %d jobs were given to others",
            self._queue,
            len(gone),
            len(mine),
        )

    async def leave(self) -> None:
        """Remove the row."""
        self.row = self.row.leave()  # before the statement: the heartbeat would write the row again
        await self._tables.leave(self._uuid)
