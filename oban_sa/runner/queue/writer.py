"""Writes outcomes apart from each other, so that one that is refused or waits for a lock delays no other."""

from __future__ import annotations

import logging
import math
from typing import Final

from oban_sa.describe.exceptions import describe
from oban_sa.jobs.states import JobState
from oban_sa.runner.database.errors import is_away, is_locked, is_passing, is_refused
from oban_sa.runner.execution.outcome import Outcome
from oban_sa.runner.queue.acker import BATCH, Acker
from oban_sa.runner.queue.exchange import Tables
from oban_sa.runner.queue.refused import instead_of
from oban_sa.schedule import clock

logger = logging.getLogger("oban_sa.runner")

ASIDE_EVERY: Final = 1.0
"""Seconds between looks whether the rows of outcomes that were set aside are still locked."""


class Writer:
    """Writes what the acker of a queue has gathered, without a fetch, after one statement for all of it failed."""

    def __init__(self, queue: str, acker: Acker, tables: Tables) -> None:
        self.look_at = math.inf
        """When `look_aside` is due, by the monotonic clock; infinite where nothing is set aside."""
        self._queue = queue
        self._acker = acker
        self._tables = tables

    async def past_locks(self) -> bool:
        """Set aside the outcomes whose rows are locked, and write the others; whether any was set aside.

        Never raises an `Exception`: where the whole table is locked, all is tried again later.
        """
        try:
            found = self._acker.set_aside(await self._tables.locked(self._acker.ids()))
            for outcome in found:
                logger.warning(
                    "somebody holds a lock on the row of job %d; its outcome (%s) is written once that is gone",
                    outcome.verdict.job_id,
                    outcome.verdict.state,
                )
            self._looked()
            if len(self._acker):
                # Without a fetch, whose lock on this producer's row may be what has to be waited for.
                await self.write(self._acker.take())
        except Exception as error:
            self._acker.failed(perhaps_written=is_away(error))
            return False
        return bool(found)

    async def look_aside(self) -> None:
        """Bring back the outcomes whose rows are no longer locked."""
        aside = self._acker.aside
        if aside:
            locked = await self._tables.locked(aside)
            self._acker.bring_back(job_id for job_id in aside if job_id not in locked)
            self._looked()

    def _looked(self) -> None:
        self.look_at = clock.monotonic() + ASIDE_EVERY if self._acker.aside else math.inf

    async def look_again(self) -> None:
        """Find out why the fence refused some outcomes.

        The fence compares `attempted_at` with the moment of the fetch. Where the heartbeat has written another moment,
        to keep the job young, the true one is restored and the outcome is written after all. Where the job was set
        cancelled meanwhile, the error of the attempt is kept. All others come too late.
        """
        while self._acker.refused:
            outcome = self._acker.refused[0]
            again = noted = False
            try:
                again = await self._tables.revert(outcome.verdict)
                if not again and outcome.verdict.error is not None:
                    noted = await self._tables.note(outcome.verdict)
            except Exception as error:
                if is_locked(error):
                    self._acker.put_aside(self._acker.refused.popleft())
                    self._looked()
                    continue
                if is_passing(error):
                    raise
                logger.error("the outcome of job %d can't be noted: %s", outcome.verdict.job_id, describe(error))
            self._acker.refused.popleft()
            if again:
                self._acker.add(outcome)
            elif not noted or outcome.verdict.state is not JobState.CANCELLED:
                self._acker.let_go(outcome)

    async def write(self, outcomes: tuple[Outcome, ...]) -> None:
        """Write outcomes that were taken from the acker, and fetch nothing."""
        started = clock.monotonic()
        acked, _ = await self._tables.exchange(outcomes, 0)
        self._acker.written(acked, duration=clock.monotonic() - started)

    async def one_by_one(self, error: Exception) -> None:
        """Write outcomes one at a time after a batch was refused with `error`."""
        if not is_refused(error):  # each job that a rule of the application refuses is reported below
            logger.error("outcomes of queue %s were refused together: %s", self._queue, describe(error), exc_info=error)
        for _ in range(min(len(self._acker), BATCH)):
            outcome = self._acker.take(1)
            try:
                await self.write(outcome)
            except Exception as refused:
                self._acker.failed(perhaps_written=is_away(refused))
                if is_passing(refused):
                    raise
                instead = instead_of(outcome[0], refused)
                if instead is None:
                    self._acker.drop_first()
                    logger.error("the outcome of job %d can't be written at all", outcome[0].verdict.job_id)
                else:
                    self._tell(outcome[0], instead, refused)
                    self._acker.replace_first(instead)

    def _tell(self, outcome: Outcome, instead: Outcome, refused: Exception) -> None:
        before, after = outcome.verdict.state, instead.verdict.state
        if before is not after:
            logger.warning(
                "the database refused to make job %d %s, and it becomes %s: %s",
                outcome.verdict.job_id,
                before,
                after,
                describe(refused),
            )
