"""Options by the names that other queues have for them: a message says ours."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from oban_sa.errors import nearest

_LATER: Final = "countdown defer defer_by delay delay_seconds enqueue_in in_seconds run_in start_in wait"
_AT: Final = "at defer_until enqueue_at eta run_at scheduled_for scheduled_time start_at wait_until when"
_TRIES: Final = "attempts max_retries max_tries n_retries retries retry retry_limit tries"
_WAIT: Final = "default_retry_delay max_backoff min_backoff retry_backoff retry_delay retry_policy"
_LIMIT: Final = "job_timeout soft_time_limit task_time_limit time_limit timeout_seconds"
_QUEUE: Final = "queue_name queue_id routing_key"
_DATA: Final = "headers labels metadata"
_ENDS: Final = "expire expires expires_in expires_at max_age ttl"
_EVERY: Final = "crontab every periodic"

_OURS: Final[dict[str, str]] = {
    **dict.fromkeys(_LATER.split(), "schedule_in"),
    **dict.fromkeys(_AT.split(), "scheduled_at"),
    **dict.fromkeys(_TRIES.split(), "max_attempts"),
    **dict.fromkeys(_WAIT.split(), "backoff"),
    **dict.fromkeys(_LIMIT.split(), "timeout"),
    **dict.fromkeys(_QUEUE.split(), "queue"),
    **dict.fromkeys(_DATA.split(), "meta"),
    **dict.fromkeys(_EVERY.split(), "cron"),
}

_SAID: Final[dict[str, str]] = {
    "schedule_in": "schedule_in=60 or scheduled_at=datetime(..., tzinfo=UTC)",
    "scheduled_at": "scheduled_at=datetime(..., tzinfo=UTC) or schedule_in=60",
    "max_attempts": "max_attempts, which counts the first attempt too",
    "backoff": "backoff, the seconds until the next attempt or a function that says them",
    "timeout": "timeout, the seconds that an attempt may take",
    "cron": 'cron, as in cron="*/5 * * * *"',
}


def is_borrowed(name: str) -> bool:
    """Whether another queue has an option of this name, which here is another's or none."""
    return name in _OURS or name in _ENDS.split()


def instead(name: str, choices: Collection[str], *, elsewhere: Iterable[str] = (), where: str = "") -> str:
    """Say what to write in place of an option that is unknown, or nothing where nothing is near.

    `choices` are the options that could stand there; `elsewhere` are others, which stand at the place called `where`.
    """
    if name in _ENDS.split():
        return (
            "; jobs don't expire: return Cancel(...) where datetime.now(UTC) - job.inserted_at is too long, "
            "and timeout limits how long an attempt takes"
        )
    ours = _OURS.get(name, "")
    if ours in choices:
        return f"; write {_SAID.get(ours, ours)}"
    if ours in set(elsewhere):
        return f"; write {_SAID.get(ours, ours)}, {where}"
    return nearest(name, choices)
