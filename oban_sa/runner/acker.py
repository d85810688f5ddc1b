"""Outcomes of one producer's attempts, kept until they are written or found to have come too late."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Container, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from oban_sa import telemetry, values
from oban_sa.failures import describe
from oban_sa.models import Job
from oban_sa.runner.disconnects import is_away, is_locked
from oban_sa.runner.young import Written
from oban_sa.states import JobState
from oban_sa.verdicts import Verdict

logger = logging.getLogger("oban_sa.runner")

BATCH = 500
"""Outcomes per statement; nothing is gained past 200, and a failed statement is not too large to repeat."""


class Outcome(NamedTuple):
    """A verdict and the job it is about.

    `replaced` counts how often the database refused it and less was said; `perhaps_written` where it never answered.
    """

    job: Job
    verdict: Verdict
    replaced: int = 0
    perhaps_written: bool = False


class Acker:
    """Gathers outcomes in order; the producer writes them, together with its next fetch where it has one.

    An outcome whose statement failed stays at the front and is written again until the database has said either that
    it is written or that the attempt no longer holds the job.
    """

    def __init__(self, *, source: telemetry.Source, queue: str, young: Written | None = None) -> None:
        """`young` knows which attempts were kept young."""
        self._source = source
        self._queue = queue
        self._young = young
        self.refused: deque[Outcome] = deque()
        """Outcomes that the fence refused, and that are to be looked at once more."""
        self._waiting: deque[Outcome] = deque()
        self._writing: tuple[Outcome, ...] = ()
        self._aside: dict[int, Outcome] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._writing) + len(self.refused)

    def add(self, outcome: Outcome) -> None:
        """Keep an outcome until it is written."""
        self._waiting.append(outcome)

    def ids(self) -> list[int]:
        """The jobs whose outcome is not written yet."""
        return [verdict.job_id for verdict in self.verdicts()]

    def verdicts(self) -> list[Verdict]:
        """What is not written yet."""
        kept = (*self._writing, *self._waiting, *self._aside.values(), *self.refused)
        return [outcome.verdict for outcome in kept]

    @property
    def aside(self) -> list[int]:
        """The jobs whose outcome was set aside, which no other has to wait for."""
        return list(self._aside)

    def set_aside(self, ids: Container[int]) -> list[Outcome]:
        """Set aside those outcomes that are about some jobs; returns them."""
        found = [outcome for outcome in self._waiting if outcome.verdict.job_id in ids]
        for outcome in found:
            self._waiting.remove(outcome)
            self._aside[outcome.verdict.job_id] = outcome
        return found

    def put_aside(self, outcome: Outcome) -> None:
        """Set aside one that was refused, whose row somebody holds a lock on."""
        self._aside[outcome.verdict.job_id] = outcome

    def bring_back(self, ids: Iterable[int]) -> None:
        """Write some of those that were set aside after all."""
        self._waiting.extend(self._aside.pop(job_id) for job_id in ids)

    def take(self, limit: int = BATCH) -> tuple[Outcome, ...]:
        """Begin to write the oldest outcomes; ends with `written` or `failed`."""
        count = min(limit, len(self._waiting))
        self._writing = tuple(self._waiting.popleft() for _ in range(count))
        return self._writing

    def failed(self, *, perhaps_written: bool) -> None:
        """Put what was taken back in its place; `perhaps_written` where only the answer may have been lost."""
        again = [outcome._replace(perhaps_written=True) if perhaps_written else outcome for outcome in self._writing]
        self._waiting.extendleft(reversed(again))
        self._writing = ()

    def replace_first(self, outcome: Outcome) -> None:
        """Say something else about the job at the front."""
        self._waiting[0] = outcome

    def drop_first(self) -> None:
        """Give up the outcome at the front."""
        self._waiting.popleft()

    def written(self, acked: Iterable[int], *, duration: float) -> None:
        """Let go of what was taken; those not `acked` had lost their job to another attempt, and are reported.

        Not those that may have been written before: it is then their own first writing that they come too late for.
        Those of which more has to be known first are `refused`.
        """
        taken, self._writing = self._writing, ()
        known = set(acked)
        missing = [each for each in taken if each.verdict.job_id not in known]
        stale = [each for each in missing if not each.perhaps_written]
        if telemetry.listening(telemetry.ProducerAck):
            telemetry.emit(
                telemetry.ProducerAck(
                    runner=self._source, queue=self._queue, count=len(taken), stale=len(stale), duration=duration
                )
            )
        for outcome in missing:
            if outcome.verdict.error is not None or (self._young is not None and self._young.of(outcome.verdict)):
                self.refused.append(outcome)
            else:
                self.let_go(outcome)

    def let_go(self, outcome: Outcome) -> None:
        """Report an outcome that came too late, unless it may have been written before."""
        if not outcome.perhaps_written:
            report_stale(self._source, outcome.job, outcome.verdict.state)


def report_stale(source: telemetry.Source, job: Job, state: JobState) -> None:
    """Say that an outcome came too late and changed nothing."""
    telemetry.emit(telemetry.JobStale.of(source, job, state=state))


def report_retry(source: telemetry.Source, queue: str, error: Exception, *, failures: int, retry_in: float) -> None:
    """Say that what a queue writes and fetches failed, for so many times in a row, and is tried again."""
    telemetry.emit(
        telemetry.RunnerRetry(runner=source, part=f"queue {queue}", attempt=failures, retry_in=retry_in, error=error)
    )
    if failures == 1 and is_locked(error):
        logger.warning("queue %s waits for a lock that somebody holds, and tries again", queue)
    elif failures == 1 and not is_away(error):
        logger.error("queue %s failed and tries again: %s", queue, describe(error), exc_info=error)


def as_arrays(outcomes: Sequence[Outcome]) -> dict[str, list[Any]]:
    """The parameters of `oban_sa.sql.acking.acking`, one array for each thing that is said."""
    verdicts = [outcome.verdict for outcome in outcomes]
    return {
        "ids": [verdict.job_id for verdict in verdicts],
        "attempts": [verdict.attempt for verdict in verdicts],
        "states": [verdict.state.value for verdict in verdicts],
        "delays": [verdict.delay for verdict in verdicts],
        "errors": [verdict.error for verdict in verdicts],
        "metas": [None if verdict.meta is None else values.dumps(verdict.meta) for verdict in verdicts],
        "refunds": [verdict.refund for verdict in verdicts],
        "attempted_ats": [verdict.attempted_at for verdict in verdicts],
    }


def as_completed(outcomes: Sequence[Outcome]) -> dict[str, list[Any]]:
    """The parameters of `oban_sa.sql.acking.completing_and_fetching` that are about the attempts."""
    ids: list[int] = []
    fences: list[int] = []
    attempts: list[int] = []
    moments: list[datetime | None] = []
    attempt, moment = 0, None
    for outcome in outcomes:
        verdict = outcome.verdict
        # By identity: attempts that were fetched at once share the object.
        if verdict.attempted_at is not moment or verdict.attempt != attempt or not moments:
            attempt, moment = verdict.attempt, verdict.attempted_at
            attempts.append(attempt)
            moments.append(None if moment is None else moment.astimezone(UTC).replace(tzinfo=None))
        ids.append(verdict.job_id)
        fences.append(len(moments))
    return {"ids": ids, "fences": fences, "fence_attempts": attempts, "fence_moments": moments}
