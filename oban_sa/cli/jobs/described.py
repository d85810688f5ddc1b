"""A job as JSON and as words, for whichever command shows one."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

from oban_sa.cli._printing import ago, span
from oban_sa.models import Job
from oban_sa.sql.keeping import BEGAN
from oban_sa.states import JobState

MOMENTS: Final = (
    "inserted_at",
    "scheduled_at",
    "attempted_at",
    "completed_at",
    "cancelled_at",
    "discarded_at",
)


def described(job: Job) -> dict[str, Any]:
    """A job as JSON: every column, by its name."""
    return {
        "id": job.id,
        "state": job.state.value,
        "queue": job.queue,
        "worker": job.worker,
        "args": job.args,
        "meta": job.meta,
        "tags": job.tags,
        "errors": job.errors,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "priority": job.priority,
        "attempted_by": job.attempted_by,
        **{name: getattr(job, name) for name in MOMENTS},
    }


def when(job: Job, now: datetime) -> str:
    """What one wants to know first about a job in its state."""
    match job.state:
        case JobState.COMPLETED:
            return ago(job.completed_at, now)
        case JobState.CANCELLED:
            return ago(job.cancelled_at, now)
        case JobState.DISCARDED:
            return ago(job.discarded_at, now)
        case JobState.EXECUTING if job.attempted_at is not None:
            return f"for {span((now - (_began_at(job) or job.attempted_at)).total_seconds())}"
        case JobState.SCHEDULED | JobState.RETRYABLE | JobState.AVAILABLE:
            return ago(job.scheduled_at, now)
        case _:
            return ago(job.inserted_at, now)


def _began_at(job: Job) -> datetime | None:
    """The true start of an attempt that is kept young, as its meta has it."""
    match job.meta.get(BEGAN):
        case {"attempt": job.attempt, "at": str(at)}:
            with suppress(ValueError):
                return datetime.fromisoformat(at).replace(tzinfo=UTC)
        case _:
            pass
    return None
