"""What an attempt ended with: the verdict about it."""

from __future__ import annotations

from typing import NamedTuple

from oban_sa import telemetry
from oban_sa.jobs.states import JobState
from oban_sa.jobs.verdicts import Verdict
from oban_sa.models import Job
from oban_sa.runner.execution.attempt import Interrupted, Running


class Outcome(NamedTuple):
    """A verdict and the attempt that it is about.

    `replaced` counts how often the database refused it and less was said; `perhaps_written` where it never answered.
    """

    attempt: Running
    verdict: Verdict
    replaced: int = 0
    perhaps_written: bool = False


def report_refused(source: telemetry.Source, outcome: Outcome) -> None:
    """Say that the fence refused an outcome, unless its attempt was told so while it ran, which is reported."""
    if outcome.attempt.interrupted is not Interrupted.LOST:
        report_stale(source, outcome.attempt.job, outcome.verdict.state)


def report_stale(source: telemetry.Source, job: Job, state: JobState) -> None:
    """Say that an outcome came too late and changed nothing."""
    telemetry.emit(telemetry.JobStale.of(source, job, state=state))
