"""Outcomes of one producer's attempts, kept until they are written or turn out to have come too late."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Container, Iterable

from oban_sa import telemetry
from oban_sa.describe.exceptions import describe
from oban_sa.jobs.verdicts import Verdict
from oban_sa.runner.cluster.attempt_age import Written
from oban_sa.runner.database.errors import is_away, is_locked
from oban_sa.runner.execution.outcome import Outcome, report_refused
from oban_sa.telemetry.handlers import listeners

logger = logging.getLogger("oban_sa.runner")

BATCH = 500
"""Outcomes per statement; nothing is gained past 200, and a failed statement is not too large to repeat."""


class Acker:
    """Gathers outcomes in order; the producer writes them, together with its next fetch if there is one.

    An outcome whose statement failed stays in front, and is written again until the database has answered either that
    it is written or that the attempt no longer holds the job. One whose row is locked by another transaction is set
    aside, so that the others need not wait.
    """

    def __init__(
        self,
        *,
        source: telemetry.Source,
        queue: str,
        young: Written | None = None,
        due_in: Callable[[float], None] = lambda _: None,
    ) -> None:
        """`young` knows which attempts were kept young; `due_in` is told after how many seconds a job is due again."""
        self._source = source
        self._queue = queue
        self._young = young
        self._due_in = due_in
        self.refused: deque[Outcome] = deque()
        """Outcomes that the fence refused and that have to be examined; see `Writer.look_again`."""
        self._waiting: deque[Outcome] = deque()
        self._writing: tuple[Outcome, ...] = ()
        self._aside: dict[int, Outcome] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._writing) + len(self.refused)

    def add(self, outcome: Outcome) -> None:
        """Keep an outcome until it is written."""
        self._waiting.append(outcome)

    def ids(self) -> list[int]:
        """The jobs whose outcomes are not written yet."""
        return [verdict.job_id for verdict in self.verdicts()]

    def verdicts(self) -> list[Verdict]:
        """The verdicts that are not written yet."""
        kept = (*self._writing, *self._waiting, *self._aside.values(), *self.refused)
        return [outcome.verdict for outcome in kept]

    @property
    def aside(self) -> list[int]:
        """The jobs whose outcomes are set aside."""
        return list(self._aside)

    def set_aside(self, ids: Container[int]) -> list[Outcome]:
        """Set aside the outcomes of some jobs, and return them."""
        found = [outcome for outcome in self._waiting if outcome.verdict.job_id in ids]
        for outcome in found:
            self._waiting.remove(outcome)
            self._aside[outcome.verdict.job_id] = outcome
        return found

    def put_aside(self, outcome: Outcome) -> None:
        """Set aside an outcome that was refused and whose row is locked."""
        self._aside[outcome.verdict.job_id] = outcome

    def bring_back(self, ids: Iterable[int]) -> None:
        """Gather again some of the outcomes that were set aside."""
        self._waiting.extend(self._aside.pop(job_id) for job_id in ids)

    def take(self, limit: int = BATCH) -> tuple[Outcome, ...]:
        """Return the oldest outcomes, to be written; the caller then calls `written` or `failed`."""
        if len(self._waiting) <= limit:
            self._writing = tuple(self._waiting)
            self._waiting.clear()
        else:
            self._writing = tuple(self._waiting.popleft() for _ in range(limit))
        return self._writing

    def failed(self, *, perhaps_written: bool) -> None:
        """Put back what was taken, in front; it was `perhaps_written` where only the answer may have been lost."""
        again = [outcome._replace(perhaps_written=True) if perhaps_written else outcome for outcome in self._writing]
        self._waiting.extendleft(reversed(again))
        self._writing = ()

    def replace_first(self, outcome: Outcome) -> None:
        """Replace the outcome in front."""
        self._waiting[0] = outcome

    def drop_first(self) -> None:
        """Forget the outcome in front."""
        self._waiting.popleft()

    def written(self, acked: Iterable[int], *, duration: float) -> None:
        """Forget what was taken; outcomes that were not `acked` had lost their jobs, and are reported as stale.

        One that may have been written before is not reported: it may come too late for its own first writing. One that
        has an error to keep, or whose job was kept young, joins the `refused`.
        """
        taken, self._writing = self._writing, ()
        known = set(acked)
        missing = [each for each in taken if each.verdict.job_id not in known]
        stale = [each for each in missing if not each.perhaps_written]
        if listeners[telemetry.ProducerAck]:
            telemetry.emit(
                telemetry.ProducerAck(
                    runner=self._source, queue=self._queue, count=len(taken), stale=len(stale), duration=duration
                )
            )
        if delays := [each.verdict.delay for each in taken if each.verdict.delay is not None]:
            self._due_in(min(delays))
        for outcome in missing:
            if outcome.verdict.error is not None or (self._young is not None and self._young.of(outcome.verdict)):
                self.refused.append(outcome)
            else:
                self.let_go(outcome)

    def let_go(self, outcome: Outcome) -> None:
        """Report an outcome as stale, unless it may have been written before."""
        if not outcome.perhaps_written:
            report_refused(self._source, outcome)


def report_retry(source: telemetry.Source, queue: str, error: Exception, *, failures: int, retry_in: float) -> None:
    """Report that a queue's statement failed, `failures` times in a row, and is tried again in `retry_in` seconds."""
    telemetry.emit(
        telemetry.RunnerRetry(
            runner=source,
            part=f"queue {queue}",
            attempt=failures,
            retry_in=retry_in,
            error=error,
            database_away=is_away(error),
        )
    )
    if failures == 1 and is_locked(error):
        logger.warning("queue %s waits for a lock that somebody holds, and tries again", queue)
    elif failures == 1 and not is_away(error):
        logger.error("queue %s failed and tries again: %s", queue, describe(error), exc_info=error)
