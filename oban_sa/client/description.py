"""A job as JSON and in words, for all commands that show one."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from oban_sa.describe.spans import ago, span
from oban_sa.jobs import redaction
from oban_sa.jobs.states import JobState
from oban_sa.models import Job
from oban_sa.sql.attempt_age import BEGAN

MOMENTS: Final = (
    "inserted_at",
    "scheduled_at",
    "attempted_at",
    "completed_at",
    "cancelled_at",
    "discarded_at",
)


def job_as_json(job: Job) -> dict[str, object]:
    """Return every column of a job, by its name."""
    return {
        "id": job.id,
        "state": job.state.value,
        "queue": job.queue,
        "worker": job.worker,
        "args": redaction.args(job.args, job.meta),
        "meta": job.meta,
        "tags": job.tags,
        "errors": redaction.errors(job.errors, job.args, job.meta),
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "priority": job.priority,
        "attempted_by": job.attempted_by,
        **{name: getattr(job, name) for name in MOMENTS},
    }


def when(job: Job, now: datetime) -> str:
    """Say when a job ended, began or is due, whichever matters in its state: "3 min 20 s ago", "in 2 h", "for 4 s"."""
    match job.state:
        case JobState.COMPLETED:
            return ago(job.completed_at, now)
        case JobState.CANCELLED:
            return ago(job.cancelled_at, now)
        case JobState.DISCARDED:
            return ago(job.discarded_at, now)
        case JobState.EXECUTING if job.attempted_at is not None:
            return f"for {span((now - (began_at(job) or job.attempted_at)).total_seconds())}"
        case JobState.SCHEDULED | JobState.RETRYABLE | JobState.AVAILABLE:
            return ago(job.scheduled_at, now)
        case _:
            return ago(job.inserted_at, now)


def began_at(job: Job) -> datetime | None:
    """Return when the attempt began, from its meta: the runner moves `attempted_at` of long attempts forward."""
    match job.meta.get(BEGAN):
        case {"attempt": job.attempt, "at": str(at)}:
            with suppress(ValueError):
                return datetime.fromisoformat(at).replace(tzinfo=UTC)
        case _:
            pass
    return None
