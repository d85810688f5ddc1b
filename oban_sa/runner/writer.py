"""Writes outcomes that hinder each other: what is refused, and what waits for a lock, holds up no other."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Final

from oban_sa import clock
from oban_sa.failures import describe
from oban_sa.runner.acker import BATCH, Acker, Outcome
from oban_sa.runner.disconnects import is_away, is_locked, is_passing, is_refused
from oban_sa.runner.refused import instead_of
from oban_sa.runner.tables import Tables
from oban_sa.states import JobState

logger = logging.getLogger("oban_sa.runner")

ASIDE_EVERY: Final = 1.0
"""Seconds between looks at the rows whose outcomes were set aside, since somebody holds locks on them."""


class Writer:
    """Writes what the acker of a queue has gathered, without a fetch, after a statement for all of it had failed."""

    def __init__(self, queue: str, acker: Acker, tables: Tables, *, due_in: Callable[[float], None]) -> None:
        """`due_in` is told after how many seconds a job is due again."""
        self._queue = queue
        self._acker = acker
        self._tables = tables
        self._due_in = due_in
        self._looked_at = 0.0

    @property
    def look_at(self) -> float:
        """When the outcomes that were set aside are looked at again, by the monotonic clock; never without any."""
        return self._looked_at + ASIDE_EVERY if self._acker.aside else math.inf

    async def past_locks(self) -> bool:
        """Write what no lock stands in the way of, and set the rest aside; whether any outcome was set aside.

        Never raises: where the whole table is locked, all is tried again later.
        """
        try:
            found = self._acker.set_aside(await self._tables.locked(self._acker.ids()))
            for outcome in found:
                logger.warning(
                    "somebody holds a lock on the row of job %d; its outcome (%s) is written once that is gone",
                    outcome.verdict.job_id,
                    outcome.verdict.state,
                )
            self._looked_at = clock.monotonic()
            if len(self._acker):
                # Without a fetch, whose lock on this producer's row may be what has to be waited for.
                await self.write(self._acker.take())
        except Exception as error:
            self._acker.failed(perhaps_written=is_away(error))
            return False
        return bool(found)

    async def look_aside(self) -> None:
        """Bring back the outcomes whose rows nobody holds a lock on any more."""
        aside = self._acker.aside
        if aside:
            locked = await self._tables.locked(aside)
            self._acker.bring_back(job_id for job_id in aside if job_id not in locked)
            self._looked_at = clock.monotonic()

    async def look_again(self) -> None:
        """Look once more at outcomes that the fence refused.

        The fence asks for the moment of the fetch. Where the heartbeat has written another one, to keep the job young,
        that is put right, and the outcome is written after all. Where somebody has set the job cancelled meanwhile, the
        error of the attempt is kept.
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
                    self._looked_at = clock.monotonic()
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
        """Write outcomes that were taken, and fetch nothing."""
        started = clock.monotonic()
        acked, _ = await self._tables.exchange(outcomes, 0)
        self._acker.written(acked, duration=clock.monotonic() - started)
        self.expect(outcomes)

    async def one_by_one(self, error: Exception) -> None:
        """Write outcomes singly after a batch was refused, so that one bad outcome holds up no other."""
        if not is_refused(error):  # of what a rule of the application's refuses, each job is told below
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

    def expect(self, written: tuple[Outcome, ...]) -> None:
        """Say when the first of the jobs is due again."""
        delays = [outcome.verdict.delay for outcome in written if outcome.verdict.delay is not None]
        if delays:
            self._due_in(min(delays))
