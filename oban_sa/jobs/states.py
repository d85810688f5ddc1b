"""The states of a job, shared with the whole Oban family."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class JobState(StrEnum):
    """Where a job stands in its life; the value is the label of the enum `oban_job_state`."""

    AVAILABLE = "available"
    SUSPENDED = "suspended"
    SCHEDULED = "scheduled"
    EXECUTING = "executing"
    RETRYABLE = "retryable"
    COMPLETED = "completed"
    DISCARDED = "discarded"
    CANCELLED = "cancelled"


FINAL: Final = frozenset({JobState.COMPLETED, JobState.DISCARDED, JobState.CANCELLED})
"""States that a job leaves only when a retry is asked for."""

STAGEABLE: Final = frozenset({JobState.SCHEDULED, JobState.RETRYABLE})
"""States that become `available` once `scheduled_at` has come."""
