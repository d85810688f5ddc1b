"""Deadlines: a job that was not begun in time is cancelled before its code runs.

A deadline is a span from the moment at which a job is scheduled. Before the first attempt that is the row's own
`scheduled_at`. An attempt that fails or snoozes moves that, and so writes the deadline itself beside the span.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from oban_sa.errors import InvalidOption
from oban_sa.jobs.states import JobState
from oban_sa.jobs.verdicts import Verdict
from oban_sa.schedule import periods

SPAN: Final = "deadline"
"""The key of a job's meta that has seconds from the moment at which the job is scheduled."""

AT: Final = "deadline_at"
"""The key that has the moment, as text, once `scheduled_at` is another; null where the job has ended."""


def seconds(given: object) -> float | None:
    """Accept a deadline, a span of time that is not empty, or None; raises `InvalidOption`."""
    if given is None:
        return None
    try:
        span = periods.seconds(given)  # type: ignore[arg-type]
    except InvalidOption as error:
        raise type(error)(f"deadline: {error}") from None
    if not span:
        raise InvalidOption('deadline of 0 would let no job start; write how late one may start, such as "1 hour"')
    return span


def of(meta: Mapping[str, object], scheduled_at: datetime) -> datetime | None:
    """Return until when a job may begin, or None where it has no deadline, or one that another program spoiled."""
    span, at = meta.get(SPAN), meta.get(AT)
    try:
        if isinstance(at, str):
            found = datetime.fromisoformat(at)
            return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
        if isinstance(span, (int, float)) and not isinstance(span, bool):
            return scheduled_at + timedelta(seconds=span)
    except (ValueError, OverflowError):
        pass
    return None


def missed(meta: Mapping[str, object], *, scheduled_at: datetime, attempted_at: datetime | None) -> str | None:
    """Return the words for a job whose attempt began after its deadline; None for one in time.

    Both moments are the row's own, by the database's clock.
    """
    if SPAN not in meta or attempted_at is None:
        return None
    until = of(meta, scheduled_at)
    if until is None or attempted_at <= until:
        return None
    late = periods.describe((attempted_at - until).total_seconds())
    return f"its deadline passed at {until.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC, {late} before it could begin"


def kept(verdict: Verdict, meta: Mapping[str, object], scheduled_at: datetime) -> Verdict:
    """Return the verdict on an attempt, with the deadline where the job is to run again.

    A job that has ended keeps none: retried by hand, its span counts anew.
    """
    if verdict.state is JobState.COMPLETED:
        return verdict
    if verdict.state in (JobState.CANCELLED, JobState.DISCARDED):
        return verdict._replace(meta={**(verdict.meta or {}), AT: None}) if meta.get(AT) else verdict
    until = of(meta, scheduled_at)
    if until is None or meta.get(AT) or verdict.delay is None:
        return verdict
    return verdict._replace(meta={**(verdict.meta or {}), AT: until.isoformat()})
